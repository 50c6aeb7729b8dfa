"""Maps as categories: what S2M on ids is given for a map, how noise is added, and how an answer becomes ids.

A map of N numbers (see `maps.numbering`) becomes N channels at half resolution: the share of each number in
each cell of 2x2 pixels. These shares, times a small scale, are what is noised and denoised; the model answers
with logits, whose softmax is its estimate of the clean shares. The idea is that of Pix2Seq-D (Chen et al.
2022, arXiv 2210.06366): a small input scale keeps categories hard to guess under noise, and a cross-entropy
on categories, in place of a squared error, keeps two of them from being blended into a third.

Noise levels go with the angle: x = a scale shares + s noise, a = cos(pi u / 2), s = sin(pi u / 2), where
u = (t + 1) / 1000 for the time steps t = 0..999 of CogVideoX.

Owns these functions and the sampling loop. Refuses: the network (`transformers`), and clip ids.

Letters: B clips, F frames, H W map pixels, N numbers, h w cells (H / 2, W / 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 2
"""Sides of a cell in pixels."""
PATCH = 8
"""Sides of a token in cells: 16 pixels, as a token of coloured maps has."""
NUM_TIMES = 1000


class IdModel(Protocol):
    """How S2M on ids is called; returns logits (B, F, N, h, w)."""

    def __call__(
        self,
        latents_BFCHW: Tensor,
        timesteps_B: Tensor,
        *,
        first_map_B1CHW: Tensor,
        photo_B1CHW: Tensor,
        phase_BF: Tensor | None = None,
        triplet_BF: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean shares' logits from noisy shares."""
        ...


def ids_arguments(num_numbers: int = 20) -> dict[str, Any]:
    """Return the constructor arguments by which an S2M is one on ids, for maps of N numbers."""
    channels = {"in_channels": 2 * num_numbers, "out_channels": num_numbers}
    return {"maps": "ids", "patch_size": PATCH, **channels}


