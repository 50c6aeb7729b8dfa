"""From what a user calls a model to a folder on disk: a path, a Hub id, or "mini".

Owns the Hub: nothing else downloads. It fetches JSON, safetensors and single named files only, so nothing
that could run. Without a network it says so at once, in one line: the Hub is asked once whether it answers,
before its client begins to retry.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from hierasurg_core.config.paths import as_path
from hierasurg_core.errors import WeightsError

MINI = "mini"
_BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "mini"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SECONDS_TO_ANSWER = 3.0


def local_folder(name: str, parts: Sequence[str] = (), *, instead: str | None = None) -> Path:
    """Return the folder of a model, fetched from the Hub where it has to be.

    Args:
        name: "mini", a folder, or a Hub id.
        parts: Of a Hub model, the only sub-folders needed ("vae"); empty: everything.
        instead: What the user can do where it is not to be had; None: give a folder, or "mini".

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
    advice = instead or f"give a folder that holds it, or '{MINI}'"
    kinds = ("*.json", "*.safetensors")
    wanted = [f"{part}/{kind}" for part in parts for kind in kinds] or list(kinds)
    return _fetched_folder(name, wanted, advice)


def fetch_file(repository: str, file: str, *, instead: str) -> Path:
    """Return a file of a Hub repository: the copy in the cache, else it is fetched.

    Args:
        repository: Hub id.
        file: Its path in the repository.
        instead: What the user can do where it is not to be had.

    Raises:
        WeightsError: It is not in the cache, and the Hub does not give it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(repository, file, local_files_only=True))
    why_not = why_unreachable()
    if why_not is not None:
        raise _missing(f"{file} of {repository} is not here", why_not, instead)
    try:
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _missing(f"{file} of {repository} is not here", _reason(error), instead) from error


def expect_repository(name: str, revision: str, *, instead: str) -> None:
    """Refuse a repository whose code and weights transformers would fetch, where that is bound to fail.

    Args:
        name: Hub id.
        revision: A commit.
        instead: What the user can do.

    Raises:
        WeightsError: That commit is not in the cache, and the Hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        snapshot_download(name, revision=revision, local_files_only=True)
        return
    why_not = why_unreachable()
    if why_not is not None:
        raise _missing(f"{name}@{revision} is not here", why_not, instead)


def is_at_hand(name: str) -> bool:
    """Tell whether a model can be looked at without fetching anything: it is bundled, or a folder."""
    return name == MINI or as_path("model", name).is_dir()


def why_unreachable() -> str | None:
    """Return why the Hub cannot be asked, None where it answers; asks once, for three seconds at most.

    Proxies and `HF_ENDPOINT` count as they do for the Hub's own client.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask"
    found: list[str | None] = []
    # In a thread: looking up a host's name has no time limit of its own.
    asking = threading.Thread(target=lambda: found.append(_failure(constants.ENDPOINT)), daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_ANSWER)
    silent = f"{constants.ENDPOINT} does not answer within {_SECONDS_TO_ANSWER:.0f} s"
    return found[0] if found else silent


def _failure(endpoint: str) -> str | None:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the Hub's own address
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER):  # noqa: S310
            return None
    except urllib.error.HTTPError:
        return None  # it answers
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return None if isinstance(reason, ssl.SSLError) else f"{endpoint} cannot be reached ({reason})"


def _fetched_folder(name: str, wanted: list[str], advice: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    why_not = why_unreachable()
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=why_not is not None))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise _missing(f"{name} is no folder here", why_not or _reason(error), advice) from error


def _missing(what: str, why: str, instead: str) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"{what}, and the Hub does not give it: the cache {constants.HF_HUB_CACHE} lacks it, and {why}; "
        f"{instead}"
    )


def _reason(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"the Hub says: {said[:200]}"
