"""Where the files of a model lie in a folder.

Owns the places: of a transformer, and of what lies beside it. Reads no weights and loads no torch, so a
folder can be checked before anything else happens.
"""

from __future__ import annotations

import re
from pathlib import Path

from hierasurg_core.errors import WeightsError

CONFIG_FILE = "config.json"


def find_transformer(folder: Path) -> Path:
    """Return the folder with the transformer's `config.json`, as `load_transformer` looks for it.

    Raises:
        WeightsError: there is none; a pipeline folder is told to name its part.
    """
    expect_folder(folder)
    candidates = [folder, folder / "transformer"]
    for checkpoint in _checkpoints(folder):
        candidates += [checkpoint, checkpoint / "transformer"]
    for candidate in candidates:
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    parts = [name for name in ("s2m", "m2v") if (folder / name / CONFIG_FILE).is_file()]
    if parts:
        raise WeightsError(
            f"{folder} is a whole pipeline: name one transformer of it, as {folder / parts[0]}"
        )
    raise WeightsError(
        f"{folder} holds no transformer: no {CONFIG_FILE} in it, in transformer/ or in a checkpoint-STEP/"
    )


def find_beside(part: Path, file: str) -> Path | None:
    """Return a file that lies with a transformer, None where there is none.

    Args:
        part: the folder with the transformer's `config.json`.
        file: looked for in it, in the folder that holds `transformer/`, and above a `checkpoint-STEP/`.
    """
    around = [part]
    if part.name == "transformer":
        around.append(part.parent)
    if around[-1].name.startswith("checkpoint-"):
        around.append(around[-1].parent)
    return next((place / file for place in around if (place / file).is_file()), None)


def expect_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        WeightsError: it is missing, or a file.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder: give the folder of a model")


def _checkpoints(folder: Path) -> list[Path]:
    """Return the `checkpoint-STEP` folders, newest (highest step) first."""
    steps = [
        (re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.iterdir() if path.is_dir()
    ]
    return [path for _, path in sorted(((int(m[1]), path) for m, path in steps if m), reverse=True)]
