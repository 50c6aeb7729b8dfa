"""Names of samples, so that no request overwrites what another one made.

A sample that a request made before keeps its name, whatever else lies in the folder. What a request still has
to make gets the next free numbers; where it names its samples itself, a name that another request used is
refused. The request's own files (`generate.yaml`, `contact_sheet.png`) carry the name of its first sample
where the plain names belong to another request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hierasurg_core.config import GenerateConfig, load_config, to_dict
from hierasurg_core.errors import DataError, HieraSurgError
from hierasurg_core.generation.outputs import possible_paths
from hierasurg_core.generation.records import marked_fingerprints
from hierasurg_core.generation.requests import Job
from hierasurg_core.generation.storyboard import Story

CONFIG_FILE = "generate.yaml"
SHEET_FILE = "contact_sheet.png"
_NUMBER = re.compile(r"\.?(\d{4,})(?=[._]|$)")
_FORMS = ("maps_dir", "frames_dir", "overlay", "side_by_side", "gif", "contact_sheet")
_RANKS = ("gpus", "nodes", "node_rank", "rendezvous")
_HOW = ("num", "limit", "batch", *_RANKS, "resume", "device", "compile", "memory", "out")
_OF_ONE_CALL = frozenset((*_FORMS, *_HOW))  # fields that may differ between calls of one request


def settle_names(
    config: GenerateConfig, work: Sequence[Job | Story], fingerprint_of: Callable[[Job | Story], str]
) -> list[str]:
    """Returns the names of a request's samples in a folder that may hold samples already.

    Args:
        config: What was asked for.
        work: The samples, named as in an empty folder.
        fingerprint_of: Returns the digest of what decides a sample's bytes; called only where it matters.

    Raises:
        DataError: A name that the user chose is that of another request's sample, and `resume` is on.
    """
    names = [unit.name for unit in work]
    numbered = [index for index, name in enumerate(names) if name == _name_of(index)]
    chosen = [unit for index, unit in enumerate(work) if names[index] != _name_of(index)]
    if config.resume:
        for unit in chosen:
            _expect_own(config.out, unit, fingerprint_of)
    taken = _taken_numbers(config.out)
    if not numbered or not taken:
        return names
    known = _numbers_by_fingerprint(config.out, taken)
    found: list[int | None] = []
    for index in numbered:
        same = known.get(fingerprint_of(work[index]), [])
        found.append(same.pop(0) if same else None)
    taken |= {int(unit.name) for unit in chosen if unit.name.isdecimal()}
    for index, number in zip(numbered, _filled(found, taken), strict=True):
        names[index] = _name_of(number)
    return names


def own_file(config: GenerateConfig, file: str, first: str) -> Path:
    """Returns where a file about a whole request goes: `FILE`, or `STEM_FIRST.SUFFIX`.

    Args:
        config: The request.
        file: The plain name, which belongs to the request that `generate.yaml` describes.
        first: Name of this request's first sample.
    """
    written, plain = config.out / CONFIG_FILE, config.out / file
    if not written.exists() or _config_in(written) == _without_call(config):
        return plain
    return plain.with_name(f"{plain.stem}_{first}{plain.suffix}")


def _name_of(number: int) -> str:
    return f"{number:04d}"


def _expect_own(out: Path, unit: Job | Story, fingerprint_of: Callable[[Job | Story], str]) -> None:
    """Refuses a name of which the folder holds something that this request did not make."""
    says = marked_fingerprints(out, unit.name)
    if says:
        theirs = fingerprint_of(unit) not in says
    else:
        theirs = any(path.exists() for path in possible_paths(out, unit.name).values())
    if theirs:
        raise DataError(
            f"{out / unit.name} was made by another request, model or setting: give another --out, or "
            "--no-resume to replace it"
        )


def _taken_numbers(out: Path) -> set[int]:
    """Returns the numbers of all samples in a folder, finished or not."""
    if not out.is_dir():
        return set()
    return {int(match[1]) for path in out.iterdir() if (match := _NUMBER.match(path.name))}


def _numbers_by_fingerprint(out: Path, taken: Iterable[int]) -> dict[str | None, list[int]]:
    """Returns which numbers hold samples of which fingerprint; of None, what says nothing of itself."""
    known: dict[str | None, list[int]] = {}
    for number in sorted(taken):
        says = marked_fingerprints(out, _name_of(number))
        known.setdefault(says[0] if says else None, []).append(number)
    return known


def _filled(found: Sequence[int | None], taken: set[int]) -> list[int]:
    """Gives a number to each sample that has none: the next free one behind the sample before it.

    The first samples, where others of the request were found, get the numbers just before those if they are
    free: of processes that share the work and are killed, the first may have written nothing.
    """
    numbers: list[int] = []
    for number in found:
        if number is not None:
            numbers.append(number)
            continue
        free = numbers[-1] + 1 if numbers else _first(found, taken)
        while free in taken:
            free += 1
        taken.add(free)
        numbers.append(free)
    return numbers


def _first(found: Sequence[int | None], taken: set[int]) -> int:
    for place, number in enumerate(found):
        if number is not None and number >= place and number - place not in taken:
            return number - place
    return max(taken) + 1


def _without_call(config: GenerateConfig) -> dict[str, Any]:
    return {name: value for name, value in to_dict(config).items() if name not in _OF_ONE_CALL}


def _config_in(file: Path) -> dict[str, Any] | None:
    """Returns the request that a config file describes; None where it cannot be read."""
    try:
        return _without_call(load_config(GenerateConfig, "generate", files=[file], overrides={}, sets=[]))
    except HieraSurgError:
        return None
