"""`label` with the true segmenter in processes of its own, for tests that kill it or let several share."""

import os
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess

from forked import Aloud, Tell, start
from true_segmenter import TrueModels

from hierasurg_core.config import LabelConfig
from hierasurg_core.labeling.label import label
from hierasurg_core.runtime import process_group


def start_labelling(config: LabelConfig, **environment: str) -> tuple[BaseProcess, Iterator[int]]:
    """Starts a process; returns it with the frames of each block that it sees."""
    return start(_label, config, environment)


def _label(tell: Tell, config: LabelConfig, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    with process_group("cpu") as device:
        label(config, device, Aloud(tell), TrueModels())
