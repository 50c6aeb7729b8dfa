"""Paths, names, numbers and combinations are refused before torch is loaded: here it cannot be.

One process in which `import torch` fails runs all command lines, one after the other.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENES = Path(__file__).parents[2] / "hierasurg_core" / "assets" / "scenes"
FRAME, MAP = str(SCENES / "000_frame.jpg"), str(SCENES / "000_map.png")
OTHER_MAP = "other.png"  # 64x64, of no frame here
OFFLINE = "and HF_HUB_OFFLINE forbids to ask"
WITH_FRAME = ["generate", "--phase", "calot", "--frame", FRAME]

REFUSED: list[tuple[str, int, str]] = [
    # generate: words
    ("generate --phase lunch", 2, "unknown phase 'lunch'"),
    ("generate --triplet hook,clip,liver", 2, "unknown triplet 'hook,clip,liver'"),
    ("generate --triplet 17@3-99", 2, "the clip has seconds 0 to 15"),
    ("generate --triplet 17 --triplet 18", 2, "at once are not possible"),
    # generate: paths
    ("generate --phase calot --frame none.png", 3, "cannot read the image none.png"),
    ("generate --phase calot --frame notes.txt", 3, "notes.txt"),
    ("generate --phase calot --frame empty", 3, "empty"),
    ("generate --frame FRAME", 2, "--frame needs --phase"),
    ("generate --phase calot --frame FRAME --map none.png", 3, "none.png"),
    ("generate --phase calot --frame FRAME --map other.png", 3, "the map other.png is 64x64 px"),
    ("generate --map MAP", 2, "map needs frame"),
    ("generate --maps none.pkl", 3, "there are no maps at none.pkl"),
    ("generate --requests none.csv", 2, "cannot read none.csv"),
    ("generate --requests wrong.csv", 2, "wrong.csv, line 3: unknown phase 'lunch'"),
    ("generate --requests photo.csv", 3, "photo.csv, line 2: cannot read the image none.png"),
    ("generate --script none.yaml", 2, "cannot read none.yaml"),
    ("generate --script cut.yaml", 3, "cut.yaml, line 3: cannot read the image none.png"),
    ("generate --script no-cut.yaml", 2, "no-cut.yaml, line 3: frame needs 'cut: true'"),
    ("generate --script map.yaml", 2, "map.yaml, line 2: map needs frame"),
    ("generate --from-dataset none", 3, "none is no data set"),
    ("generate --text-vectors none.safetensors", 3, "--text-vectors: there is no file none.safetensors"),
    ("generate --out notes.txt", 5, "cannot write to notes.txt: it is a file"),
    ("generate --out notes.txt/samples", 5, "notes.txt is a file"),
    ("generate --config none.yaml", 2, "cannot read the config none.yaml"),
    # generate: models
    ("generate --model nowhere", 4, "there is no model folder nowhere"),
    ("generate --model empty", 4, "empty is no pipeline"),
    ("generate --model some/model", 4, OFFLINE),
    ("generate --s2m empty", 4, "empty holds no transformer"),
    ("generate --m2v nowhere", 4, "there is no model folder nowhere"),
    ("generate --maps MAP --s2m empty", 2, "maps and s2m exclude each other"),
    ("generate --phase calot --frame FRAME --sam huge", 2, "sam 'huge' does not exist: use mini, tiny"),
    ("generate --phase calot --frame FRAME --sam large", 4, "give the frame's map as --map"),
    # generate: numbers and combinations
    ("generate --steps 0", 2, "steps must be 1 or more"),
    ("generate --steps 1001", 2, "--steps 1001 is not possible: the scheduler has 1000 steps"),
    ("generate --num 1000000000", 5, "1000000000 samples need "),
    ("generate --fps 8", 2, "--fps 8 is not possible"),
    ("generate --guidance nan", 2, "guidance must be 0 or more"),
    ("generate --newcomers 30", 2, "--newcomers 30"),
    ("generate --gpus 0", 2, "gpus must be 1 or more"),
    ("generate --node-rank 1", 2, "--node-rank 1 does not exist"),
    ("generate --requests wrong.csv --phase calot", 2, "phase and requests exclude each other"),
    ("generate --requests wrong.csv --num 2", 2, "num and requests exclude each other"),
    ("generate --script cut.yaml --phase calot", 2, "script excludes phase"),
    ("generate --script own.yaml --phase calot", 2, "script excludes phase"),
    # generate: edits, held to every scene
    ("generate --edit mvoe", 2, "is not understood"),
    ("generate --phase calot --edit remove_banana", 2, "is not understood"),
    ("generate --phase calot --edit EDIT_NAME", 2, "scene 012: edit 'remove banana': no entity is called"),
    (
        "generate --phase calot --num 3 --edit EDIT_LATER",
        2,
        "scene 012: edit 'remove 14': entity 14 does not",
    ),
    ("generate --phase calot --num 2 --edit EDIT_SECOND", 2, "scene 012: edit 'remove bipolar'"),
    ("generate --requests good.csv --edit EDIT_NAME", 2, "good.csv, line 2: scene 012: edit 'remove banana'"),
    ("generate --phase calot --edit EDIT_END", 2, "begins at second 16, but the clip ends with 15"),
    # label
    ("label none", 3, "there is no folder none"),
    ("label empty", 3, "empty holds no frame folders"),
    ("label frames --only none.txt", 3, "cannot read the list of videos none.txt"),
    ("label frames --sam huge", 2, "sam 'huge' does not exist: use mini, tiny"),
    ("label frames --sam large", 4, "--sam-checkpoint FILE"),
    ("label frames", 4, "SAM 2.1 large needs its weights"),
    ("label frames --sam large --sam-checkpoint none.pt", 4, "--sam-checkpoint: there is no file none.pt"),
    ("label frames --sam large --weights-dir none", 4, "--weights-dir: there is no folder none"),
    ("label frames --sam large --weights-dir empty", 4, "empty holds no sam2.1_hiera_large.pt"),
    ("label frames --sam mini --features some/model", 4, OFFLINE),
    ("label frames --sam mini --features nowhere", 4, "there is no model folder nowhere"),
    ("label frames --sam mini --out notes.txt", 5, "cannot write to notes.txt"),
    ("label frames --check none", 3, "there is no folder none of true maps"),
    ("label frames --gpus 0", 2, "gpus must be 1 or more"),
    # build-dataset
    ("build-dataset none", 3, "there is no folder none"),
    ("build-dataset frames --labels none", 3, "--labels: there is no folder none"),
    ("build-dataset frames --maps none", 3, "--maps: there is no folder none"),
    ("build-dataset frames --train none.txt", 3, "--train: there is no file none.txt"),
    ("build-dataset frames --train notes.txt --val-fraction 0.5", 2, "val_fraction excludes train"),
    ("build-dataset frames notes.txt", 5, "cannot write to notes.txt"),
    ("build-dataset frames --base nowhere", 4, "there is no model folder nowhere"),
    ("build-dataset frames", 4, "THUDM/CogVideoX-2b is no folder here, and the Hub does not give it"),
    ("build-dataset frames --gpus 0", 2, "gpus must be 1 or more"),
    ("build-dataset frames --node-rank 1", 2, "--node-rank 1 does not exist"),
    ("build-dataset frames --step 3 --fps 8", 2, "step 3 is no whole number of seconds"),
    # training
    ("train-s2m none", 3, "none is no data set"),
    ("train-m2v none", 3, "none is no data set"),
    ("train-s2m data --fps 8", 3, "data has 1 fps, not the 8 asked for"),
    ("train-s2m data --base nowhere", 4, "there is no model folder nowhere"),
    ("train-m2v data", 4, "THUDM/CogVideoX-2b is no folder here, and the Hub does not give it"),
    ("train-m2v data --out first --base nowhere", 4, "there is no model folder nowhere"),
    ("train-m2v data --out first --preset 2b-1fps", 4, "THUDM/CogVideoX-2b is no folder here"),
    ("train-s2m data --distill nowhere", 4, "there is no model folder nowhere"),
    ("train-s2m data --resume none", 4, "--resume: there is no folder none"),
    (
        "train-s2m data --text-condition vectors --text-vectors none",
        3,
        "--text-vectors: there is no file none",
    ),
    ("train-m2v data --distill nowhere", 4, "there is no model folder nowhere"),
    ("train-s2m data --out notes.txt", 5, "cannot write to notes.txt"),
    ("train-s2m data --export notes.txt", 5, "cannot write to notes.txt"),
    ("train-s2m data --preset huge", 2, "there is no preset 'huge'"),
    ("train-s2m data --lr nan", 2, "lr must be"),
    ("train-s2m data --steps 3 --epochs 2", 2, "--steps and --epochs exclude each other"),
    ("train-s2m data --gpus 0", 2, "gpus must be 1 or more"),
    ("train-s2m data --max-restarts -1", 2, "--max-restarts must be 0 or more"),
    # evaluate
    ("evaluate none", 3, "there is no folder none: give samples of 'generate'"),
    ("evaluate empty --real none", 3, "there is no folder none: give samples of 'generate'"),
    ("evaluate empty --real empty --split val", 2, "empty is no data set, so it has no split 'val'"),
    ("evaluate empty --real empty --protocol none", 2, "protocol 'none' is no file"),
    ("evaluate empty --real empty --sam huge", 2, "sam 'huge' does not exist: use mini, tiny"),
    ("evaluate empty --real empty --out notes.txt", 5, "cannot write to notes.txt"),
    ("evaluate empty --real empty --gpus 0", 2, "gpus must be 1 or more"),
    ("evaluate --compare none other", 3, "none"),
    # extract
    ("extract none", 3, "none"),
    ("extract frames --fps 0", 2, "fps must be more than 0"),
]
EDITS = {
    "EDIT_NAME": "remove banana",
    "EDIT_LATER": "remove 14",
    "EDIT_SECOND": "remove bipolar",
    "EDIT_END": "remove 0 from 16",
}


def words(line: str) -> list[str]:
    stands_for = {"FRAME": FRAME, "MAP": MAP, **EDITS}
    return [stands_for.get(word, word) for word in line.split()]


def write_inputs(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no picture")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / OTHER_MAP)
    (folder / "wrong.csv").write_text("phase\ncalot\nlunch\n")
    (folder / "good.csv").write_text("phase\ncalot\n")
    (folder / "photo.csv").write_text("phase,frame\ncalot,none.png\n")
    first = "segments:\n- {phase: calot, seconds: 3}\n"
    (folder / "cut.yaml").write_text(
        f"{first}- {{phase: packaging, seconds: 3, cut: true, frame: none.png}}\n"
    )
    (folder / "no-cut.yaml").write_text(f"{first}- {{phase: packaging, seconds: 3, frame: none.png}}\n")
    (folder / "map.yaml").write_text("segments:\n- {phase: calot, seconds: 3, map: none.png}\n")
    frames = folder / "frames" / "video01"
    frames.mkdir(parents=True)
    for index in range(16):
        Image.fromarray(np.full((64, 96, 3), 90 + index, np.uint8)).save(frames / f"{index:06d}.png")
    (folder / "first-unconditional").mkdir()  # begun, not finished
    (folder / "data").mkdir()
    vae = {"name": "mini", "sha256": "0", "size_hw": [64, 96], "channels": 16, "scaling_factor": 1.0}
    form = {"fps": 1, "step": 1, "size_hw": [64, 96], "map_size_hw": [64, 96], "first_frames": 2, "seed": 0}
    manifest = {"kind": "hierasurg dataset", "schema": schema(), "contents": "latents", "form": form}
    rest: dict[str, Any] = {"vae": vae, "sources": {}, "flip": 0, "object_dropout": 0, "videos": {}}
    (folder / "data" / "manifest.json").write_text(json.dumps({**manifest, **rest}))


def schema() -> int:
    from hierasurg_core.datasets.fingerprint import SCHEMA

    return SCHEMA


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Exit code and stderr of every line, and what lay in the folder before and after."""
    folder = tmp_path_factory.mktemp("work")
    write_inputs(folder)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "empty")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__))], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("line", "code", "message"), REFUSED, ids=[line for line, _, _ in REFUSED])
