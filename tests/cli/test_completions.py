"""The completion files equal what the program prints, and Tab offers phases and triplets."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).resolve().parents[2] / "completions"
FILES = {"bash": "hierasurg.bash", "zsh": "_hierasurg", "fish": "hierasurg.fish"}

# What the shipped zsh file adds: without it the first Tab after autoloading would offer nothing.
AUTOLOADED = """
# Autoloaded from fpath, the first Tab has to complete as well.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _hierasurg_completion
fi
"""


def asked(folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hierasurg_cli"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        check=True,
    )
    return done.stdout


def offered(folder: Path, line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    return asked(
        folder, _HIERASURG_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
    ).split()


@pytest.mark.parametrize("shell", FILES)
def test_files_equal_what_the_program_prints(shell: str, tmp_path: Path) -> None:
    printed = asked(tmp_path, _HIERASURG_COMPLETE=f"source_{shell}").strip() + "\n"
    assert (COMPLETIONS / FILES[shell]).read_text() == printed + (AUTOLOADED if shell == "zsh" else "")


def test_phases_are_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, "hierasurg generate --phase ga") == [
        "gallbladder-dissection",
        "gallbladder-packaging",
        "gallbladder-extraction",
    ]
    assert offered(tmp_path, "hierasurg generate --phase cal") == ["calot-triangle-dissection"]
    assert offered(tmp_path, "hierasurg generate --phase car") == ["carlot-triangle-dissection"]


def test_triplets_are_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, "hierasurg generate --triplet hook,r") == [
        "hook,retract,gallbladder",
        "hook,retract,liver",
    ]
    assert len(offered(tmp_path, "hierasurg generate --triplet ")) == 100


def test_commands_and_options_are_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, "hierasurg ge") == ["generate"]
    assert offered(tmp_path, "hierasurg generate --ma") == [
        "--map",
        "--maps",
        "--maps-guidance",
        "--maps-dir",
    ]
    assert offered(tmp_path, "hierasurg generate --dtype b") == ["bf16"]


def test_fish_and_zsh_are_offered_the_same(tmp_path: Path) -> None:
    line = "hierasurg generate --phase cl"
    fish = asked(
        tmp_path,
        _HIERASURG_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=line,
    )
    assert fish.split() == ["clipping-and-cutting", "cleaning-and-coagulation"]
    zsh = asked(tmp_path, _HIERASURG_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert '"clipping-and-cutting"' in zsh


def test_the_bash_file_works_in_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    program = tmp_path / "hierasurg"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hierasurg_cli "$@"\n')
    program.chmod(0o755)
    script = f"""
        source '{COMPLETIONS / FILES["bash"]}'
        COMP_WORDS=(hierasurg generate --triplet irrigator,asp); COMP_CWORD=3
        _hierasurg_completion '{program}'; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "irrigator,aspirate,fluid\n"
