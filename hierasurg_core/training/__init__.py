"""Training of both transformers: one loop, one `Stage` each, checkpoints that go on to the bit.

It reads no data set and encodes nothing; batches of cached latents come from a `BatchSource`. The names below
are imported when they are first used, so that data sets and paths can be checked before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "Batch": "batch",
    "BatchSource": "source",
    "Draws": "draws",
    "LatentCacheSource": "source",
    "M2VStage": "stages",
    "NO_LABEL": "batch",
    "S2MStage": "stages",
    "Stage": "stages",
    "TrainResult": "trainer",
    "train": "trainer",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
