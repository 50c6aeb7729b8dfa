"""build-dataset on phantom operations as mp4 and JSON: killed often, and with long videos.

Run from the repository's root:

    python -m tests.benchmarks.bench_build kills [VIDEOS] [SECONDS] [KILLS]   # default 30 18 10
    python -m tests.benchmarks.bench_build memory [MINUTES ...]               # default 10 60

`kills` builds once undisturbed and once killed with SIGKILL at random moments, each time begun again by the
same line, and compares all files but the timing in the manifest. `memory` tells the peak of resident memory
of extract and of build-dataset for a video of each length and a short one, at 96x144 and one frame a second.
"""

import hashlib
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = [sys.executable, "-m", "hierasurg_cli"]


def build_line(folder: Path, out: str, *more: str) -> list[str]:
    labels, maps = str(folder / "labels"), str(folder / "truth")
    given = ["--labels", labels, "--maps", maps, "--base", "mini", "--device", "cpu", "--val-fraction", "0.2"]
    return [*PROGRAM, "build-dataset", str(folder / "videos"), str(folder / out), *given, "-q", *more]


def digests(folder: Path) -> dict[str, str]:
    """Of all files; of the manifest without what a clock says."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".json":
            told = json.loads(data)
            if isinstance(told, dict):
                told.pop("timing", None)
            data = json.dumps(told, sort_keys=True).replace(str(folder), "OUT").encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def phantom(folder: Path, videos: int, seconds: int, size: str) -> None:
    line = [sys.executable, "-m", "hierasurg_core.phantom", str(folder), "--videos", str(videos)]
    subprocess.run([*line, "--seconds", str(seconds), "--size", size, "--seed", "0"], check=True)


def kills(videos: int = 30, seconds: int = 18, times: int = 10) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom(folder, videos, seconds, "128x192")
        subprocess.run([*PROGRAM, "extract", str(folder / "in"), str(folder / "videos"), "-q"], check=True)
        began = time.monotonic()
        subprocess.run(build_line(folder, "dataset"), check=True)
        took = time.monotonic() - began
        subprocess.run(build_line(folder, "dataset"), check=True)
        to_start = time.monotonic() - began - took
        (folder / "dataset").rename(folder / "whole")
        print(f"undisturbed: {took:.0f} s, of which {to_start:.0f} s to begin", flush=True)
        chance = random.Random(0)
        for turn in range(times):
            process = subprocess.Popen(build_line(folder, "dataset"))
            wait = to_start + chance.uniform(0, 0.1) * (took - to_start)
            try:
                process.wait(timeout=wait)
                print(f"kill {turn + 1}: it had ended before {wait:.0f} s", flush=True)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                shards = len([*(folder / "dataset").glob("*.safetensors")])
                print(f"kill {turn + 1}: after {wait:.0f} s, {shards} shards", flush=True)
        subprocess.run(build_line(folder, "dataset"), check=True)
        whole, killed = digests(folder / "whole"), digests(folder / "dataset")
        different = sorted(k for k in whole.keys() | killed.keys() if whole.get(k) != killed.get(k))
        print(f"{len(whole)} files, different: {different or 'none'}")


def memory(*minutes: int) -> None:
    for length in minutes or (10, 60):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            phantom(folder, 2, 30, "96x144")
            short = folder / "in" / "video01.mp4"
            _repeated(short, length * 60 // 30)
            _repeated_labels(folder, length * 60)
            for what, line in (
                ("extract", [*PROGRAM, "extract", str(folder / "in"), str(folder / "videos"), "-q"]),
                ("build-dataset", build_line(folder, "dataset", "--step", "16")),
            ):
                print(f"{length} minutes, {what}: {_peak_mib(line):.1f} MiB", flush=True)


def _peak_mib(line: list[str]) -> float:
    """Of a process of its own, so that no other one's peak counts."""
    code = (
        "import resource as r, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1]) / 1024


def _repeated(video: Path, times: int) -> None:
    listed = video.parent / "list.txt"
    listed.write_text(f"file '{video.name}'\n" * times)
    joined = video.with_name("joined.mp4")
    line = ["ffmpeg", "-v", "error", "-f", "concat", "-safe", "0", "-i", str(listed), "-c", "copy"]
    subprocess.run([*line, str(joined)], check=True)
    listed.unlink()
    joined.replace(video)


def _repeated_labels(folder: Path, seconds: int) -> None:
    path = folder / "labels" / "VID01.json"
    labels = json.loads(path.read_text())
    first, labels["num_frames"] = labels["annotations"], seconds
    labels["annotations"] = {str(k): first[str(k % len(first))] for k in range(seconds)}
    path.write_text(json.dumps(labels))
    maps = folder / "truth" / "video01_masks"
    known = len([*maps.glob("*.png")])
    for index in range(known, seconds):
        shutil.copy(maps / f"{index % known:06d}.png", maps / f"{index:06d}.png")


def main() -> None:
    what, numbers = sys.argv[1], [int(number) for number in sys.argv[2:]]
    {"kills": kills, "memory": memory}[what](*numbers)
    print(f"processor time of all: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f} s")


if __name__ == "__main__":
    main()
