"""Hostile and damaged files, given to the commands: exit code, one line, nothing written, little memory."""

import json
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hierasurg_core
import hierasurg_core.generation  # loaded here, so that no test measures the memory of a library
import hierasurg_core.training.run
from hierasurg_cli.app import run
from hierasurg_core.pictures import write_png

MINI = Path(hierasurg_core.__file__).parent / "assets" / "mini"
CPU = ["--device", "cpu"]
WORDS = ["--phase", "calot", "--triplet", "17", *CPU]
DEEP = "[" * 100_000
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, most_bytes: float) -> str:
    """Runs a command that is to be refused, and returns the line that it prints."""
    before = sorted(Path().rglob("*"))
    tracemalloc.start()
    got = run([*arguments, "--json", "--quiet"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    out, err = capsys.readouterr()
    assert (got, err.count("\n")) == (code, 1), err
    message = err.removeprefix("hierasurg: ").rstrip("\n")
    assert json.loads(out) == {"error": {"message": message, "exit_code": code}}
    assert len(message) <= 1000
    assert sorted(Path().rglob("*")) == before
    assert peak < most_bytes
    return message


TEXTS: list[tuple[str, bytes | str, list[str], int, str]] = [
    ("hierasurg.yaml", DEEP, ["generate"], 2, "hierasurg.yaml"),
    ("hierasurg.yaml", BOMB, ["label"], 2, "aliases repeat"),
    ("hierasurg.yaml", "generate: {out: ~nobody-of-this-name/x}", ["generate"], 2, "no home folder"),
    ("hierasurg.yaml", "train-s2m: {steps: " + "9" * 5000 + "}", ["train-s2m"], 2, "steps must be"),
    ("hierasurg.yaml", f"extract: {{fps: [{'1,' * 10_000}]}}", ["extract"], 2, "fps must be a number"),
    ("a.yaml", b"\xff\xfe", ["build-dataset", "--config", "a.yaml"], 2, "not UTF-8"),
    ("a.yaml", DEEP, ["generate", "--script", "a.yaml", *CPU], 2, "a.yaml"),
    ("a.yaml", BOMB, ["generate", "--script", "a.yaml", *CPU], 2, "a.yaml"),
    (
        "a.yaml",
        "segments:\n- {phase: calot, seconds: 1000000000}",
        ["generate", "--script", "a.yaml", *CPU],
        2,
        "a.yaml, line 2: seconds '1000000000' make the story longer than 12 hours",
    ),
    ("a.yaml", DEEP, ["generate", "--requests", "a.yaml", *CPU], 2, "a.yaml"),
    ("a.json", "9" * 5000, ["generate", "--requests", "a.json", *CPU], 2, "a.json"),
    ("a.csv", "phase,seed\n1," + "9" * 5000, ["generate", "--requests", "a.csv", *CPU], 2, "a.csv, line 2"),
    ("a.csv", "phase,frame\n1," + "a" * 300, ["generate", "--requests", "a.csv", *CPU], 2, "a.csv, line 2"),
    ("a.csv", "phase,frame\n1,a\0b", ["generate", "--requests", "a.csv", *CPU], 2, "a.csv, line 2"),
    ("a.csv", "phase,name\n1," + "a" * 300, ["generate", "--requests", "a.csv", *CPU], 2, "a.csv, line 2"),
    ("a.csv", "phase\n" + "1" * 200_000, ["generate", "--requests", "a.csv", *CPU], 2, "a.csv"),
    ("a.pkl", b"\x80\x04Nr\0\0\0\x08.", ["generate", "--maps", "a.pkl", *CPU], 3, "a.pkl"),
    ("a.pkl", b"cos\nsystem\n(S'touch bad'\ntR.", ["generate", "--maps", "a.pkl", *CPU], 3, "os.system"),
    ("dataset/manifest.json", DEEP, ["train-m2v", "--base", "mini", *CPU], 3, "manifest.json"),
    ("dataset/manifest.json", '{"a": 1, "a": 2}', ["train-m2v", "--base", "mini", *CPU], 3, "given twice"),
]


@pytest.mark.parametrize(("name", "content", "arguments", "code", "said"), TEXTS, ids=range(len(TEXTS)))
def test_a_hostile_text(
    name: str,
    content: bytes | str,
    arguments: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert said in refused(capsys, arguments, code, 150e6)


def _with(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _text(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(text)

    return change


MODELS: list[tuple[str, Callable[[Path], None], str]] = [
    ("m2v/config.json", _text(DEEP), "nests deeper"),
    ("m2v/config.json", _with(sample_height=-16), "sample_height is -16"),
    ("m2v/config.json", _with(num_layers=1_000_000), "num_layers is 1000000"),
    ("m2v/config.json", _with(sample_seconds=10**15), "sample_seconds is 1000000000000000"),
    ("vae/config.json", _with(scaling_factor="x"), "scaling_factor is 'x'"),
    ("vae/config.json", _text('{"a": 1, "a": 1}'), "given twice"),
    ("model_index.json", _text(DEEP), "nests deeper"),
    ("model_index.json", _text("9" * 5000), "5,000 characters"),
    ("scheduler/scheduler_config.json", _with(num_train_timesteps=10**12), "num_train_timesteps"),
    (
        "s2m/diffusion_pytorch_model.safetensors",
        _text("x" * 99),
        "damaged",
    ),
]


@pytest.mark.parametrize(("file", "change", "said"), MODELS, ids=range(len(MODELS)))
def test_a_hostile_model_folder(
    file: str, change: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(MINI, "model")
    change(Path("model") / file)
    message = refused(capsys, ["generate", "--model", "model", *WORDS], 4, 300e6)
    assert said in message
    assert f"model/{file}" in message


def test_a_map_of_ten_thousand_million_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    write_png(Path("frame.png"), np.zeros((64, 64, 3), np.uint8))
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    Path("map.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    line = ["generate", "--frame", "frame.png", "--map", "map.png", *WORDS]
    assert "map.png is too large for a map" in refused(capsys, line, 3, 100e6)


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"fps": 1, "fps": 2}', '{"annotations": {}, "fps": 1e999}', '{"video": ' + "9" * 5000 + "}"],
    ids=range(4),
)
def test_hostile_labels(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    frames = Path("videos/video01")
    frames.mkdir(parents=True)
    for index in range(16):
        write_png(frames / f"{index:06d}.png", np.full((32, 48, 3), 100, np.uint8))
    Path("labels").mkdir()
    Path("labels/VID01.json").write_text(text)
    assert "VID01.json" in refused(capsys, ["build-dataset", "--base", "mini", *CPU], 3, 100e6)
