"""Training of the bundled mini network: ``python -m hierasurg_core.phantom.classifier OUT``.

Owns its clips, the damage done to them and the loop. The network learns what is done (phase and triplet) and
how its input was damaged (blur, noise, another colour, frames out of order), so that distances of its
features react to what generated video does wrong. Refuses any data but the phantom's: what it says is mini.

Legend: B clips, F frames, C channels, H rows, W columns; pixels are in [0, 1].
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from hierasurg_core import artifacts, runtime, taxonomy
from hierasurg_core.errors import HieraSurgError, UsageError
from hierasurg_core.evaluation.mini import (
    DAMAGES,
    MINI_CLASSIFIER,
    SIZE_HW,
    MiniOutput,
    MiniVideoNet,
    save_mini,
)
from hierasurg_core.phantom.draw import draw_clips
from hierasurg_core.phantom.printed import PrintedProgress
from hierasurg_core.phantom.vae import HELD_OUT_SEED, random_labels
from hierasurg_core.progress import Progress

PEAK_LR = 2e-3
WEIGHT_DECAY = 0.02
STEPS, BATCH = 2400, 96
CLASSIFIER_SEED = HELD_OUT_SEED + 3
"""Held-out clips of the accuracy have seeds from here on."""
_WARMUP_SHARE = 0.05
_DAMAGE_CHANCE = 0.25
_PASSES = 2  # each drawn clip is seen with so many different damages
_POOL_STEPS = 2  # steps whose clips are drawn at once
_DRAWN_AT_ONCE = 64
_MOST_BLUR_PX, _MOST_NOISE, _MOST_COLOUR = 4.0, 0.15, 0.35
_STATE, _STEP = "classifier_training.safetensors", "classifier_training.json"
_PARTS = torch.tensor([(t.instrument_id, t.verb_id, t.target_id) for t in taxonomy.TRIPLETS])


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Shares of held-out clips that are named right, mini.

    Attributes:
        clips: How many.
        phase: Of 7.
        triplet: Of 100.
        instrument: That the most likely triplet has the right instrument.
        verb: The same for the verb.
        target: The same for the target.
        frame_phase: Phase from single frames.
        damage_error: Mean absolute error of the strengths of damage.
    """

    clips: int
    phase: float
    triplet: float
    instrument: float
    verb: float
    target: float
    frame_phase: float
    damage_error: float


@dataclasses.dataclass
class _Clips:
    video_BFCHW: Tensor
    phase_B: Tensor
    triplet_B: Tensor


def train_classifier(
    out: Path,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    max_seconds: float,
    progress: Progress,
    held_out: int = 512,
) -> bool:
    """Trains until `steps` are done or the time is up, from where the folder's state says.

    Args:
        out: Gets `classifier-mini/` when all steps are done, and the state to go on from before that.
        steps: Length of the schedule: a warm-up, then a cosine to 0.
        batch: Clips a step.
        seed: Of all draws.
        device: Where to draw and to train.
        max_seconds: Time for this piece.
        progress: Is told loss, speed and, at the end, the held-out accuracy.
        held_out: Clips of that accuracy.

    Returns:
        Whether all steps are done.

    Raises:
        UsageError: Several processes were started: this network needs one.
        ResourceError: The folder cannot be written.
    """
    began = time.monotonic()
    if runtime.world_size() > 1:
        raise UsageError("the mini network trains in one process: start it without a launcher")
    artifacts.ensure_writable_folder(out)
    torch.manual_seed(seed)
    net = MiniVideoNet().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    step = _load_state(out, net, optimizer, device)
    if step >= steps and (out / MINI_CLASSIFIER.name).is_dir():
        return True
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    progress.start("classifier", steps, "steps")
    progress.advance(step)
    first, pool = step, list[_Clips]()
    net.train()
    while step < steps and time.monotonic() - began < max_seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        generator = runtime.make_generator((seed * 1_000_003 + step) % 2**62)
        if not pool:
            pool = _draw_pool(batch, generator, device)
        clips = pool.pop()
        video_BFCHW, damage_BN = damaged(clips.video_BFCHW, generator)
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = _loss(net(video_BFCHW), clips, damage_BN)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress.advance()
        if step % 100 == 0 or step == steps:
            value, seconds = loss.item(), time.monotonic() - began
            if not math.isfinite(value):
                raise FloatingPointError(f"the classifier's loss is {value} at step {step}")
            speed = (step - first) * batch / seconds
            progress.note(f"classifier step {step}: loss {value:.3f}, {speed:.0f} clips/s, {seconds:.0f} s")
    _save_state(out, net, optimizer, step, steps)
    if step < steps:
        return False
    save_mini(net, out / MINI_CLASSIFIER.name)
    found = measure_classifier(net, held_out, device)
    progress.note(
        f"classifier on {found.clips} held-out clips (mini): phase {found.phase:.1%}, triplet "
        f"{found.triplet:.1%}, instrument {found.instrument:.1%}, verb {found.verb:.1%}, target "
        f"{found.target:.1%}, phase of a frame {found.frame_phase:.1%}, "
        f"damage off by {found.damage_error:.3f}"
    )
    return True


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine to 0."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step < warmup:
        return PEAK_LR * (step + 1) / warmup
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def measure_classifier(net: MiniVideoNet, clips: int, device: torch.device, *, at_once: int = 16) -> Accuracy:
    """Measures the network on held-out clips; its damage error on damaged ones, the rest on clean ones."""
    generator = runtime.make_generator(CLASSIFIER_SEED)
    net.eval()
    rows: list[Tensor] = []
    for start in range(0, clips, at_once):
        drawn = _draw(min(at_once, clips - start), CLASSIFIER_SEED + start, generator, device)
        output = net(drawn.video_BFCHW)
        triplet_B = output.triplet_BN.argmax(1)
        parts = _PARTS.to(device)
        phase_ok = output.phase_BN.argmax(1) == drawn.phase_B
        frame_ok = output.frame_phase_BFN.argmax(2) == drawn.phase_B[:, None]
        video_BFCHW, damage_BN = damaged(drawn.video_BFCHW, generator)
        error = (net(video_BFCHW).damage_BN.sigmoid() - damage_BN).abs().mean(1)
        same = parts[triplet_B] == parts[drawn.triplet_B]
        right = [phase_ok, triplet_B == drawn.triplet_B, *same.unbind(1), frame_ok.float().mean(1), error]
        rows.append(torch.stack([value.float() for value in right], dim=1))
    return Accuracy(clips, *torch.cat(rows).mean(0).tolist())


