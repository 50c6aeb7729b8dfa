"""Generation: a phase and a triplet become maps, and maps become a video.

`generate` is the command; `HieraSurgPipeline` is the same for programs that hold pictures in memory.
"""

from hierasurg_core.generation.conditions import Sampling
from hierasurg_core.generation.pipelines import HieraSurgOutput, HieraSurgPipeline
from hierasurg_core.generation.records import Sample
from hierasurg_core.generation.samples import GenerateResult, generate

__all__ = ["GenerateResult", "HieraSurgOutput", "HieraSurgPipeline", "Sample", "Sampling", "generate"]
