"""`dataset/manifest.json`: what a data set holds, written last and read first.

It carries no dates and nothing of the machine, so the same data give the same file.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierasurg_core import taxonomy
from hierasurg_core.artifacts import read_json
from hierasurg_core.config.paths import as_path
from hierasurg_core.datasets.clips import CLIP_FRAMES, ClipForm
from hierasurg_core.datasets.encoder import VaeIdentity
from hierasurg_core.datasets.fingerprint import SCHEMA
from hierasurg_core.datasets.plan import INDEX, LATENTS, DatasetPlan
from hierasurg_core.datasets.usable import TOO_MANY_IDS, count_unusable
from hierasurg_core.errors import DataError, UsageError, shown

MANIFEST = "manifest.json"
_KIND = "hierasurg dataset"
_FILE = re.compile(r"\w[\w.-]{0,199}")  # of a shard: it lies in the data set's own folder
_MOST = 10**9
_LARGEST_SIDE = 1 << 14  # pixels

_PAPERS = (
    "A. P. Twinanda et al. EndoNet: A Deep Architecture for Recognition Tasks on Laparoscopic Videos. 2017.",
    (
        "C. I. Nwoye et al. Rendezvous: Attention Mechanisms for the Recognition of Surgical Action Triplets "
        "in Endoscopic Videos. 2022."
    ),
    "C. I. Nwoye and N. Padoy. arXiv:2204.05235 (splits and metrics of CholecT45 and CholecT50). 2022.",
)
NOTICE = {
    "data": "Made from data of CAMMA, University of Strasbourg: Cholec80, CholecT45 or CholecT50.",
    "license": "CC BY-NC-SA 4.0",
    "terms": "All here, and models trained on it, derive from them: no commercial use, share alike, cite.",
    "papers": list(_PAPERS),
}


@dataclass(frozen=True)
class ShardEntry:
    """A shard that the manifest names.

    Attributes:
        video: "video01".
        split: "train" or "val".
        path: Its file.
        clips: How many it holds.
        fingerprint: What it is made from.
    """

    video: str
    split: str
    path: Path
    clips: int
    fingerprint: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A data set's manifest, checked.

    Attributes:
        folder: The data set.
        contents: "latents" or "index".
        form: What its clips look like.
        vae: Whose latents they are, or are to be.
        sources: Where frames and maps lay when it was built, "videos" and "maps"; see `folder_of`.
        flip: Probability of flips for training on the fly.
        object_dropout: The same for object dropout.
        shards: All of them, in order.
    """

    folder: Path
    contents: str
    form: ClipForm
    vae: VaeIdentity
    sources: dict[str, str]
    flip: float
    object_dropout: float
    shards: tuple[ShardEntry, ...]

    def folder_of(self, kind: str, advice: str = "bring it back") -> Path:
        """Returns the folder of the frames ("videos") or maps ("maps") that the data set was made of.

        A relative folder is looked for beside the data set, then in the working folder.

        Args:
            kind: "videos" or "maps".
            advice: What else helps when the folder is gone, for the message.

        Raises:
            DataError: It is not there, or the manifest names no path.
        """
        try:
            said = as_path(f"sources.{kind}", self.sources[kind])
        except (KeyError, UsageError) as error:
            raise DataError(
                f"{self.folder / MANIFEST} is damaged: {error}; build the data set again"
            ) from error
        for folder in (self.folder.parent / said, said):
            if folder.is_dir():
                return folder
        raise DataError(
            f"there is no folder {said}, of whose {kind} the data set {self.folder} was made: run in the "
            f"folder in which it was built, or {advice}"
        )


def describe_dataset(plan: DatasetPlan) -> dict[str, Any]:
    """Returns the manifest of a data set whose shards are all there."""
    config = plan.config
    clips = {
        split: sum(len(video.clips.starts) for video in plan.videos if video.split == split)
        for split in plan.splits.names
    }
    unusable = {video.name: count_unusable(shard.path for shard in video.shards) for video in plan.videos}
    phantom = all(video.reader.folder.is_phantom for video in plan.videos)  # nobody's data
    return {
        "kind": _KIND,
        "schema": SCHEMA,
        "contents": plan.contents,
        **({"notice": NOTICE} if config.notice and not phantom else {}),
        "form": dataclasses.asdict(plan.form),
        "frames_a_clip": plan.form.num_frames,
        "labels_a_clip": plan.form.seconds,
        "flip": config.flip,
        "object_dropout": config.object_dropout,
        "vae": dataclasses.asdict(plan.vae),
        "sources": {"videos": str(config.videos), "maps": str(config.maps or config.videos)},
        "vocabularies": {
            "phase": list(taxonomy.PHASES),
            "triplet": [triplet.name for triplet in taxonomy.TRIPLETS],
        },
        "splits": {split: list(names) for split, names in plan.splits.names.items()},
        "clips": clips,
        "s2m_unusable": {
            split: sum(unusable[video.name] for video in plan.videos if video.split == split)
            for split in plan.splits.names
        },
        "s2m_reason": TOO_MANY_IDS,
        "videos": {
            video.name: {
                "split": video.split,
                "frames": video.reader.folder.num_frames,
                "clips": len(video.clips.starts),
                "dropped_black": video.clips.black,
                "dropped_unlabelled": len(video.clips.unlabelled),
                **({"pixels": list(video.reader.folder.pixels)} if video.reader.folder.pixels else {}),
                "s2m_unusable": unusable[video.name],
                "shards": [
                    {"file": shard.path.name, "clips": len(shard.starts), "fingerprint": shard.fingerprint}
                    for shard in video.shards
                ],
            }
            for video in plan.videos
        },
    }