def test_it_is_refused_in_one_line(outcomes: dict[str, Any], line: str, code: int, message: str) -> None:
    outcome = outcomes[line]
    assert message in outcome["err"]
    assert outcome["err"].startswith("hierasurg: ")
    assert outcome["err"].count("\n") == 1
    assert outcome["out"] == ""
    assert outcome["code"] == code


def test_nothing_is_left_behind(outcomes: dict[str, Any]) -> None:
    assert outcomes["after"] == outcomes["before"]


def test_entities_are_listed_without_torch(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["generate --phase calot --num 2 --list-entities --json"]
    assert outcome["code"] == 0
    starts = json.loads(outcome["out"])["starts"]
    assert [start["start"] for start in starts] == ["scene 012", "scene 013"]
    assert starts[1]["samples"] == ["0001"]
    named = {entity["id"]: entity["name"] for entity in starts[1]["entities"]}
    assert (named[0], named[11], named[12]) == ("gallbladder", "bipolar", "grasper")
    text = outcomes["generate --phase calot --num 2 --list-entities"]["out"]
    assert "scene 013 (samples 0001)\n" in text
    assert "\n   11  bipolar                 5 % of the frame, centre\n" in text
    assert max(map(len, text.splitlines())) <= 80


def main() -> None:
    """Run all lines where torch cannot be imported, and print what came of them."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    from hierasurg_cli.app import run

    def there() -> list[str]:
        return sorted(str(path) for path in Path().rglob("*"))

    result: dict[str, Any] = {"before": there()}
    listing = "generate --phase calot --num 2 --list-entities"
    for line in (*(line for line, _, _ in REFUSED), listing, f"{listing} --json"):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command, *rest = words(line)
            code = run([command, "--quiet", *rest])
        result[line] = {"code": code, "out": out.getvalue(), "err": err.getvalue()}
    print(json.dumps({**result, "after": there()}))  # noqa: T201


if __name__ == "__main__":
    main()
