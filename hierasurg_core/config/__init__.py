"""What a run was asked to do: frozen dataclasses (`runs`), and how files and options fill them (`reading`).

Imports no torch.
"""

from hierasurg_core.config.reading import load_config, to_dict, write_config
from hierasurg_core.config.runs import (
    SECTIONS,
    BuildDatasetConfig,
    ExtractConfig,
    GenerateConfig,
    TrainConfig,
)

__all__ = [
    "SECTIONS",
    "BuildDatasetConfig",
    "ExtractConfig",
    "GenerateConfig",
    "TrainConfig",
    "load_config",
    "to_dict",
    "write_config",
]