def read_dataset_manifest(folder: Path) -> Manifest:
    """Reads and checks `manifest.json`.

    Raises:
        DataError: There is none (then the data set is not finished), or it is of another program or version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = "is not finished" if any(folder.glob("*.safetensors")) else "is no data set"
        raise DataError(f"{folder} {state}: there is no {MANIFEST}; run 'hierasurg build-dataset'")
    said = read_json(path)
    if not isinstance(said, dict) or said.get("kind") != _KIND:
        raise DataError(f"{path} is no manifest of a hierasurg data set")
    if said.get("schema") != SCHEMA:
        raise DataError(
            f"{folder} has schema {said.get('schema')}, this program reads {SCHEMA}: build the data set again"
        )
    try:
        manifest = _manifest_of(folder, said)
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise DataError(f"{path} is damaged: {error}; build the data set again") from error
    if manifest.contents not in (LATENTS, INDEX):
        raise DataError(f"{path} is damaged: contents are {manifest.contents!r}; build the data set again")
    return manifest


def _manifest_of(folder: Path, said: dict[str, Any]) -> Manifest:
    """Checks every value that anything is made of.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: A value is missing, of the wrong type, or impossible.
    """
    form, vae = said["form"], said["vae"]
    shards: list[ShardEntry] = []
    for name, video in said["videos"].items():
        for shard in video["shards"]:
            file = _text(f"a file of {name}", shard["file"])
            if not _FILE.fullmatch(file):
                raise ValueError(f"a file of {name} is {shown(file)}")
            clips = _whole(f"clips of {file}", shard["clips"], 0, _MOST)
            if not isinstance(shard["fingerprint"], dict):
                raise TypeError(f"the fingerprint of {file} is {shown(shard['fingerprint'])}")
            split = _text(f"split of {name}", video["split"])
            shards.append(ShardEntry(name, split, folder / file, clips, shard["fingerprint"]))
    sources = {key: _text(f"sources.{key}", value) for key, value in said["sources"].items()}
    if said["contents"] == INDEX:
        for key in ("videos", "maps"):
            as_path(f"sources.{key}", sources[key])
    if form["fps"] not in CLIP_FRAMES:
        raise ValueError(f"form.fps is {shown(form['fps'])}")
    return Manifest(
        folder=folder,
        contents=said["contents"],
        form=ClipForm(
            fps=_whole("form.fps", form["fps"], 1, _MOST),
            step=_whole("form.step", form["step"], 1, _MOST),
            size_hw=_size("form.size_hw", form["size_hw"]),
            map_size_hw=_size("form.map_size_hw", form["map_size_hw"]),
            first_frames=_whole("form.first_frames", form["first_frames"], 1, 10_000),
            seed=_whole("form.seed", form["seed"], 0, 2**63 - 1),
        ),
        vae=VaeIdentity(
            name=_text("vae.name", vae["name"]),
            sha256=_text("vae.sha256", vae["sha256"]),
            size_hw=_size("vae.size_hw", vae["size_hw"]),
            channels=_whole("vae.channels", vae["channels"], 1, 4096),
            scaling_factor=_real("vae.scaling_factor", vae["scaling_factor"], 1e-4, 1e4),
        ),
        sources=sources,
        flip=_real("flip", said["flip"], 0, 1),
        object_dropout=_real("object_dropout", said["object_dropout"], 0, 1),
        shards=tuple(shards),
    )


def _whole(name: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, not a whole number from {low} to {high}")
    return value


def _real(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, not a number from {low:g} to {high:g}")
    return float(value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}, not text")
    return value


def _size(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} is {shown(value)}, not [rows, columns]")
    rows, columns = (_whole(name, side, 8, _LARGEST_SIDE) for side in value)
    return rows, columns