def shares_of(map_BFHW: Tensor, num_numbers: int) -> Tensor:
    """Return the share of each number in each cell, (B, F, N, h, w), float32.

    Args:
        map_BFHW: uint8 numbers; sides divisible by 2.
        num_numbers: N.
    """
    batch, frames, height, width = map_BFHW.shape
    cells = map_BFHW.view(batch, frames, 1, height // CELL, CELL, width // CELL, CELL)
    numbers_N = torch.arange(num_numbers, device=map_BFHW.device, dtype=torch.uint8)
    return (cells == numbers_N.view(-1, 1, 1, 1, 1)).float().mean((4, 6))


def maps_of_latents(num_latents: int, num_maps: int, maps_a_latent: int) -> list[int]:
    """Return which map each video frame of each latent frame has, `maps_a_latent` for each latent frame.

    Latent frame 0 is one video frame, each other one `maps_a_latent` of them; the maps lie evenly over the
    video frames (one a second), the last one also over a padding frame.

    Example:
        >>> maps_of_latents(3, 8, 4)
        [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    """
    frames = (num_latents - 1) * maps_a_latent + 1
    frames_a_map = max(frames // num_maps, 1)
    covered = [0] * maps_a_latent + list(range(1, frames))
    return [min(frame // frames_a_map, num_maps - 1) for frame in covered]


def numbers_of(shares_BFNhw: Tensor, allowed_BN: Tensor | None = None) -> Tensor:
    """Return the map (B, F, H, W), uint8, in which each pixel has the number of the largest share.

    Shares are enlarged bilinearly first; nearest cells would make every border a staircase.

    Args:
        shares_BFNhw: Shares, or probabilities.
        allowed_BN: Numbers that may occur in each clip; None allows all.
    """
    if allowed_BN is not None:
        shares_BFNhw = shares_BFNhw.masked_fill(~allowed_BN[:, None, :, None, None], -1.0)
    enlarged = F.interpolate(
        shares_BFNhw.flatten(0, 1), scale_factor=CELL, mode="bilinear", align_corners=False
    )
    return enlarged.argmax(1).to(torch.uint8).unflatten(0, shares_BFNhw.shape[:2])


def noise_levels(times_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return a and s of time steps 0..999, (B, 1, 1, 1, 1) each, float32."""
    angle = (times_B.float() + 1) * (torch.pi / 2 / NUM_TIMES)
    shape = (-1, 1, 1, 1, 1)
    return angle.cos().view(shape), angle.sin().view(shape)


def evenly_spread(noisy_BFNhw: Tensor, times_B: Tensor, scale: float) -> Tensor:
    """Return noisy shares divided by the root mean square that they have at their time."""
    signal, blur = noise_levels(times_B)
    power = (signal * scale).square() / noisy_BFNhw.shape[2] + blur.square()
    return noisy_BFNhw * power.rsqrt()


@torch.no_grad()
def sample_shares(
    model: IdModel,
    noise_BFNhw: Tensor,
    first_map_B1Nhw: Tensor,
    photo_B1CHW: Tensor,
    *,
    labels: dict[str, Tensor],
    dropped: dict[str, Tensor],
    steps: int,
    guidance: float,
    scale: float,
    known_BKNhw: Tensor | None = None,
    on_step: Callable[[], None] = lambda: None,
    on_time: Callable[[int], None] = lambda time: None,
) -> Tensor:
    """Return the probabilities (B, F, N, h, w) of the last of a few deterministic steps.

    Step i of n is at u = 1 - i / n. With p the softmax of the logits, a step goes
    x' = s' / s x + (a' - a s' / s) p scale, as DDIM does (Song et al. 2021, arXiv 2010.02502).

    Args:
        model: S2M on ids.
        noise_BFNhw: N(0, 1) to begin with.
        first_map_B1Nhw: Shares of the first map.
        photo_B1CHW: Latents of the first photo.
        labels: Phases and triplets as the model takes them.
        dropped: The same names with what stands for "not given"; used where guidance is not 1.
        steps: 1..1000.
        guidance: On logits: free + guidance * (told - free); 1 is off and asks the model once a step.
        scale: Of the shares, the model's own.
        known_BKNhw: Shares of maps that the clip begins with; they stay.
        on_step: Called after each step has been handed to the device.
        on_time: Told the time step before the model is called with it.

    Raises:
        ValueError: steps is not in 1..1000.
    """
    if not 1 <= steps <= NUM_TIMES:
        raise ValueError(f"steps must lie in 1..{NUM_TIMES}, not {steps}")
    times = [NUM_TIMES * (steps - index) // steps - 1 for index in range(steps)]
    guided = guidance != 1
    first, photo = first_map_B1Nhw, photo_B1CHW
    if guided:
        first, photo = torch.cat([first, first]), torch.cat([photo, photo])
        labels = {name: torch.cat([dropped[name], told]) for name, told in labels.items()}
    noisy, shares = noise_BFNhw, noise_BFNhw
    for now, after in zip(times, [*times[1:], None], strict=True):
        on_time(now)
        asked = torch.cat([noisy, noisy]) if guided else noisy
        times_B = torch.full((len(asked),), now, device=noisy.device)
        logits = model(asked, times_B, first_map_B1CHW=first, photo_B1CHW=photo, **labels).float()
        if guided:
            free, told = logits.chunk(2)
            logits = free + guidance * (told - free)
        shares = logits.softmax(2)
        if known_BKNhw is not None:
            shares[:, : known_BKNhw.shape[1]] = known_BKNhw
        if after is not None:
            noisy = _step(noisy, shares * scale, now, after)
        on_step()
    return shares


def _step(noisy: Tensor, clean: Tensor, now: int, after: int) -> Tensor:
    (signal, next_signal), (blur, next_blur) = noise_levels(torch.tensor([now, after], device=noisy.device))
    kept = next_blur / blur
    return kept * noisy + (next_signal - signal * kept) * clean


def initial_noise(
    shape_FNhw: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Return N(0, 1) (B, F, N, h, w), each clip's from its own generator, on the device."""
    parts = [
        torch.randn(tuple(shape_FNhw), generator=generator, device=generator.device)
        for generator in generators
    ]
    return torch.stack(parts).to(device, non_blocking=True)


def entropy_loss(logits_BFNhw: Tensor, weighted_BFNhw: Tensor) -> Tensor:
    """Return the cross-entropy of each clip against weighted shares, (B,), float32."""
    return -(weighted_BFNhw * logits_BFNhw.float().log_softmax(2)).sum(2).mean((1, 2, 3))


def weigh_shares(shares_BFNhw: Tensor, *, moving: float, rare: float) -> Tensor:
    """Return shares times their weight in the loss.

    An instrument covers a twentieth of a map, a tip a thousandth, so the rest would drown them. A cell counts
    1 + moving d / (d + 1/2), d the mean over the clip of how much of it is not what it was in the first map.
    A number counts (0.05 / its share of the frame) ^ rare, within 1/4 to 4.

    Args:
        shares_BFNhw: Clean shares.
        moving: 0 or more; 0 counts all cells alike.
        rare: 0 or more; 0 counts all numbers alike.
    """
    strayed = 1 - (shares_BFNhw * shares_BFNhw[:, :1]).sum(2, keepdim=True).mean(1, keepdim=True)
    place = 1 + moving * strayed / (strayed + 0.5)
    area = shares_BFNhw.mean((3, 4), keepdim=True).clamp_min(1e-4)
    kind = (0.05 / area).pow(rare).clamp(0.25, 4.0)
    return shares_BFNhw * (place * kind)
