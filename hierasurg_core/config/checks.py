"""The ranges that settings are held to, for the config dataclasses to share.

Each check raises a `UsageError` that names the setting, its value and what is possible.
"""

import math
import re
import typing
from collections.abc import Sequence
from typing import Any, Literal

from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import UsageError, shown

SAM_NAMES = ("mini", "tiny", "small", "base-plus", "large")

_MAX_SEED = 2**63 - 1
_SIZE_HW = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")


def check_choices(config: object) -> None:
    """Holds fields with a fixed choice to it, also where the dataclass is built without `load_config`."""
    for name, kind in typing.get_type_hints(type(config)).items():
        choices = [argument for part in (kind, *typing.get_args(kind)) for argument in _literals(part)]
        value = getattr(config, name)
        if choices and value is not None and value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")


def _literals(kind: Any) -> tuple[object, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def as_size(name: str, text: str | None) -> tuple[int, int] | None:
    """Reads "480x720", rows first."""
    if text is None:
        return None
    match = _SIZE_HW.fullmatch(text)
    if match is None:
        raise UsageError(f"{name} must be rows x columns like 480x720, not {shown(text)}")
    return int(match[1]), int(match[2])


def at_least(name: str, value: float, lowest: int) -> None:
    """Holds a number to `lowest` or more, and to be finite."""
    if not (value >= lowest and math.isfinite(value)):
        raise UsageError(f"{name} must be {lowest} or more, not {value}")


def at_most(name: str, value: float, highest: int, why: str = "") -> None:
    """Holds a number to `highest` or less; `why` follows it in the message."""
    if value > highest:
        raise UsageError(f"{name} must be {highest} or less{why}, not {shown(value)}")


def above_zero(name: str, value: float) -> None:
    """Holds a number to be positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name} must be more than 0, not {value}")


def fraction(name: str, value: float) -> None:
    """Holds a number to [0, 1)."""
    if not 0 <= value < 1:
        raise UsageError(f"{name} must be at least 0 and less than 1, not {value}")


def in_seeds(seed: int) -> None:
    """Holds a seed to what generators take."""
    if not 0 <= seed <= _MAX_SEED:
        raise UsageError(f"seed must lie between 0 and {_MAX_SEED}, not {seed}")


def check_size_hw(name: str, text: str) -> None:
    """Holds rows x columns to what the models can take: sides divisible by 16."""
    match = _SIZE_HW.fullmatch(text)
    if not match:
        raise UsageError(f"{name} must be rows x columns, as 480x720, not {shown(text)}")
    nearest = "x".join(str(max(16, round(int(side) / 16) * 16)) for side in match.groups())
    if text != nearest:
        raise UsageError(
            f"{name} {text} is not possible: sides must be divisible by 16; nearest is {nearest}"
        )


def check_sam(name: str, others: Sequence[str] = ()) -> None:
    """Holds the name of a SAM 2 to those that exist, `others`, and folders that are there.

    It is checked also where a run needs none, so that a slip of the pen shows at once.
    """
    names = (*SAM_NAMES, *others)
    if name not in names and not (as_path("sam", name) / "config.json").is_file():
        raise UsageError(
            f"sam {shown(name)} does not exist: use {', '.join(names)}, or the folder of a SAM 2 of this "
            "project"
        )


def check_device(device: str) -> None:
    """Holds a device's name to those that exist anywhere."""
    if not _DEVICE.fullmatch(device):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, not {shown(device)}")
