from pathlib import Path

import pytest

from hierasurg_core.errors import UsageError
from hierasurg_core.generation.entries import Entry, read_entries

KEYS = ("phase", "triplet", "seed")


def read(folder: Path, name: str, text: str) -> list[Entry]:
    file = folder / name
    file.write_text(text)
    return read_entries(file, section="requests", keys=KEYS)[1]


def test_yaml_with_and_without_a_section(tmp_path: Path):
    plain = read(tmp_path, "a.yaml", "- phase: calot\n  seed: 3\n# nothing\n- {phase: 1, triplet: [1, 2]}\n")
    assert [entry.line for entry in plain] == [1, 4]
    assert plain[0].values == {"phase": "calot", "seed": "3"}
    assert plain[1].values == {"phase": "1", "triplet": ("1", "2")}
    below = read(tmp_path, "b.yml", "requests:\n  - phase: calot\n    seed:\n")
    assert (below[0].line, below[0].values) == (2, {"phase": "calot"})
    assert read(tmp_path, "c.json", '[{"phase": "calot", "seed": 3}]')[0].text("seed") == "3"


def test_csv_counts_lines_and_leaves_out_what_is_empty(tmp_path: Path):
    entries = read(tmp_path, "a.csv", 'phase,triplet\ncalot,"hook,dissect,gallbladder"\n\n,17\n')
    assert [entry.line for entry in entries] == [2, 4]
    assert entries[0].values == {"phase": "calot", "triplet": "hook,dissect,gallbladder"}
    assert entries[1].values == {"triplet": "17"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.yaml",
            "- phase: calot\n  sed: 3\n",
            r"a\.yaml, line 2: unknown key 'sed' \(did you mean 'seed'\?\)",
        ),
        ("a.yaml", "- phase: a\n  phase: b\n", r"line 2: 'phase' is given twice"),
        ("a.yaml", "- calot\n", r"line 1: one of the requests must be 'key: value'"),
        ("a.yaml", "- phase: {a: b}\n", r"line 1: phase must be a value or a list"),
        ("a.yaml", "phases:\n- a\n", r"line 1: unknown key 'phases'"),
        ("a.yaml", "requests: 3\n", "holds no list of requests"),
        ("a.yaml", "", "holds no list of requests"),
        ("a.yaml", "[]", "holds no requests"),
        ("a.yaml", "- [", "is no YAML"),
        ("a.csv", "phase,sed\n", r"a\.csv, line 1: unknown key 'sed'"),
        ("a.csv", "phase,phase\n", "the column 'phase' is given twice"),
        ("a.csv", "phase,triplet\ncalot,hook,dissect\n", "line 2: 3 values for 2 columns; .* needs quotes"),
        ("a.csv", 'phase\n"calot\n', "line 2: unexpected end of data"),
        ("a.csv", "phase\n", "holds no requests"),
        ("a.txt", "phase\n", r"must end in \.yaml, \.yml, \.json or \.csv"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, name, text)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.csv"):
        read_entries(tmp_path / "none.csv", section="requests", keys=KEYS)
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_entries(tmp_path / "a.csv", section="requests", keys=KEYS)


def test_a_list_where_one_value_belongs(tmp_path: Path):
    entry = read(tmp_path, "a.yaml", "- phase: [1, 2]\n")[0]
    with pytest.raises(UsageError, match="line 1: phase is a list"):
        entry.text("phase")
