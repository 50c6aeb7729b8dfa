"""Triplets over time: which of them each second of a clip has.

Owns the form "grasper,retract,gallbladder@0-7; hook,dissect,cystic_duct@8-15". It refuses two triplets in
one second: the models read one a second, that of CholecT50's first instance.

Source: HieraSurg's public code, which reads one id a frame, that of the frame's first instance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hierasurg_core.errors import UsageError, shown
from hierasurg_core.taxonomy import TRIPLETS, parse_triplet

UNKNOWN = -1  # a phase or triplet that is not given
AT_ONCE = "+"  # between triplets of the same seconds
_SPAN = re.compile(r"\s*(\d{1,9})\s*(?:(-)\s*(\d{1,9})?\s*)?")


def parse_triplets(text: str, seconds: int) -> int | tuple[int, ...]:
    """Reads what a clip does: one triplet for all of it, or spans of seconds with one each.

    Args:
        text: As `taxonomy.parse_triplet` takes it; or several with "@FIRST-LAST", "@FIRST-" or "@SECOND"
            behind each and ";" between them. Both ends belong to a span; seconds in no span have none.
        seconds: Of the clip.

    Returns:
        An id, or one a second, -1 for none.

    Raises:
        UsageError: An unknown triplet, a span outside of the clip, or two triplets in one second.

    Example:
        >>> parse_triplets("17@0-2; 60@4-", 6)
        (17, 17, 17, -1, 60, 60)
    """
    if AT_ONCE in text:
        names = [TRIPLETS[parse_triplet(part).id].name for part in text.split(AT_ONCE)]
        raise _at_once(names, "give each its seconds: A@0-7; B@8-15")
    if "@" not in text:
        return parse_triplet(text).id
    ids = [UNKNOWN] * seconds
    for part in text.split(";"):
        if not part.strip():
            continue
        name, at, span = part.rpartition("@")
        match = _SPAN.fullmatch(span)
        if not at or match is None:
            raise UsageError(
                f"{shown(part.strip())} is no triplet with seconds: write instrument,verb,target@FIRST-LAST"
            )
        first = int(match[1])
        last = first if match[2] is None else seconds - 1 if match[3] is None else int(match[3])
        if not first <= last < seconds:
            raise UsageError(
                f"the seconds {span.strip()} of {part.strip()!r} are not possible: "
                f"the clip has seconds 0 to {seconds - 1}"
            )
        triplet = parse_triplet(name).id
        for second in range(first, last + 1):
            if ids[second] != UNKNOWN:
                raise _at_once([TRIPLETS[id_].name for id_ in (ids[second], triplet)], f"see second {second}")
            ids[second] = triplet
    return tuple(ids)


def _at_once(names: Sequence[str], advice: str) -> UsageError:
    return UsageError(
        f"{' and '.join(names)} at once are not possible: these models were trained on one triplet a second, "
        f"that of the first instance; {advice}"
    )
