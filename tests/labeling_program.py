"""`label` with the true segmenter as a process of its own, for tests that kill it.

Run as `python labeling_program.py VIDEOS OUT FORMAT`; prints a line for each block of frames that it sees.
"""

import sys
from pathlib import Path

from true_segmenter import TrueModels

from hierasurg_core.config import LabelConfig
from hierasurg_core.labeling.label import label
from hierasurg_core.progress import SilentProgress
from hierasurg_core.runtime import process_group


class Lines(SilentProgress):
    def advance(self, n: int = 1) -> None:
        print(n, flush=True)  # noqa: T201 - the killer listens


if __name__ == "__main__":
    videos, out, form = sys.argv[1:]
    config = LabelConfig(
        videos=Path(videos), out=Path(out), format="png" if form == "png" else "pkl", batch=4
    )
    with process_group("cpu") as device:
        label(config, device, Lines(), TrueModels())
