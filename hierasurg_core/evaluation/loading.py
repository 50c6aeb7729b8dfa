"""Which networks take part in an evaluation: those asked for, and those whose weights are at hand.

Owns that choice, and the line for each that stays away. A network that is missing or damaged costs its own
metrics only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from hierasurg_core.config import EvaluateConfig
from hierasurg_core.config.evaluate import NONE
from hierasurg_core.errors import WeightsError
from hierasurg_core.evaluation.baselines import VaeRoundTrip, find_vae
from hierasurg_core.evaluation.classifier import load_classifier
from hierasurg_core.evaluation.computing import CONDITIONS, DISTRIBUTIONS
from hierasurg_core.evaluation.conditional import LpipsMeasurer, MapMeasurer, PairMeasurer
from hierasurg_core.evaluation.detecting import DetectorMeasurer
from hierasurg_core.evaluation.extractors import (
    I3D,
    INCEPTION,
    LPIPS,
    VIDEOMAE,
    I3DExtractor,
    InceptionExtractor,
    MiniExtractor,
    Published,
    VideoMAEExtractor,
    find_weights,
)
from hierasurg_core.evaluation.measuring import Measurer
from hierasurg_core.evaluation.protocol import Protocol
from hierasurg_core.evaluation.recordings import Side
from hierasurg_core.evaluation.table import Table
from hierasurg_core.progress import Progress
from hierasurg_core.runtime import resolve_dtype

MINI = "mini"
AUTO = "auto"
_OLD_MINI_NAME = "bundled mini models"  # in the model's name, of records that do not say it of the VAE

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, eq=False)
class Networks:
    """What measures.

    Attributes:
        measurers: By role.
        vae: Of the reconstruction; None without.
        mini_maps: Whether the mini SAM 2 judges maps.
    """

    measurers: dict[str, Measurer]
    vae: VaeRoundTrip | None
    mini_maps: bool


def load_networks(
    config: EvaluateConfig,
    protocol: Protocol,
    sides: tuple[Side, Side],
    device: torch.device,
    mini: Path,
    table: Table,
    progress: Progress,
) -> Networks:
    """Loads all that take part.

    Args:
        config: What was asked for.
        protocol: How networks see clips.
        sides: Generated and real.
        device: Where networks run.
        mini: Folder of the mini network.
        table: Is told what is left out.
        progress: Told of each network.
    """
    progress.start("load networks", None, "networks")
    generated, real = sides
    measurers: dict[str, Measurer] = {"pairs": PairMeasurer()}

    def attempt(names: tuple[str, ...], load: Callable[[], Loaded | None], without: str) -> Loaded | None:
        """Loads one, or says in the table why not."""
        try:
            loaded = load()
        except WeightsError as error:
            table.leave_out(names, " ".join(str(error).split()))
            return None
        if loaded is None:
            table.leave_out(names, without)
        else:
            progress.advance()
        return loaded

    def found(published: Published, given: Path | None, make: Callable[[Path], Measurer]) -> Measurer | None:
        path = find_weights(published, given, config.weights_dir)
        return None if path is None else make(path)

    agreement = (
        tuple(f"{name}-mini" for name in CONDITIONS["classifier"]) if config.classifier == MINI else ()
    )
    loaded: list[Measurer | None] = [
        attempt((*DISTRIBUTIONS["mini"], *agreement), lambda: MiniExtractor(device, mini), ""),
        attempt(
            DISTRIBUTIONS["i3d"],
            lambda: found(I3D, config.i3d, lambda path: I3DExtractor(path, protocol, device)),
            I3D.missing,
        ),
        attempt(
            DISTRIBUTIONS["videomae"],
            lambda: found(VIDEOMAE, config.videomae, lambda path: VideoMAEExtractor(path, protocol, device)),
            VIDEOMAE.missing,
        ),
        attempt(
            DISTRIBUTIONS["inception"],
            lambda: found(INCEPTION, config.inception, lambda path: InceptionExtractor(path, device)),
            INCEPTION.missing,
        ),
        attempt(
            CONDITIONS["lpips"],
            lambda: found(LPIPS, config.lpips, lambda path: LpipsMeasurer(path, device)),
            LPIPS.missing,
        ),
    ]
    if config.classifier not in (MINI, NONE):
        loaded.append(
            attempt(CONDITIONS["classifier"], lambda: load_classifier(config.classifier, device), "")
        )
    elif config.classifier == NONE:
        table.leave_out(CONDITIONS["classifier"], "no classifier was asked for")
    detector = config.detector
    loaded.append(
        attempt(
            CONDITIONS["detector"],
            lambda: None if detector is None else DetectorMeasurer(detector, device),
            "no detector: give --detector FILE, a TorchScript or an ultralytics model",
        )
    )
    sam = _which_sam(config, generated)
    loaded.append(attempt(CONDITIONS["maps"], lambda: _maps(sam, config, device), _NO_SAM))
    measurers |= {measurer.role: measurer for measurer in loaded if measurer is not None}
    vae = attempt(("vae baseline",), lambda: _vae(config, generated, real, device), "")
    return Networks(measurers, vae, sam == MINI)


_NO_SAM = "no SAM 2: give --sam tiny, small, base-plus or large with --weights-dir, or mini for phantom clips"


def _which_sam(config: EvaluateConfig, generated: Side) -> str | None:
    """The SAM 2 to load; the mini one by itself only for what the mini models made."""
    if config.sam != AUTO:
        return None if config.sam == NONE else config.sam
    return MINI if any(_is_of_mini(recording.made_by) for recording in generated.recordings) else None


def _is_of_mini(made_by: Mapping[str, Any]) -> bool:
    """Tells whether a record's "model" has the mini VAE; records from before that field: by its name."""
    vae = made_by.get("vae")
    mini = vae.get("mini") if isinstance(vae, dict) else None
    return mini if isinstance(mini, bool) else _OLD_MINI_NAME in str(made_by.get("name", ""))


def _maps(sam: str | None, config: EvaluateConfig, device: torch.device) -> MapMeasurer | None:
    if sam is None:
        return None
    from hierasurg_core.labeling.segmenter import MaskPrompt, load_segmenter

    dtype = resolve_dtype(config.dtype, device)
    segmenter = load_segmenter(
        sam, checkpoint=None, weights_dir=config.weights_dir, device=device, dtype=dtype, compile=False
    )
    return MapMeasurer(segmenter, MaskPrompt, dtype)


def _vae(config: EvaluateConfig, generated: Side, real: Side, device: torch.device) -> VaeRoundTrip:
    folder, name = find_vae(config.vae, generated, real)
    return VaeRoundTrip(folder, name, device, resolve_dtype(config.dtype, device))
