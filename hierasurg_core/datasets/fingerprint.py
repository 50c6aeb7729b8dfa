"""What a shard was made from, so that one made from something else is refused by name.

A fingerprint is a flat table of texts and numbers, kept in each shard's header. Two are compared entry by
entry, and what differs is said in words. It looks at no time stamps: a copied folder is the same folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from hierasurg_core.datasets.annotations import OperationLabels
from hierasurg_core.errors import DataError

SCHEMA = 1  # of shards and manifest; rises when what they hold or how it is made changes

Fingerprint = dict[str, str | int | float]

_WORDS = {
    "schema": "the form of shards",
    "contents": "what is stored",
    "vae": "the VAE's weights",
    "precision": "the number type of the VAE",
    "fps": "the frame rate",
    "step": "the step between clips",
    "size": "the size of video and maps",
    "map_size": "the size of coloured maps",
    "first_frames": "the number of first frames",
    "seed": "the seed",
    "flip": "the probability of flips, or the split",
    "object_dropout": "the probability of object dropout, or the split",
    "frames": "the video's frames",
    "maps": "the video's maps",
    "labels": "the video's labels",
    "clips": "the clips in this shard",
}


def differences(stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Returns what differs, in words: "the frame rate (was 1, now 8)"."""
    return [
        f"{_WORDS.get(name, name)} (was {_short(stored.get(name))}, now {_short(wanted.get(name))})"
        for name in dict.fromkeys([*wanted, *stored])
        if stored.get(name) != wanted.get(name)
    ]


def expect_same(path: Path, stored: Mapping[str, object], wanted: Mapping[str, object], advice: str) -> None:
    """Refuses a shard that was made from something else.

    Raises:
        DataError: The message names the shard, all that differs, and the advice.
    """
    changed = differences(stored, wanted)
    if changed:
        verb = "differs" if len(changed) == 1 else "differ"
        raise DataError(f"{path} is stale: {' and '.join(changed)} {verb}; {advice}")


def digest_of_labels(labels: OperationLabels | None) -> str:
    """Returns a SHA-256 of what the labels say, whatever file said it; "none" without labels."""
    if labels is None:
        return "none"
    said = [labels.fps, labels.num_frames, labels.phase_F.tolist(), [list(ids) for ids in labels.triplets_F]]
    return digest_of(said)


def digest_of(value: object) -> str:
    """Returns a SHA-256 of a value that JSON can say."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _short(value: object) -> str:
    """A digest by its first digits."""
    if value is None:
        return "absent"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)
