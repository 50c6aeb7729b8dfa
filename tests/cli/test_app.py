"""The program from outside: exit codes, one-line messages, what is on which stream, and light help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hierasurg_core
from hierasurg_cli.app import run

HEAVY = ("torch", "diffusers", "transformers", "numpy", "av", "cv2")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that a refused command line leaves on stderr; nothing may be on stdout or on disk."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hierasurg: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("hierasurg: ").rstrip()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"hierasurg {hierasurg_core.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    for line in ("extract Take frames", "generate Make videos"):
        assert line in " ".join(out.split())
    assert err == ""


def test_help_of_a_command_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        *(
            "--phase",
            "--triplet",
            "--frame",
            "--map",
            "--maps",
            "--model",
            "--s2m",
            "--m2v",
            "--out",
            "--num",
        ),
        *("--seed", "--steps", "--guidance", "--fps", "--device", "--dtype", "--contact-sheet"),
        *("--config", "--set", "--json", "--quiet", "--verbose"),
    ):
        assert f"{option} " in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "steps must be 1 or more, not 0"),
        (["--num", "-1"], "num must be 1 or more, not -1"),
        (["--seed", "x"], "seed must be a whole number, not 'x'"),
        (["--guidance", "nan"], "guidance must be 0 or more, not nan"),
        (["--fps", "25"], "fps must be one of 1, 8, not '25'"),
        (["--dtype", "fp8"], "dtype must be one of auto, bf16, fp16, fp32, not 'fp8'"),
        (["--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps, not 'tpu'"),
        (["--map", "a.png"], "map needs frame: "),
        (["--phase", "suturing"], "unknown phase 'suturing': phases are 0 preparation, "),
        (["--triplet", "hook,clip,liver"], "unknown triplet 'hook,clip,liver': "),
        (["--set", "step=3"], "--set unknown key 'step' (did you mean 'steps'?)"),
        (["--config", "none.yaml"], "cannot read the config none.yaml: No such file"),
        (["--phas", "calot"], "No such option: --phas"),
        (["--phase"], "Option '--phase' requires an argument"),
        (["surplus"], "Got unexpected extra argument"),
    ],
)
def test_generate_refuses_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert refusal(capsys, "generate", *arguments).startswith(said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generate", "--json", "--steps", "0"], 2, "steps must be 1 or more, not 0"),
        (["extract", "none.mp4", "--json"], 3, "none.mp4"),
        (["label", "none", "--json", "--device", "cpu"], 3, "none"),
        (["build-dataset", "none", "--json", "--base", "mini", "--device", "cpu"], 3, "none"),
        (["train-s2m", "--json", "--nonsense"], 2, "No such option"),
        (["evaluate", "none", "--json", "--config", "none.yaml"], 2, "none.yaml"),
        (["nonsense", "--json"], 2, "No such command"),
    ],
)
def test_an_error_with_json_is_one_object_and_one_line(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["exit_code"] == code
    assert said in error["message"]
    assert err.splitlines()[-1] == f"hierasurg: {error['message']}"


@pytest.mark.parametrize(
    ("stdout", "code", "err"),
    [
        ("/dev/full", 5, "hierasurg: cannot write to stdout: No space left on device; "),
        ("closed pipe", 0, ""),
    ],
)
def test_a_stdout_that_takes_nothing(stdout: str, code: int, err: str, tmp_path: Path) -> None:
    if stdout == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(stdout, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "hierasurg_cli", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    os.close(writing)
    assert done.returncode == code
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


def test_unknown_command_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command 'generat'" in refusal(capsys, "generat")


def test_the_folders_own_config_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hierasurg.yaml").write_text("generate: {steps: 0}")
    assert refusal(capsys, "generate") == "steps must be 1 or more, not 0"


def test_config_wins_over_the_folders_and_options_over_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hierasurg.yaml").write_text("generate: {phase: aa, num: 0}")
    (tmp_path / "mine.yaml").write_text("generate: {phase: bb, num: 1}")
    assert refusal(capsys, "generate", "--config", "mine.yaml").startswith("unknown phase 'bb'")
    mine = ["generate", "--config", "mine.yaml", "--phase", "dd"]
    assert refusal(capsys, *mine).startswith("unknown phase 'dd'")
    assert refusal(capsys, *mine, "--set", "phase=ee").startswith("unknown phase 'ee'")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["generate", "--help"], 0),
        (["--version"], 0),
        (["generate", "--steps", "0"], 2),
        (["generate", "--seed", "x"], 2),
        (["generate", "--phase", "nonsense"], 2),
    ],
)
def test_what_needs_no_model_loads_no_torch(arguments: list[str], code: int, tmp_path: Path) -> None:
    program = (
        "import sys; from hierasurg_cli.app import run; code = run(sys.argv[1:]); "
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hierasurg_cli", "generate", "--num", "-1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "40"},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "hierasurg: num must be 1 or more, not -1\n",
    )
