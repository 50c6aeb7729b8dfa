"""What the recipe's models learn from: phantom clips, drawn and encoded.

Owns the draws of both stages, and how processes share them. Refuses: any other data, and the order in which
clips are taken.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierasurg_core.errors import ResourceError
from hierasurg_core.maps import PanopticClip, number_by_appearance
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    encode_frames,
    encode_video,
    frames_a_latent,
    load_vae,
    single_frame_vae,
)
from hierasurg_core.phantom.courses import draw_courses
from hierasurg_core.phantom.draw import DrawnClips, draw_clips
from hierasurg_core.phantom.vae import (
    HELD_OUT_SEED,
    coloured_maps,
    padded_video,
    palette_table,
    random_labels,
    signed_pixels,
)
from hierasurg_core.runtime import resolve_dtype
from hierasurg_core.training import Batch

NUM_NUMBERS = 20
"""Numbers of the mini S2M on ids, background and border included."""
_BY_CHANCE = 0.25
_ENCODE_CLIPS = 40  # a process takes 6 GB and more for them; of 128 it took 13
_ENCODE_FRAMES = 256  # many small frames at once, as a GPU waits for launches else
_SHUFFLED = 0.3  # of the clips have ids in random order; the others follow the classes, as the gallery does
_EXTRAS = 0.4  # chance of a target that the phase does not ask for: whatever is in view may be asked for
_FIRST_FRAMES = 2
PHOTOS = "first_frames_NKCHW"
"""Name of first photos in variants among the tensors of a part."""
_PART_CLIPS = 1024  # drawn from one seed, by one process

Tensors = dict[str, Tensor]


def draw_together(
    stage: str,
    vae_folder: Path,
    count: int,
    seed: int,
    device: torch.device,
    workers: int = 1,
    courses: float = 0.0,
) -> tuple[Batch, Tensor | None]:
    """Draws and encodes clips of a stage, in several processes where asked.

    A GPU draws small clips as fast as one process can launch its kernels, so that a few processes share one
    well: six draw S2M's 16,384 clips in 55 s of an H100. How many draw changes no clip.

    Args:
        stage: "s2m", "s2m-colours" or "m2v".
        vae_folder: The VAE that encodes.
        count: Clips.
        seed: Of all clips.
        device: Where to draw, encode, and keep the clips.
        workers: Processes; 1 draws in this one.
        courses: Share of the clips in which instruments come and go (`draw_courses`).

    Returns:
        The clips, and for M2V their first photos' latents in variants (N, K, C, H, W), clean and noisy.

    Raises:
        ResourceError: A process ended before its clips were drawn; it has printed why.
    """
    sizes = tuple(min(_PART_CLIPS, count - start) for start in range(0, count, _PART_CLIPS))
    wanted = Wanted(stage, vae_folder, seed, device, courses)
    numbered = list(enumerate(sizes))
    if workers == 1:
        tensors = _joined([part for _, part in wanted.drawn(numbered)])
    else:
        with tempfile.TemporaryDirectory(prefix="hierasurg-clips-") as scratch:
            context = multiprocessing.get_context("spawn")
            drawers = [
                context.Process(target=_save, args=(wanted, numbered[first::workers], Path(scratch)))
                for first in range(min(workers, len(sizes)))
            ]
            for drawer in drawers:
                drawer.start()
            for drawer in drawers:
                drawer.join()
            if any(drawer.exitcode for drawer in drawers):
                raise ResourceError(f"a process that draws clips of {stage} ended early, see above")
            files = (_part_file(Path(scratch), number) for number, _ in numbered)
            tensors = _joined([load_file(file, device=str(device)) for file in files])
    photos = tensors.pop(PHOTOS, None)
    latents = tensors.pop("latents_BFCHW", None)
    names = tuple(f"phantom-{seed}/{index}" for index in range(count))
    return Batch(latents_BFCHW=latents, ids=names, **tensors), photos


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is drawn: parts of some clips each, every part from a seed of its own.

    Attributes:
        stage: "s2m", "s2m-colours" or "m2v".
        vae_folder: The VAE that encodes.
        seed: Of all parts.
        device: Where to draw and encode.
        courses: Share of the clips in which instruments come and go.
    """

    stage: str
    vae_folder: Path
    seed: int
    device: torch.device
    courses: float

    @torch.no_grad()
    def drawn(self, numbered: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Tensors]]:
        """Draws the parts of these numbers, each of so many clips."""
        vae = load_vae(self.vae_folder, resolve_dtype("auto", self.device), self.device)
        draw = {"s2m": _s2m, "s2m-colours": _s2m_colours, "m2v": _m2v}[self.stage]
        for number, size in numbered:
            yield number, draw(vae, size, self.seed * 1_000_003 + number, self.device, self.courses)


def _save(wanted: Wanted, numbered: Sequence[tuple[int, int]], folder: Path) -> None:
    torch.set_num_threads(1)
    for number, part in wanted.drawn(numbered):
        save_part(part, number, folder)


def save_part(part: Tensors, number: int, folder: Path) -> None:
    """Writes a part under its final name once it is whole."""
    unfinished = folder / f"unfinished-{number}"
    save_file({name: value.contiguous() for name, value in part.items()}, unfinished)
    unfinished.replace(_part_file(folder, number))


def _part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:04d}.safetensors"


