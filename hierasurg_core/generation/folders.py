"""The layout of a pipeline folder: `model_index.json` beside `s2m/`, `m2v/`, `vae/` and `scheduler/`.

Owns where a part lies; what the index says is `models.defaults`' affair. It reads no weights and imports
nothing that an index names.
"""

from pathlib import Path

from hierasurg_core.errors import WeightsError


def part_folder(folder: Path, name: str) -> Path:
    """Returns a part of a pipeline folder.

    Raises:
        WeightsError: It is not there; the message names it.
    """
    file = "scheduler_config.json" if name == "scheduler" else "config.json"
    if not (folder / name / file).is_file():
        raise WeightsError(f"the pipeline {folder} lacks its part {name}: {name}/{file} is not there")
    return folder / name
