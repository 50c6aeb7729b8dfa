"""Whole processes against each other: `hierasurg extract --fps 1` and `ffmpeg -vf fps=1 -q:v 2`.

The video is ffmpeg's own test picture, 854x480 at 25 fps, H.264. Runs alternate; the ratio is that of the
medians. Run from the repository's root: `python -m tests.benchmarks.bench_extract [SECONDS] [RUNS]`; it needs
ffmpeg on the path.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measured(line: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of one process and its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = f"testsrc2=size=854x480:rate=25:duration={seconds}"
        make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", "libx264"]
        subprocess.run([*make, "-pix_fmt", "yuv420p", "video01.mp4"], cwd=folder, check=True)
        lines = {
            "ffmpeg": ["ffmpeg", "-y", "-v", "error", "-i", "video01.mp4", "-vf", "fps=1", "-q:v", "2"],
            "extract": [sys.executable, "-m", "hierasurg_cli", "extract", "video01.mp4"],
        }
        taken: dict[str, list[tuple[float, float]]] = {program: [] for program in lines}
        for run in range(runs):
            (folder / f"ffmpeg{run}").mkdir()
            for program, line in lines.items():
                target = f"ffmpeg{run}/%06d.jpg" if program == "ffmpeg" else f"extract{run}"
                taken[program].append(measured([*line, target], folder))
        for kind, label in ((0, "wall"), (1, "processor")):
            medians = {program: statistics.median(t[kind] for t in of) for program, of in taken.items()}
            shown = ", ".join(f"{program} {value:.2f} s" for program, value in medians.items())
            print(f"{label}: {shown}, ratio {medians['extract'] / medians['ffmpeg']:.2f}")


if __name__ == "__main__":
    main()
