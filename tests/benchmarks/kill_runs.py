"""Kills each long command at random moments and compares what it ends with to an undisturbed run.

    python -m tests.benchmarks.kill_runs [FOLDER] [--kills 6] [--seed 0] [--only label generate]

Works on phantom operations. Each command is run once to its end, then again in another folder, where SIGKILL
ends it at moments that a seeded generator draws, each within the first half of the time that the whole run
took; then the same line is left to end by itself. One line a command: how often it was killed, and whether
all files are the same byte for byte. Left out of the comparison are times in JSON and JSONL, the report's
page, logs, and the cache of an evaluation.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ON_CPU = ("--device", "cpu", "--quiet")
SMALL = ("--maps", "truth", "--base", "mini", "--map-size", "128x192", "--val-fraction", "0.5")
SHARDS = ("--step", "4", "--set", "shard_mb=1")
TRAINED = ("--preset", "mini", "--steps", "4", "--checkpoint-every", "1", "--keep", "2")
TIMES = re.compile(r"seconds|timing|mfu|.*_s|.*_per_second")  # keys of JSON
LEFT_OUT = re.compile(r".*\.(html|tsv)|logs|cache")
EARLIEST = 1.5  # seconds after the start, when a command has taken its lock


@dataclass(frozen=True)
class Case:
    """A command to be killed.

    Attributes:
        name: Of the line that is printed.
        arguments: Of `hierasurg`; it writes into `output`.
        output: Folder, below the working one.
    """

    name: str
    arguments: tuple[str, ...]
    output: str


CASES = (
    Case("extract", ("extract", "in", "--fps", "25", "--size", "480x720", "--quiet"), "videos"),
    Case("label", ("label", "frames", "--out", "maps", "--sam", "mini", *ON_CPU), "maps"),
    Case("build-dataset", ("build-dataset", "frames", "built", *SMALL, *SHARDS, *ON_CPU), "built"),
    Case("train-s2m", ("train-s2m", "data", "--out", "s2m", *TRAINED, *ON_CPU), "s2m"),
    Case("train-m2v", ("train-m2v", "data", "--out", "m2v", *TRAINED, *ON_CPU), "m2v"),
    Case("generate", ("generate", "-o", "made", "--num", "6", "--gif", "--contact-sheet", *ON_CPU), "made"),
    Case("generate --seconds", ("generate", "-o", "story", "--seconds", "60", *ON_CPU), "story"),
    Case("evaluate", ("evaluate", "samples", "--real", "data", "-o", "found", *ON_CPU), "found"),
)


def hierasurg(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hierasurg_cli", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def to_its_end(folder: Path, arguments: Sequence[str]) -> float:
    """Runs a command line, which has to succeed; returns the seconds it took."""
    began = time.monotonic()
    with hierasurg(folder, arguments) as process:
        _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"hierasurg {' '.join(arguments)} ended with {process.returncode}: {error.decode()}")
    return time.monotonic() - began


def prepare(folder: Path, *, with_data: bool) -> None:
    """Draws two operations and makes what the commands read."""
    folder.mkdir(parents=True)
    drawn = [sys.executable, "-m", "hierasurg_core.phantom", ".", "--videos", "2", "--seconds", "56"]
    drawn += ["--size", "128x192", "--seed", "3"]
    subprocess.run(
        drawn, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    to_its_end(folder, ["extract", "in", "frames", "--end", "52", "--quiet"])
    if with_data:
        to_its_end(folder, ["extract", "in", "few", "--end", "22", "--quiet"])
        to_its_end(folder, ["build-dataset", "few", "data", *SMALL, *ON_CPU])
        to_its_end(folder, ["generate", "-o", "samples", "--num", "2", *ON_CPU])


def run_killed(folder: Path, case: Case, kills: int, seconds: float, chance: random.Random) -> None:
    """Kills a command at so many moments, then lets it end; one that ended before begins anew."""
    killed = 0
    while killed < kills:
        with hierasurg(folder, case.arguments) as process:
            try:
                process.communicate(timeout=EARLIEST + chance.random() * max(1.0, seconds - EARLIEST) / 2)
                shutil.rmtree(folder / case.output)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
    to_its_end(folder, case.arguments)


def content(path: Path, folder: Path) -> object:
    """What has to be the same in a file: its bytes; in JSON neither times nor the working folder's name."""
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text(encoding="utf-8").replace(str(folder.resolve()), "here")
    return [timeless(json.loads(line)) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not TIMES.fullmatch(key)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(LEFT_OUT.fullmatch(part) for part in name.parts):
            found[str(name)] = path
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Names of files that only one folder has, or that differ."""
    left, right = files(one), files(other)
    different = [
        name
        for name in left.keys() & right.keys()
        if content(left[name], one.parent) != content(right[name], other.parent)
    ]
    return sorted({*(left.keys() ^ right.keys()), *different})


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill long commands and compare their results.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="a new folder to work in (default: a temporary one)"
    )
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of commands (default: all)")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    with tempfile.TemporaryDirectory() as temporary:
        work: Path = options.folder or Path(temporary) / "work"
        whole, killed = work / "here", work / "killed" / "here"
        prepare(
            whole, with_data=any(case.name not in ("extract", "label", "build-dataset") for case in cases)
        )
        shutil.copytree(whole, killed)
        failed = False
        for case in cases:
            seconds = to_its_end(whole, case.arguments)
            chance = random.Random(f"{options.seed} {case.name}")
            run_killed(killed, case, options.kills, seconds, chance)
            found = differences(whole / case.output, killed / case.output)
            failed |= bool(found)
            verdict = f"DIFFERS in {', '.join(found[:5])}" if found else "the same bytes"
            count = len(files(whole / case.output))
            said = f"{case.name}: {seconds:.0f} s, killed {options.kills} times: {count} files, {verdict}"
            print(said, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