def damaged(video_BFCHW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Damages clips, each kind with a chance of a quarter, and says how much.

    Args:
        video_BFCHW: Clean clips in [0, 1]; they stay as they are.
        generator: On the CPU.

    Returns:
        Clips in [0, 1] and the strengths of `DAMAGES`, (B, 4) in [0, 1].
    """
    batch, device = len(video_BFCHW), video_BFCHW.device
    chosen = torch.rand(batch, len(DAMAGES), generator=generator) < _DAMAGE_CHANCE
    strength_BN = torch.rand(batch, len(DAMAGES), generator=generator) * chosen
    video = video_BFCHW
    order_BF = _orders(strength_BN[:, 3], video.shape[1], generator).to(device)
    video = video.gather(1, order_BF.view(batch, -1, 1, 1, 1).expand_as(video))
    video = _blurred(video, strength_BN[:, 0])
    gain = (torch.randn(batch, 3, generator=generator)).clamp(-2, 2)
    gain = gain / gain.abs().amax(1, keepdim=True) * strength_BN[:, 2:3] * _MOST_COLOUR
    video = video * gain.exp().to(device).view(batch, 1, 3, 1, 1)
    sigma = (strength_BN[:, 1] * _MOST_NOISE).to(device).view(batch, 1, 1, 1, 1)
    noise_seed = int(torch.randint(2**31, (1,), generator=generator))
    noise = torch.randn(video.shape, generator=runtime.make_generator(noise_seed, device), device=device)
    return (video + sigma * noise).clamp(0, 1), strength_BN.to(device)


def _orders(strength_B: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """For each clip an order of its frames in which a share of them has changed places."""
    orders = torch.arange(frames).repeat(len(strength_B), 1)
    for row, strength in enumerate(strength_B.tolist()):
        count = round(strength * frames)
        if count > 1:
            places = torch.randperm(frames, generator=generator)[:count]
            orders[row, places] = places[torch.randperm(count, generator=generator)]
    return orders


def _blurred(video_BFCHW: Tensor, strength_B: Tensor) -> Tensor:
    """Gaussian blur of the clips with a strength above 0, which is linear in its sigma."""
    blurred = video_BFCHW.clone()
    for row, strength in enumerate(strength_B.tolist()):
        if strength > 0:
            sigma = 0.3 + strength * (_MOST_BLUR_PX - 0.3)
            reach = math.ceil(2.5 * sigma)
            x = torch.arange(-reach, reach + 1, device=video_BFCHW.device) / sigma
            kernel = torch.softmax(-0.5 * x * x, 0)
            frames = video_BFCHW[row].flatten(0, 1).unsqueeze(1)
            frames = F.conv2d(F.pad(frames, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
            frames = F.conv2d(F.pad(frames, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
            blurred[row] = frames.view_as(blurred[row])
    return blurred


def _loss(output: MiniOutput, clips: _Clips, damage_BN: Tensor) -> Tensor:
    """Names of phase and triplet by clip and by frame, and the strengths of damage."""
    frames = output.frame_BFD.shape[1]
    phase_BF = clips.phase_B.repeat_interleave(frames)
    instrument_BF = _PARTS.to(phase_BF.device)[clips.triplet_B, 0].repeat_interleave(frames)
    frame_damage = damage_BN[:, None, :-1].expand_as(output.frame_damage_BFN)
    return (
        F.cross_entropy(output.phase_BN.float(), clips.phase_B)
        + F.cross_entropy(output.triplet_BN.float(), clips.triplet_B)
        + 0.5 * F.cross_entropy(output.frame_phase_BFN.float().flatten(0, 1), phase_BF)
        + 0.5 * F.cross_entropy(output.frame_instrument_BFN.float().flatten(0, 1), instrument_BF)
        + F.binary_cross_entropy_with_logits(output.damage_BN.float(), damage_BN)
        + F.binary_cross_entropy_with_logits(output.frame_damage_BFN.float(), frame_damage)
    )


@torch.no_grad()
def _draw(count: int, seed: int, generator: torch.Generator, device: torch.device) -> _Clips:
    phase_B, triplet_B = random_labels(count, generator)
    drawn = draw_clips(phase_B, triplet_B, seed, size_hw=SIZE_HW, device=device)
    return _Clips(drawn.video_BFCHW, drawn.phase_BF[:, 0], drawn.triplet_BF[:, 0])


def _draw_pool(batch: int, generator: torch.Generator, device: torch.device) -> list[_Clips]:
    """Clips of the next steps; each clip comes `_PASSES` times, in other company."""
    total = batch * _POOL_STEPS
    drawn: list[_Clips] = []
    for start in range(0, total, _DRAWN_AT_ONCE):
        seed = int(torch.randint(HELD_OUT_SEED, (1,), generator=generator))
        drawn.append(_draw(min(_DRAWN_AT_ONCE, total - start), seed, generator, device))
    whole = _Clips(
        torch.cat([clips.video_BFCHW for clips in drawn]),
        torch.cat([clips.phase_B for clips in drawn]),
        torch.cat([clips.triplet_B for clips in drawn]),
    )
    pool: list[_Clips] = []
    for _ in range(_PASSES):
        for rows in torch.randperm(total, generator=generator).to(device).split(batch):
            pool.append(_Clips(whole.video_BFCHW[rows], whole.phase_B[rows], whole.triplet_B[rows]))
    return pool


def _save_state(
    out: Path, net: MiniVideoNet, optimizer: torch.optim.Optimizer, step: int, steps: int
) -> None:
    tensors = {f"net.{name}": value.cpu().contiguous() for name, value in net.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"adam.{index}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    with artifacts.atomic_file(out / _STATE) as part:
        save_file(tensors, part, metadata={"step": str(step)})
    artifacts.write_json(out / _STEP, {"step": step, "steps": steps})


def _load_state(out: Path, net: MiniVideoNet, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    if not (out / _STEP).exists():
        return 0
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in load_file(out / _STATE, device=str(device)).items():
        kind, rest = name.split(".", 1)
        if kind == "net":
            weights[rest] = value
        else:
            index, key = rest.split(".", 1)
            moments.setdefault(int(index), {})[key] = value
    net.load_state_dict(weights)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(artifacts.read_json(out / _STEP)["step"])


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hierasurg_core.phantom.classifier", description=__doc__)
    parser.add_argument("out", type=Path, help="gets classifier-mini/; the command goes on from its state")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, to go on later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--held-out", type=int, default=512, help="clips of the accuracy at the end")
    options = parser.parse_args()
    try:
        if min(options.steps, options.batch, options.held_out) < 1 or not options.minutes > 0:
            raise UsageError("--steps, --batch, --held-out and --minutes must be more than 0")
        device = runtime.resolve_device(options.device)
        runtime.expect_fixed_shapes(device)
        done = train_classifier(
            options.out,
            steps=options.steps,
            batch=options.batch,
            seed=options.seed,
            device=device,
            max_seconds=options.minutes * 60,
            progress=PrintedProgress(),
            held_out=options.held_out,
        )
    except HieraSurgError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("done" if done else "not done; run the same command again", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
