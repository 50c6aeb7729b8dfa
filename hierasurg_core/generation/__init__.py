"""Generation: a phase and a triplet become maps, and maps become a video.

`generate` is the command; `HieraSurgPipeline` is the same for programs that hold pictures in memory. The
names below are imported when they are first used, so that requests, stories and paths can be checked before
torch is loaded (six seconds).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hierasurg_core.generation.conditions import Sampling
    from hierasurg_core.generation.pipelines import HieraSurgOutput, HieraSurgPipeline
    from hierasurg_core.generation.records import Sample
    from hierasurg_core.generation.samples import GenerateResult, generate

__all__ = ["GenerateResult", "HieraSurgOutput", "HieraSurgPipeline", "Sample", "Sampling", "generate"]

_MODULES = {
    "GenerateResult": "samples",
    "HieraSurgOutput": "pipelines",
    "HieraSurgPipeline": "pipelines",
    "Sample": "records",
    "Sampling": "conditions",
    "generate": "samples",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
