"""What a run was asked to do: frozen dataclasses (`runs`), and how files and options fill them (`reading`).

Imports no torch.
"""

from hierasurg_core.config.evaluate import EvaluateConfig
from hierasurg_core.config.label import LabelConfig
from hierasurg_core.config.reading import given_settings, load_config, to_dict, write_config
from hierasurg_core.config.runs import (
    SECTIONS,
    BuildDatasetConfig,
    ExtractConfig,
    GenerateConfig,
)
from hierasurg_core.config.train import (
    PRESETS,
    STUDENT_SUFFIX,
    TrainConfig,
    TrainM2VConfig,
    TrainS2MConfig,
    TrainStageConfig,
    unconditional_folder,
)

__all__ = [
    "PRESETS",
    "SECTIONS",
    "STUDENT_SUFFIX",
    "BuildDatasetConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "GenerateConfig",
    "LabelConfig",
    "TrainConfig",
    "TrainM2VConfig",
    "TrainS2MConfig",
    "TrainStageConfig",
    "given_settings",
    "load_config",
    "to_dict",
    "unconditional_folder",
    "write_config",
]
