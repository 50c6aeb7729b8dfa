"""metrics.jsonl: what a run appends, and what a full disk does to it."""

import json
from pathlib import Path

import pytest
from full_disk import largest_file

from hierasurg_core.errors import ResourceError
from hierasurg_core.training.metrics import MetricsFile


def test_lines_are_readable_at_once_and_later_ones_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (1, 2, 3):
        file.write({"step": step, "loss": 0.5})
        assert path.read_text().splitlines()[-1] == f'{{"step": {step}, "loss": 0.5}}'
    file.close()
    with path.open("a") as torn:
        torn.write('{"step": 4, "lo')
    MetricsFile(path, 2).close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_full_disk_is_named_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write({"step": 1})
    with largest_file(path.stat().st_size):
        with pytest.raises(ResourceError, match=f"cannot write {path}: larger than a file may be here"):
            file.write({"step": 2})
        file.close()
    again = MetricsFile(path, 1)
    again.write({"step": 2})
    again.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
