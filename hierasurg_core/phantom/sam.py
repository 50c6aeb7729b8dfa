"""Training of the mini SAM 2 on the phantom: ``python -m hierasurg_core.phantom.sam OUT``.

Owns the loop; what is learned is in `sam_objective`, the network in `labeling.mini_sam`.
The loop goes on from what OUT holds, so it may be stopped at any time. It draws its clips itself, in several
sizes and shapes, each clip once forwards and once backwards in time. Refuses several GPUs: the network is
small, and one trains it in minutes. Legend: B clips, F frames, N objects, H W pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierasurg_core import artifacts, runtime
from hierasurg_core.errors import UsageError
from hierasurg_core.labeling.mini_sam import read_mini, write_mini
from hierasurg_core.labeling.segmenter import as_network, build_mini_network
from hierasurg_core.phantom.draw import NATIVE_SIZE_HW, draw_clips
from hierasurg_core.phantom.printed import PrintedProgress
from hierasurg_core.phantom.sam_measure import measure, measure_automatic
from hierasurg_core.phantom.sam_objective import TrainingClips, sam_loss
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels
from hierasurg_core.progress import Progress
from hierasurg_core.training.muon import MuonAdamW

FOLDER = "sam2-mini"
FRAMES = 8
"""Frames of a training clip: the prompted one and seven that are followed by memory."""
PEAK_LR = 1e-3
_SIZES_HW = (
    NATIVE_SIZE_HW,
    (128, 228),
    NATIVE_SIZE_HW,
    (192, 288),
    NATIVE_SIZE_HW,
    (128, 228),
    NATIVE_SIZE_HW,
    (256, 456),
)
_RATES_FPS = (1.0, 1.0, 0.7, 1.5)
_TALLEST_MAP = 192
_POOL_STEPS = 4
_WARMUP = 0.05
_SAVE_STEPS = 500
_NOTE_STEPS = 50
_STATE = "sam_training.safetensors"
_STEP = "sam_training.json"


def train_sam(
    out: Path,
    *,
    steps: int | None,
    batch: int,
    seed: int,
    device: torch.device,
    max_seconds: float,
    progress: Progress,
    sizes_hw: tuple[tuple[int, int], ...] = _SIZES_HW,
    held_out: int = 20,
    start: Path | None = None,
) -> bool:
    """Trains until the schedule's end or until the time is up, from where the folder's state says.

    Args:
        out: Gets `sam2-mini/` at the schedule's end, and the state to go on from before.
        steps: Length of the schedule: a warm-up, then a cosine down to 0. None: it ends with the time.
        batch: Clips a step; four objects of each are followed.
        seed: Of all draws.
        device: Where to train.
        max_seconds: Time for this piece.
        progress: Is told losses, overlaps, speed, and the measure at the end.
        sizes_hw: Sizes of the clips, in turn.
        held_out: Clips of the measure at the end; 0 leaves it out.
        start: Folder of a mini SAM 2 to begin with; None begins with random weights.

    Returns:
        Whether the schedule is at its end.

    Raises:
        UsageError: Several ranks, or no steps.
    """
    if runtime.world_size() > 1:
        raise UsageError("the mini SAM 2 trains on one GPU: start it without a launcher")
    if (steps is not None and not steps > 0) or not batch > 0:
        raise UsageError(f"{steps} steps of {batch} clips: give positive numbers")
    began = time.monotonic()
    torch.manual_seed(seed)
    module = build_mini_network().to(device).train()
    if start is not None:
        module.load_state_dict(read_mini(start)[1])
    network = as_network(module)
    if device.type == "cuda":
        module.get_submodule("image_encoder").compile(
            dynamic=False
        )  # many frames in small layers: half of it is launches
    linear = [part.weight for part in module.modules() if isinstance(part, torch.nn.Linear)]
    optimizer = MuonAdamW(module.parameters(), linear, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    step, share = _load_state(out, module, optimizer, device)
    if steps is not None:
        share = step / steps
    first, first_share = step, share

    def share_done() -> float:
        if steps is not None:
            return step / steps
        return min(1.0, first_share + (1 - first_share) * (time.monotonic() - began) / max_seconds)

    if share >= 1 and (out / FOLDER).is_dir():
        return True
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    progress.start("mini SAM 2", steps, "steps")
    progress.advance(step)
    pool: list[TrainingClips] = []
    while share < 1:
        if steps is not None and step > first and time.monotonic() - began > max_seconds:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share)
        if not pool:
            pool = _draw_pool(step, batch, seed, device, sizes_hw)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        clips = augmented(pool.pop(), generator)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss, parts = sam_loss(network, clips, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        step += 1
        share = share_done()
        progress.advance()
        if step % _NOTE_STEPS == 0 or share >= 1:
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f"the mini SAM 2's loss is {loss.item()} at step {step}")
            seconds = time.monotonic() - began
            told = ", ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            progress.note(f"sam step {step}, {share:.0%}: {told}; {(step - first) / seconds:.2f} steps/s")
        if step % _SAVE_STEPS == 0 and share < 1:
            _save_state(out, module, optimizer, step, share)
    _save_state(out, module, optimizer, step, share)
    if share < 1:
        return False
    write_mini(out / FOLDER, module.state_dict())
    if held_out:
        score = measure(out / FOLDER, device=device, clips=held_out)
        progress.note(
            f"mini SAM 2, {score.clips} held-out clips, {score.objects} objects prompted with their first "
            f"masks: mean J {score.mean_j:.3f} over 16 frames (worst tenth {score.worst_tenth_j:.3f})"
        )
    return True


def learning_rate(share: float) -> float:
    """Of a share of the schedule that is done: a linear warm-up, then a cosine down to 0."""
    if share < _WARMUP:
        return PEAK_LR * (0.01 + 0.99 * share / _WARMUP)
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (share - _WARMUP) / (1 - _WARMUP)))


def augmented(clips: TrainingClips, generator: torch.Generator) -> TrainingClips:
    """Small changes of light, colour, sharpness and noise, as another camera or a codec makes them."""
    video = clips.video_BFCHW
    batch = len(video)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=video.device)

    gain = 1 + 0.24 * (draw(batch, 1, 3, 1, 1) - 0.5) + 0.2 * (draw(batch, 1, 1, 1, 1) - 0.5)
    gamma = 1 + 0.3 * (draw(batch, 1, 1, 1, 1) - 0.5)
    video = (video.clamp_min(1e-4) ** gamma * gain).clamp(0, 1)
    soft = F.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(video)
    video = torch.lerp(video, soft, 0.8 * draw(batch, 1, 1, 1, 1) * (draw(batch, 1, 1, 1, 1) < 0.5))
    noise = torch.randn(video.shape, generator=generator, device=video.device)
    video = (video + 0.03 * draw(batch, 1, 1, 1, 1) ** 2 * noise).clamp(0, 1)
    return dataclasses.replace(clips, video_BFCHW=video)


@torch.no_grad()
def _draw_pool(
    step: int, batch: int, seed: int, device: torch.device, sizes_hw: tuple[tuple[int, int], ...]
) -> list[TrainingClips]:
    """The clips of the next `_POOL_STEPS` steps: half as many drawn, each in both directions of time."""
    turn = step // _POOL_STEPS
    generator = torch.Generator().manual_seed((seed * 64 + 17) * 1_000_003 + step)
    phases, triplets = random_labels(batch * _POOL_STEPS // 2, generator)
    draw_seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
    rate = _RATES_FPS[int(torch.randint(len(_RATES_FPS), (1,), generator=generator))]
    size_hw = sizes_hw[turn % len(sizes_hw)]
    drawn = draw_clips(
        phases, triplets, draw_seed, num_frames=FRAMES, fps=rate, size_hw=size_hw, device=device, extras=0.4
    )
    map_BFHW = drawn.map_BFHW if size_hw[0] <= _TALLEST_MAP else drawn.map_BFHW[..., ::2, ::2].contiguous()
    forwards = [
        TrainingClips(drawn.video_BFCHW[part], map_BFHW[part], drawn.num_entities_B[part])
        for part in (slice(start, start + batch) for start in range(0, len(phases), batch))
    ]
    backwards = [
        TrainingClips(clips.video_BFCHW.flip(1), clips.map_BFHW.flip(1), clips.num_entities_B)
        for clips in forwards
    ]
    return backwards + forwards


def _save_state(
    out: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, share: float
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    with artifacts.atomic_folder(out / f"{FOLDER}-training") as folder:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / _STATE)
        artifacts.write_json(folder / _STEP, {"step": step, "share": share})


def _load_state(
    out: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, float]:
    """Steps done, and the share of the schedule."""
    folder = out / f"{FOLDER}-training"
    if not (folder / _STEP).exists():
        return 0, 0.0
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(folder / _STATE, device=str(device)).items():
        owner, key = name.split(".", 1)
        if owner == "model":
            weights[key] = value
        else:
            moments.setdefault(int(owner), {})[key] = value.clone()
    module.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    done = artifacts.read_json(folder / _STEP)
    return int(done["step"]), float(done["share"])


def main() -> None:
    """Trains, or with ``--measure`` measures, the mini SAM 2; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.sam", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the run; the command goes on from what it holds")
    parser.add_argument("--steps", type=int, default=0, help="of the schedule; 0: it ends with --minutes")
    parser.add_argument("--batch", type=int, default=16, help="clips a step")
    parser.add_argument("--minutes", type=float, default=7.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start", type=Path, default=None, help="folder of a mini SAM 2 to begin with")
    parser.add_argument("--measure", action="store_true", help="only measure the model folder OUT")
    options = parser.parse_args()
    device = runtime.resolve_device(options.device)
    runtime.select_device(device)
    if options.measure:
        print(json.dumps(dataclasses.asdict(measure(options.out, device=device))))
        for score in measure_automatic(options.out, device=device):
            print(json.dumps(dataclasses.asdict(score)))
        return
    if not options.minutes > 0:
        raise UsageError(f"--minutes {options.minutes}: give a positive number")
    deadline = time.monotonic() + options.minutes * 60
    progress = PrintedProgress()
    done = train_sam(
        options.out,
        steps=options.steps or None,
        batch=options.batch,
        seed=options.seed,
        device=device,
        max_seconds=deadline - time.monotonic(),
        progress=progress,
        start=options.start,
    )
    progress.note("done" if done else "not done; run the same command again")


if __name__ == "__main__":
    main()
