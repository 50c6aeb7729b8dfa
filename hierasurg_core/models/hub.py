"""From what a user calls a model to a folder on disk: a path, a Hub id, or "mini".

Owns the Hub: nothing else downloads. It fetches JSON and safetensors only, so nothing that could run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import WeightsError

MINI = "mini"
_BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "mini"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(name: str, parts: Sequence[str] = ()) -> Path:
    """Returns the folder of a model.

    Args:
        name: "mini", a folder, or a Hub id, which is fetched unless it is there already.
        parts: Of a Hub model, the only sub-folders needed ("vae"); empty: everything.

    Raises:
        UsageError: The name is empty, or no path.
        WeightsError: No folder, and the Hub does not give it.
    """
    if name == MINI:
        return _BUNDLED
    folder = as_path("model", name)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name) or folder.exists():
        raise WeightsError(f"there is no model folder {name}: give a folder, a Hub id, or '{MINI}'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    kinds = ("*.json", "*.safetensors")
    wanted = [f"{part}/{kind}" for part in parts for kind in kinds] or list(kinds)
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{name} is no folder here, and the Hub does not give it: {reason}; give a folder, or '{MINI}'"
        ) from error


def is_at_hand(name: str) -> bool:
    """Tells whether a model can be looked at without fetching anything: it is bundled, or a folder."""
    return name == MINI or as_path("model", name).is_dir()
