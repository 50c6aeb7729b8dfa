"""Advice that works: each error that names a command or an option is provoked, and what it says is done.

`CASES` of `advice_cases` is the table: a line that is refused, the advice to find in the message, and the
lines that follow it.
A message in the source that names an option or a command and stands neither in `CASES` nor in `ELSEWHERE`
fails `test_every_advice_has_a_case`: add a case for it.
"""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_datasets
import tiny_runs
import torch
from cli.advice_cases import CASES, ELSEWHERE, ON_CPU, SIDES, Case
from evaluation.phantom_sides import write_softer_sides
from evaluation.tiny_networks import BrightBox, TinyVgg, script
from generation.tiny_assets import tiny_pipeline

import hierasurg_cli
import hierasurg_core
from hierasurg_cli.app import run
from hierasurg_core.labeling.mini_sam import write_mini
from hierasurg_core.labeling.segmenter import build_mini_network


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that cases copy from: small, and made once."""
    root = tmp_path_factory.mktemp("world")
    tiny_runs.write_base(root / "model")
    for number in (1, 2):
        tiny_datasets.write_operation(root, number, 18)
    write_softer_sides(root, 6, 8, (32, 48))
    tiny_pipeline().save_pretrained(root / "pipeline")
    torch.manual_seed(0)
    write_mini(root / "sam", build_mini_network().state_dict())
    return root


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failed(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a line that is refused and returns what it says."""
    capsys.readouterr()
    code = run(shlex.split(line))
    out, err = capsys.readouterr()
    assert code in (2, 3, 4, 5), f"{line}: {code} {out} {err}"
    assert err.startswith("hierasurg: ")
    return err.strip().removeprefix("hierasurg: ")


def parts(of: str) -> list[str]:
    return [part for part in of.split("{}") if part]


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case.of)[-50:].strip("-"))
def test_the_advice_works(case: Case, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in case.needs:
        shutil.copytree(world / name, name)
    case.given()
    message = failed(case.line, capsys)
    assert all(part in message for part in parts(case.of)), message
    found = re.search(case.advice, message)
    assert found is not None, message
    lines = [line.format(*found.groups(), line=case.line) for line in case.follow]
    for line in lines[:-1] if case.is_gone else lines:
        code = run(shlex.split(line))
        assert code == 0, f"{line}: {capsys.readouterr().err}"
    if case.is_gone:
        capsys.readouterr()
        code = run(shlex.split(lines[-1]))
        again = capsys.readouterr().err
        assert code == 0 or not all(part in again for part in parts(case.of)), again


def text_of(node: ast.AST) -> str:
    """The text of a string in the source, with {} for what is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} {text_of(node.orelse)}"
    return ""


def advising(package: Path) -> dict[str, str]:
    """The messages of a package's errors that name an option or a command, by their place."""
    naming = re.compile(r"(?<![\w-])--[a-z]|'hierasurg |pip install")
    found: dict[str, str] = {}
    for file in sorted(package.rglob("*.py")):
        if "phantom" in file.parts:  # commands of its own, for those who build this package
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            raised = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(raised, ast.Call):
                message = " ".join(text_of(argument) for argument in raised.args)
                if naming.search(message):
                    found[f"{file.relative_to(package.parent)}:{raised.lineno}"] = message
    return found


@pytest.mark.parametrize("package", [hierasurg_core, hierasurg_cli], ids=lambda package: package.__name__)
def test_every_advice_has_a_case(package: Any) -> None:
    known = [*(case.of for case in CASES), *ELSEWHERE]
    messages = advising(Path(package.__file__).parent)
    unknown = {
        place: message for place, message in messages.items() if not any(of in message for of in known)
    }
    assert messages
    assert not unknown, "add a case to CASES for each"


@pytest.mark.usefixtures("_folder")
def test_what_was_left_out_comes_with_its_option(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("samples", "real"):
        shutil.copytree(world / name, name)
    script(BrightBox(), Path("FILE"))
    Path("weights").mkdir()
    script(TinyVgg(), Path("weights/vgg16.pt"))
    line = ["evaluate", *shlex.split(ON_CPU), "samples", "--real", "real", "--num", "2", "--json"]
    line += ["--replicates", "0", "--set", "wall=1"]

    def left_out(*options: str) -> dict[str, str]:
        capsys.readouterr()
        assert run([*line, *options]) == 0
        return {entry["metric"]: entry["why"] for entry in json.loads(capsys.readouterr().out)["left_out"]}

    before = left_out()
    assert "give --detector FILE" in before["box-iou"]
    assert "or mini for phantom clips" in before["map-iou"]
    assert "give --vae MODEL, or mini" in before["vae baseline"]
    assert "put it into --weights-dir" in before["first-frame-lpips"]
    after = left_out("--detector", "FILE", "--sam", "mini", "--vae", "mini", "--weights-dir", "weights")
    assert not {"box-iou", "map-iou", "vae baseline", "first-frame-lpips"} & set(after)


@pytest.mark.usefixtures("_folder")
def test_a_cache_that_cannot_be_written(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("samples", "real"):
        shutil.copytree(world / name, name)
    Path("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("file").absolute()))
    message = failed(SIDES, capsys)
    found = re.search(r"give (--cache) FOLDER", message)
    assert found is not None, message
    assert run([*shlex.split(SIDES), found[1], "own"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_folder")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_more_processes_than_gpus_run_on_the_cpu(world: Path) -> None:
    import subprocess
    import sys

    for name in ("samples", "real"):
        shutil.copytree(world / name, name)
    program = [sys.executable, "-m", "hierasurg_cli"]
    line = shlex.split(SIDES.replace("--device cpu", "--gpus 2"))
    refused = subprocess.run([*program, *line], capture_output=True, text=True, check=False)
    assert refused.returncode == 5
    found = re.search(r"this machine has 0 GPUs; give (--device cpu)", refused.stderr)
    assert found is not None, refused.stderr
    done = subprocess.run([*program, *line, *found[1].split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
