"""`label` with the true segmenter in processes of its own, for tests that kill it or let several share."""

from forked import Aloud, Tell
from true_segmenter import TrueModels

from hierasurg_core.config import LabelConfig
from hierasurg_core.labeling.label import label
from hierasurg_core.runtime import process_group


def label_aloud(tell: Tell, config: LabelConfig) -> None:
    """Labels as a process, or a rank, that tells the frames of each block that it sees."""
    with process_group("cpu") as device:
        label(config, device, Aloud(tell), TrueModels())