def _s2m(vae: AutoencoderKLCogVideoX, count: int, seed: int, device: torch.device, courses: float) -> Tensors:
    """What S2M on ids learns from: maps in its numbers, and the first photo.

    A quarter of the clips are numbered by chance, the others by first appearance.
    """
    flat = single_frame_vae(vae)
    parts: list[Tensors] = []
    by_chance = np.random.default_rng(seed)
    for clips in _drawn(count, torch.Generator().manual_seed(seed), device, courses, photos=1):
        photo = encode_frames(flat, signed_pixels(clips).to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
        parts.append(
            {
                "numbered_BFHW": torch.from_numpy(numbered_maps(clips, by_chance)),
                "first_frame_B1CHW": photo.to(torch.bfloat16).cpu(),
                "phase_BF": clips.phase_BF.cpu(),
                "triplet_BF": clips.triplet_BF.cpu(),
            }
        )
    return _joined(parts)


def numbered_maps(clips: DrawnClips, by_chance: np.random.Generator | None) -> NDArray[np.uint8]:
    """The maps of clips in the numbers of S2M on ids, (B, F, H, W); `by_chance` numbers a quarter of them."""
    numbered: list[NDArray[np.uint8]] = []
    for map_FHW, count in zip(clips.map_BFHW.cpu().numpy(), clips.num_entities_B.tolist(), strict=True):
        shuffled = by_chance if by_chance is not None and by_chance.random() < _BY_CHANCE else None
        maps = PanopticClip(map_FHW, count)
        numbered.append(number_by_appearance(maps, NUM_NUMBERS, shuffled).numbered(map_FHW))
    return np.stack(numbered)


def _s2m_colours(
    vae: AutoencoderKLCogVideoX, count: int, seed: int, device: torch.device, courses: float
) -> Tensors:
    """What S2M on colours learns from: coloured maps, each encoded alone, and the first photo."""
    table = palette_table(device)
    flat = single_frame_vae(vae)
    parts: list[Tensors] = []
    for clips in _drawn(count, torch.Generator().manual_seed(seed), device, courses, photos=1):
        maps = encode_frames(flat, coloured_maps(clips, table).to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
        photo = encode_frames(flat, signed_pixels(clips).to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
        parts.append(
            {
                "latents_BFCHW": maps.to(torch.bfloat16),
                "first_map_B1CHW": maps[:, :1].to(torch.bfloat16),
                "first_frame_B1CHW": photo.to(torch.bfloat16),
                "phase_BF": clips.phase_BF,
                "triplet_BF": clips.triplet_BF,
            }
        )
    return _joined(parts)


def _m2v(vae: AutoencoderKLCogVideoX, count: int, seed: int, device: torch.device, courses: float) -> Tensors:
    """What M2V learns from: videos, first photos, maps."""
    parts: list[Tensors] = []
    generator, noise = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    for clips in _drawn(count, generator, device, courses):
        frames = clips.video_BFCHW
        parts.append(
            {
                **encoded_videos(vae, frames * 2 - 1, generator, noise),
                "phase_BF": clips.phase_BF,
                "triplet_BF": clips.triplet_BF,
                "numbered_BFHW": torch.from_numpy(numbered_maps(clips, None)).to(device),
                "maps_BFHW": clips.map_BFHW,
                "max_id_B": clips.num_entities_B + 1,
            }
        )
    return _joined(parts)


def encoded_videos(
    vae: AutoencoderKLCogVideoX,
    frames_BFCHW: Tensor,
    generator: torch.Generator,
    noise: torch.Generator,
) -> Tensors:
    """Latents of videos in [-1, 1], and of their first photos in `_FIRST_FRAMES` variants (N, K, C, H, W).

    The variants are clean, and with noise of strength exp(N(-3, 0.5)), as in HieraSurg's training of M2V. The
    strength is drawn from `generator` (CPU), the noise from `noise` (the frames' device).
    """
    compressed = frames_a_latent(vae) > 1
    video = padded_video(frames_BFCHW) if compressed else frames_BFCHW
    strength = torch.exp(-3 + 0.5 * torch.randn(len(video), _FIRST_FRAMES, generator=generator))
    strength = strength.to(video.device)
    strength[:, 0] = 0
    first = frames_BFCHW[:, :1].expand(-1, _FIRST_FRAMES, -1, -1, -1)
    grain = torch.randn(first.shape, generator=noise, device=first.device)
    first = (first + strength[:, :, None, None, None] * grain).to(vae.dtype)
    flat = single_frame_vae(vae)
    photos = encode_frames(flat, first, frames_at_once=_ENCODE_FRAMES).to(torch.bfloat16)
    latents = (
        encode_video(vae, video.transpose(1, 2).to(vae.dtype))
        if compressed
        else encode_frames(flat, video.to(vae.dtype), frames_at_once=_ENCODE_FRAMES)
    )
    return {"latents_BFCHW": latents.to(torch.bfloat16), "first_frame_B1CHW": photos[:, :1], PHOTOS: photos}


def _drawn(
    count: int, generator: torch.Generator, device: torch.device, courses: float, photos: int | None = None
) -> Iterator[DrawnClips]:
    """Draws `count` clips of training, as many at once as are encoded at once."""
    for start in range(0, count, _ENCODE_CLIPS):
        phases, triplets = random_labels(min(_ENCODE_CLIPS, count - start), generator)
        draw_seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
        if courses and float(torch.rand(1, generator=generator)) < courses:
            yield draw_courses(phases, triplets, draw_seed, device=device, extras=_EXTRAS, photos=photos)
        else:
            yield draw_clips(
                phases,
                triplets,
                draw_seed,
                device=device,
                shuffle_ids=_SHUFFLED,
                extras=_EXTRAS,
                photos=photos,
            )


def _joined(parts: list[Tensors]) -> Tensors:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
