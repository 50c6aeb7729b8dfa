"""Both sides of an evaluation as clips with all that belongs to them, and in words what does not.

Owns what an evaluation starts from: which clips are measured, which real clip and which given frame each has,
and what to tell the user where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.errors import DataError
from hierasurg_core.evaluation.collect import Task, pair_up, real_tasks
from hierasurg_core.evaluation.protocol import Protocol
from hierasurg_core.evaluation.recordings import Side, Unreadable, cut
from hierasurg_core.evaluation.settling import Sampling


@dataclass(frozen=True, eq=False)
class Taken:
    """What is measured.

    Attributes:
        generated: Clips of the generated side.
        real: Clips of the real side.
        generated_unreadable: What of it was left out.
        real_unreadable: The same of the real side.
        no_real: Why clips have no real clip beside them, for those that have none.
        no_given: Why their given frame is not known.
        notes: What a reader has to know.
    """

    generated: tuple[Task, ...]
    real: tuple[Task, ...]
    generated_unreadable: tuple[Unreadable, ...]
    real_unreadable: tuple[Unreadable, ...]
    no_real: str
    no_given: str
    notes: tuple[str, ...]


def take(
    config: EvaluateConfig, protocol: Protocol, sampling: Sampling, generated: Side, real: Side
) -> Taken:
    """Cuts both sides into clips, no more than config and protocol ask for, and pairs them.

    Raises:
        DataError: No clip of a side is long enough.
    """
    cuts = [
        cut(
            side,
            frames=sampling.frames,
            stride=sampling.stride * step,
            skip=sampling.skip * step,
            num=min((most for most in (config.num, asked) if most is not None), default=None),
        )
        for side, step, asked in (
            (generated, sampling.generated_step, protocol.num_generated),
            (real, sampling.real_step, protocol.num_real),
        )
    ]
    for side, (clips, short) in zip((generated, real), cuts, strict=True):
        if not clips:
            first = f"{short[0].file}: {short[0].why}" if short else "it is empty"
            raise DataError(
                f"no clip of {side.path} is long enough ({first}); give a smaller --clip-frames or --stride"
            )
    (generated_clips, generated_short), (real_clips, real_short) = cuts
    tasks = pair_up(
        generated_clips,
        generated,
        real,
        stride_ratio=sampling.real_step / sampling.generated_step,
        offsets=sampling.offsets(sampling.real_step),
    )
    unsure = [task.unsure for task in tasks if task.unsure is not None]
    notes = [*sampling.notes, *generated.notes, *real.notes]
    paired = sum(task.real is not None for task in tasks)
    if 0 < paired < len(tasks):
        notes.append(f"{paired} of {len(tasks)} generated clips have a real clip beside them")
    if unsure:
        notes.append(f"{len(unsure)} generated clips do not find their real clip, first {unsure[0]}")
    no_real = (
        unsure[0]
        if unsure
        else (
            "no generated clip says which real clip it was started from ('generate --from-dataset' does), "
            "and none has the name of a real one"
        )
    )
    no_given = unsure[0] if unsure else "the generated clips do not say with which frame they were to begin"
    return Taken(
        tuple(tasks),
        tuple(real_tasks(real_clips)),
        (*generated.unreadable, *generated_short),
        (*real.unreadable, *real_short),
        no_real,
        no_given,
        tuple(notes),
    )
