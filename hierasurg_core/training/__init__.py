"""Training of both transformers: one loop, one `Stage` each, checkpoints that go on to the bit.

It reads no data set and encodes nothing; batches of cached latents come from a `BatchSource`.
"""

from hierasurg_core.training.batch import NO_LABEL, Batch
from hierasurg_core.training.draws import Draws
from hierasurg_core.training.source import BatchSource, LatentCacheSource
from hierasurg_core.training.stages import M2VStage, S2MStage, Stage
from hierasurg_core.training.trainer import TrainResult, train

__all__ = [
    "NO_LABEL",
    "Batch",
    "BatchSource",
    "Draws",
    "LatentCacheSource",
    "M2VStage",
    "S2MStage",
    "Stage",
    "TrainResult",
    "train",
]
