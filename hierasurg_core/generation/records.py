"""The JSON of a sample: all that is needed to make it again, and to see that it has been made already.

Owns the record's form and the fingerprint in it, a SHA-256 over everything that decides a sample's bytes:
pixels and ids it starts from, words, seed, edits, models, sampling and library versions. A sample is kept
where its record has the fingerprint of what is wanted and the files that were asked for are there.

While a sample's files are written, `.NAME.unfinished` holds its fingerprint. It stays only behind a killed
process, and tells the next run whose files they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hierasurg_core
from hierasurg_core.artifacts import atomic_file, read_json
from hierasurg_core.config import GenerateConfig, to_dict
from hierasurg_core.config.sampling import StageSampling
from hierasurg_core.datasets.clips import CLIP_FRAMES
from hierasurg_core.errors import DataError
from hierasurg_core.generation.outputs import output_paths, possible_paths
from hierasurg_core.generation.sources import ModelPlan
from hierasurg_core.models.attention import chosen_by, kernel_in_use

CLIP_SECONDS = {fps: frames // fps for fps, frames in CLIP_FRAMES.items()}
STORY_STATE = "story.json"  # in a story's `NAME_parts/`
_SCHEMA = 1
_LONGEST_MARK = 200  # characters; a fingerprint has 64
_LIBRARIES = ("torch", "diffusers", "numpy", "av")


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        video: The mp4.
        maps: The mp4 of coloured maps.
        record: Its JSON.
        seed: Which made it.
        kept: It was there already.
        outputs: Other files and folders that were asked for, by form.
        seconds: Time by stage, of the run that made it.
    """

    video: Path
    maps: Path
    record: Path
    seed: int
    kept: bool = False
    outputs: Mapping[str, Path] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "video": str(self.video),
            "maps": str(self.maps),
            "record": str(self.record),
            "seed": self.seed,
            "kept": self.kept,
            "outputs": {form: str(path) for form, path in self.outputs.items()},
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True)
class Run:
    """What all samples of a run share.

    Attributes:
        config: What was asked for.
        plan: The models.
        model: What `plan.describe()` says.
        fps: Frames a second.
        device: Where it is computed.
        dtype: In which numbers.
        kernels: Attention kernel of each stage, once the models are loaded.
    """

    config: GenerateConfig
    plan: ModelPlan
    model: dict[str, Any]
    fps: int
    device: torch.device
    dtype: torch.dtype
    kernels: dict[str, str] = field(default_factory=dict)

    def remember_kernels(self, models: Mapping[str, nn.Module | None]) -> None:
        """Notes which attention kernels the loaded models use."""
        self.kernels.update(
            {name: kernel_in_use(model) for name, model in models.items() if model is not None}
        )

    def computing(self) -> dict[str, Any]:
        """Returns what on a GPU decides about the last bits besides seed and versions, for JSON."""
        return {
            "attention": dict(self.kernels),
            "chosen_by": {name: chosen_by(kernel) for name, kernel in self.kernels.items()},
            "deterministic": self.config.deterministic,
        }

    def sampling_of(self, stage: str) -> StageSampling:
        """Returns how "s2m" or "m2v" is sampled."""
        return self.plan.sampling[stage].settled(stage, self.config)

    @property
    def m2v_steps(self) -> int:
        """Denoising steps of videos."""
        return self.sampling_of("m2v").steps

    @property
    def s2m_steps(self) -> int:
        """Denoising steps of maps; none where they are given."""
        return 0 if self.plan.s2m is None else self.sampling_of("s2m").steps

    @property
    def guided(self) -> bool:
        """Tells whether a stage is guided, which asks its model for two answers at once."""
        return any(self.sampling_of(stage).guidance != 1 for stage in self.plan.sampling)

    @property
    def clip_frames(self) -> int:
        """Frames of one clip."""
        return CLIP_FRAMES[self.fps]

    def sampling(self, num_frames: int) -> dict[str, Any]:
        """Returns how videos are sampled, for JSON."""
        height, width = self.plan.m2v.size_hw
        return {
            **dataclasses.asdict(self.sampling_of("m2v")),
            **self._maps_sampling(),
            "cache": self.config.cache,
            "quantize": self.config.quantize,
            "fps": self.fps,
            "num_frames": num_frames,
            "size_hw": [height, width],
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def _maps_sampling(self) -> dict[str, Any]:
        """Returns what S2M does otherwise than M2V."""
        if self.plan.s2m is None:
            return {}
        maps, video = (dataclasses.asdict(self.sampling_of(stage)) for stage in ("s2m", "m2v"))
        return {f"maps_{name}": value for name, value in maps.items() if value != video[name]}

    def fingerprint(self, wanted: Mapping[str, Any], num_frames: int) -> str:
        """Returns the digest of what decides a sample's bytes.

        Args:
            wanted: What belongs to this sample alone; plain values.
            num_frames: Of its video.
        """
        parts = {name: part["sha256"] for name, part in self.model.items() if name != "name"}
        identity = {
            **wanted,
            "schema": _SCHEMA,
            "model": parts,
            "sampling": {**self.sampling(num_frames), "device": self.device.type},
            **({"deterministic": True} if self.config.deterministic else {}),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Clock:
    """Seconds by stage; several threads may use one. Stages that ran beside each other count each in full."""

    def __init__(self) -> None:
        """Has no stage yet."""
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        began = time.monotonic()
        yield
        with self._lock:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 3)


def versions() -> dict[str, str]:
    """Returns the versions that a sample's bytes may depend on."""
    return {
        "hierasurg": hierasurg_core.__version__,
        "python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
    }


def describe_sample(
    run: Run,
    name: str,
    seed: int,
    *,
    told: Mapping[str, Any],
    num_frames: int,
    fingerprint: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Returns the record of a sample whose files are written.

    Args:
        run: What it shares with others.
        name: Of its files.
        seed: Of its noise.
        told: What it starts from and what was asked for: "phase", "triplet", "start", "notes" and such.
        num_frames: Of its video.
        fingerprint: Of what decides its bytes.
        seconds: Time by stage.
    """
    paths = possible_paths(run.config.out, name)
    files = {form: path.name for form, path in paths.items() if path.exists()}
    return {
        "schema": _SCHEMA,
        "video": files.pop("video"),
        "maps": files.pop("maps"),
        "outputs": files,
        "seed": seed,
        **told,
        "sampling": run.sampling(num_frames),
        "computing": run.computing(),
        "model": run.model,
        "config": to_dict(run.config),
        "versions": versions(),
        "fingerprint": fingerprint,
        "seconds": dict(seconds),
    }


def unfinished_file(out: Path, name: str) -> Path:
    """Returns the file that is there while a sample's files are written."""
    return out / f".{name}.unfinished"


@contextlib.contextmanager
def writing_sample(out: Path, name: str, fingerprint: str) -> Iterator[None]:
    """Marks a sample as unfinished while the block writes its files and, at last, its record.

    An error or an interrupt takes away what the block wrote, unless the sample was there before. Files of
    another sample of this name, which the user wanted to replace, are taken away first.

    Raises:
        ResourceError: The folder cannot be written.
    """
    record, mark = out / f"{name}.json", unfinished_file(out, name)
    if any(found != fingerprint for found in marked_fingerprints(out, name)):
        _remove(out, name)
    was_there = record.is_file()
    with atomic_file(mark, durable=False) as part:
        part.write_text(fingerprint, encoding="ascii")
    with contextlib.ExitStack() as stack:
        stack.callback(mark.unlink, missing_ok=True)
        with contextlib.ExitStack() as undo:
            if not was_there:
                undo.callback(_remove, out, name)
            yield
            undo.pop_all()


def _remove(out: Path, name: str) -> None:
    """Deletes a sample, its record first."""
    (out / f"{name}.json").unlink(missing_ok=True)
    for path in possible_paths(out, name).values():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def marked_fingerprints(out: Path, name: str) -> list[str | None]:
    """Returns whose files those of a name are: what its record, its mark and a story's parts say.

    None stands for a file that says nothing; an empty list for a name of which no file speaks.
    """
    story = out / f"{name}_parts" / STORY_STATE
    found = [fingerprint_in(file) for file in (out / f"{name}.json", story) if file.exists()]
    mark = unfinished_file(out, name)
    if not mark.is_file():
        return found
    with mark.open("rb") as file:
        return [*found, file.read(_LONGEST_MARK).decode("ascii", errors="replace")]


def fingerprint_in(file: Path) -> str | None:
    """Returns the fingerprint that a record, or another JSON file of ours, holds; None where it has none."""
    if not file.is_file():
        return None
    try:
        said = read_json(file)
    except DataError:
        return None
    found = said.get("fingerprint") if isinstance(said, dict) else None
    return found if isinstance(found, str) else None


def as_sample(
    config: GenerateConfig, name: str, seed: int, seconds: Mapping[str, float], *, kept: bool
) -> Sample:
    """Returns a sample by its name."""
    paths = output_paths(config, name)
    video, maps = paths.pop("video"), paths.pop("maps")
    return Sample(video, maps, config.out / f"{name}.json", seed, kept, paths, seconds)


def seconds_if_made(config: GenerateConfig, name: str, fingerprint: str) -> dict[str, float] | None:
    """Returns how long a sample took that is there already, None where it has to be made.

    A record that cannot be read counts as none: it is replaced.
    """
    path = config.out / f"{name}.json"
    if not path.is_file() or not all(made.exists() for made in output_paths(config, name).values()):
        return None
    try:
        said = read_json(path)
    except DataError:
        return None
    if not isinstance(said, dict) or said.get("fingerprint") != fingerprint:
        return None
    seconds = said.get("seconds")
    return seconds if isinstance(seconds, dict) else {}
