"""How many clips of a data set S2M cannot learn from, and why.

S2M sees maps as colours, of which a clip can have `MAX_LEVELS`. M2V takes maps with any number of ids.
"""

from collections.abc import Iterable
from pathlib import Path

from hierasurg_core.datasets.shards import Shard
from hierasurg_core.maps import MAX_LEVELS

TOO_MANY_IDS = f"more than {MAX_LEVELS} ids, which S2M's colours cannot tell apart"
ADVICE = (
    f"label with --max-objects {MAX_LEVELS - 2} or less, then build it with --no-resume, or train S2M with "
    "--maps ids"
)


def count_unusable(shards: Iterable[Path]) -> int:
    """Returns how many clips of some shards have too many ids for S2M.

    Shards of a version that did not look count none.

    Raises:
        DataError: A shard is missing or damaged.
    """
    total = 0
    for path in shards:
        tensors = Shard(path).tensors
        if "picture_index" in tensors:
            total += int((tensors["picture_index"][:, 0] < 0).sum())
        elif "paintable" in tensors:
            total += int((tensors["paintable"] == 0).sum())
    return total


def unusable_in_words(unusable: int, clips: int) -> str:
    """Says it: "S2M cannot learn from 3 of 8 clips: they have more than 20 ids, ..."."""
    return f"S2M cannot learn from {unusable} of {clips} clips: they have {TOO_MANY_IDS} (M2V can); {ADVICE}"
