"""Generation at full size on one GPU; run ``python -m tests.benchmarks.bench_generate_gpu [--parts a,b]``.

Random weights of the full architecture, bf16, medians by CUDA events. Each part prints a line of JSON; the
last line has all. The public code is compared by what its description says it does: 100 + 100 eager steps
(10 of each are timed and taken ten times), the VAE through diffusers, colours to maps by k-means.
"""

import tests.benchmarks.without_av  # noqa: F401 - before all that imports PyAV

# isort: split

import argparse
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from hierasurg_core.generation.acceleration import Speed, compiled_folder, prepare
from hierasurg_core.generation.memory import ClipShape
from hierasurg_core.generation.pipelines import HieraSurgPipeline, Sampling
from hierasurg_core.maps import PanopticClip, fit_maps
from hierasurg_core.models import decode_video, lay_channels_last, single_frame_vae
from hierasurg_core.models.attention import kernel_times, use_kernel
from hierasurg_core.models.latents import decode_frames
from hierasurg_core.models.quantised import quantise
from hierasurg_core.pictures import fit_image
from hierasurg_core.runtime import keep_compiled, make_generator
from tests.benchmarks import full_size
from tests.benchmarks.full_size import DEVICE, Report, gib, inputs, median_ms, relative

TOKENS = {"s2m": 6146, "m2v17": 12271, "m2v49": 19621}
S2M_HW, M2V_HW = (256, 384), (480, 720)


def kernels() -> dict[str, Any]:
    return {
        name: {k: round(ms, 2) for k, ms in kernel_times(n, 30, 64, torch.bfloat16, DEVICE).items()}
        for name, n in TOKENS.items()
    }


@torch.inference_mode()
def calls(stage: str, *, exact: bool) -> dict[str, Any]:
    """Eager as diffusers has it, with the fastest kernel, compiled, and compiled in fp8 and int8."""
    maker: Any = full_size.s2m if stage == "s2m" else full_size.m2v
    given = inputs(stage)
    found: dict[str, Any] = {}
    reference: Tensor | None = None
    if exact:
        model = maker(torch.float32)
        model.to(torch.bfloat16).float()  # the rounded weights
        reference = model(**inputs(stage, torch.float32)).cpu()
        del model
        gc.collect()
        torch.cuda.empty_cache()
    model = maker(torch.float32).to(torch.bfloat16) if exact else maker()
    eager = model(**given)
    found["eager_ms"] = round(median_ms(lambda: model(**given)), 1)
    times = kernel_times(TOKENS[stage], 30, 64, torch.bfloat16, DEVICE)
    kernel = min(times, key=times.__getitem__)
    use_kernel(model, kernel)
    found["kernel"], found["fused_ms"] = kernel, round(median_ms(lambda: model(**given)), 1)
    for kind in ("bf16", "fp8"):
        if kind == "fp8":
            quantise(model, "fp8", DEVICE)
        torch.compiler.reset()
        for block in model.transformer_blocks:
            block.compile(dynamic=False)
        began = time.perf_counter()
        out = model(**given)
        torch.cuda.synchronize()
        found[f"compile_{kind}_s"] = round(time.perf_counter() - began, 1)
        found[f"compiled_{kind}_ms"] = round(median_ms(lambda: model(**given)), 1)
        found[f"{kind}_against_eager"] = round(relative(out, eager), 5)
        if reference is not None:
            found[f"{kind}_against_fp32"] = round(relative(out.cpu(), reference), 5)
    if reference is not None:
        found["eager_against_fp32"] = round(relative(eager.cpu(), reference), 5)
    found["peak_gib"] = gib()
    return found


@torch.inference_mode()
def convolutions() -> dict[str, Any]:
    """The decoder's largest convolution, 128 -> 128 over 10 frames of 480x720, in three layouts."""
    torch.backends.cudnn.benchmark = True
    found = {}
    weight = torch.randn(128, 128, 3, 3, 3, device=DEVICE, dtype=torch.bfloat16) * 0.02
    values = torch.randn(1, 128, 10, *M2V_HW, device=DEVICE, dtype=torch.bfloat16)
    conv = torch.nn.functional.conv3d
    found["contiguous_ms"] = median_ms(lambda: conv(values, weight, padding=(0, 1, 1)), 3)
    values = values.contiguous(memory_format=torch.channels_last_3d)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    found["channels_last_ms"] = median_ms(lambda: conv(values, weight, padding=(0, 1, 1)), 3)
    flat = values[0].transpose(0, 1)
    taps = [weight[:, :, t].contiguous(memory_format=torch.channels_last) for t in range(3)]

    def by_frame() -> Tensor:
        parts = [torch.nn.functional.conv2d(flat[t : t + 8], taps[t], padding=1) for t in range(3)]
        return parts[0].add_(parts[1]).add_(parts[2])

    found["three_2d_ms"] = median_ms(by_frame, 3)
    stacked_weight = torch.cat(taps, dim=1).contiguous(memory_format=torch.channels_last)

    def stacked() -> Tensor:
        wide = torch.cat([flat[t : t + 8] for t in range(3)], dim=1)
        return torch.nn.functional.conv2d(wide, stacked_weight, padding=1)

    found["stacked_2d_ms"] = median_ms(stacked, 3)
    flops = 54 * 128 * 128 * 8 * M2V_HW[0] * M2V_HW[1]
    return {k: round(v, 2) for k, v in found.items()} | {"floor_ms": round(flops / 782e9, 2)}


@torch.inference_mode()
def vae(frames: int) -> dict[str, Any]:
    """Decoding by diffusers, by our order of work, and that compiled channels-last."""
    torch.backends.cudnn.benchmark = True
    model = full_size.vae()
    draw = torch.Generator(DEVICE).manual_seed(2)
    latents = torch.randn(1, frames // 4 + 1, 16, 60, 90, generator=draw, device=DEVICE)
    scaled = latents.transpose(1, 2).bfloat16() / model.config["scaling_factor"]
    found: dict[str, Any] = {}

    def diffusers() -> Tensor:
        return model.decode(scaled, return_dict=False)[0]

    before = diffusers().cpu().float()
    found["diffusers_ms"] = round(median_ms(diffusers, 3), 1)
    found["diffusers_gib"] = gib()
    torch.cuda.reset_peak_memory_stats()
    found["ours_eager_ms"] = round(median_ms(lambda: decode_video(model, latents), 3), 1)
    found["ours_eager_gib"] = gib()
    found["ours_eager_max_255"] = _pixels_off(decode_video(model, latents), before)
    lay_channels_last(model.decoder)
    torch.cuda.reset_peak_memory_stats()
    found["ours_channels_last_ms"] = round(median_ms(lambda: decode_video(model, latents), 3), 1)
    began = time.perf_counter()
    ours = decode_video(model, latents, compiled=True)
    torch.cuda.synchronize()
    found["compile_s"] = round(time.perf_counter() - began, 1)
    found["ours_ms"] = round(median_ms(lambda: decode_video(model, latents, compiled=True), 5), 1)
    found["ours_gib"] = gib()
    found["ours_max_255"] = _pixels_off(ours, before)
    found["spread"] = round(before.std().item(), 4)
    if frames == 17:
        del ours
        exact = full_size.vae()
        exact.float()
        reference = decode_video(exact, latents).cpu().float()
        found["diffusers_against_fp32"] = _pixels_off(before, reference)
        found["ours_against_fp32"] = _pixels_off(decode_video(model, latents, compiled=True), reference)
    return found


def _pixels_off(video: Tensor, reference: Tensor) -> dict[str, float]:
    """Difference in 1/255 of pixels clamped to [-1, 1]: the largest, and what 99.99 % stay under."""
    off = (video.float().cpu().clamp(-1, 1) - reference.clamp(-1, 1)).abs().mul(127.5).flatten()
    rank = max(1, off.numel() // 10_000)
    return {"max": round(off.max().item(), 3), "p9999": round(off.topk(rank).values[-1].item(), 3)}


def pipeline() -> HieraSurgPipeline:
    return HieraSurgPipeline(full_size.s2m(), full_size.m2v(), full_size.vae(), full_size.scheduler())


def chain(steps: int, solver: str, frames: int, quantize: Any) -> dict[str, Any]:
    """From phase, triplet and frame to frames on the host, first call and warm ones, seconds by stage."""
    pipe = pipeline()
    seconds = 16 if frames == 16 else 6
    clip = ClipShape(S2M_HW, M2V_HW, frames, seconds)
    began = time.perf_counter()
    speed: Any = Speed(compile=True, memory="fast", quantize=quantize)
    notes = prepare(pipe, DEVICE, clip, speed)
    found: dict[str, Any] = {"notes": notes, "prepare_s": round(time.perf_counter() - began, 2)}
    for run in ("first", "warm", "warm_again"):
        found[run] = _one_clip(pipe, steps, solver, frames // seconds, seconds)
    found["steps"], found["peak_gib"] = steps, gib()
    found["waits_in_loop"] = _waits(pipe)
    return found


def _one_clip(pipe: HieraSurgPipeline, steps: int, solver: Any, fps: int, seconds: int) -> dict[str, float]:
    photo, maps = full_size.scene(M2V_HW)
    laps: dict[str, float] = {}
    last = [time.perf_counter()]
    prefix = ["s2m"]

    def lap(stage: str) -> None:
        torch.cuda.synchronize()
        now = time.perf_counter()
        laps[f"{prefix[0]}_{stage}"] = round(now - last[0], 3)
        last[0] = now

    began = last[0]
    sampling = Sampling(steps, 1.0, 1, 17, make_generator(0), on_stage=lap, solver=solver)
    small = fit_image(photo, S2M_HW), fit_maps(maps.map_FHW[0], S2M_HW)
    made = pipe.make_maps(*small, maps.num_entities, sampling)
    prefix[0] = "m2v"
    pipe.make_video(photo, PanopticClip(made.map_FHW[:seconds], made.num_entities), fps, sampling)
    return {**laps, "total": round(time.perf_counter() - began, 3)}


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _waits(pipe: HieraSurgPipeline) -> str:
    """Runs two steps of M2V's loop with waits forbidden."""
    given = inputs("m2v17")
    condition = given["latents_BFCHW"][:, :, 16:].float()
    sampling = [Sampling(2, 1.0, 1, 17, make_generator(0))]
    tokens = {"map_tokens_BND": given["map_tokens_BND"]}
    try:
        with _no_waiting():
            pipe._denoise("m2v", pipe.m2v, condition, tokens, tokens, sampling)
    except RuntimeError as error:
        return str(error)[:300]
    return "none"


def public(frames: int) -> dict[str, Any]:
    """The public procedure from its description."""
    pipe = pipeline()
    found: dict[str, float] = {}
    with torch.inference_mode():
        for name, stage in (("s2m", "s2m"), ("m2v", "m2v17" if frames == 16 else "m2v49")):
            model, given = getattr(pipe, name), inputs(stage)
            model(**given)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(10):
                model(**given)
            torch.cuda.synchronize()
            found[f"{name}_100_steps_s"] = 10 * (time.perf_counter() - began)
        small = torch.randn(1, 16, 16, 32, 48, device=DEVICE)
        found["s2m_decode_s"] = _seconds(lambda: _diffusers_frames(pipe, small))
        latents = torch.randn(1, 16, frames // 4 + 1, 60, 90, device=DEVICE, dtype=torch.bfloat16)
        found["m2v_decode_s"] = _seconds(lambda: pipe.vae.decode(latents, return_dict=False))
    _, maps = full_size.scene(S2M_HW)
    found["k_means_s"] = _k_means(maps)
    found["total_s"] = sum(found.values())
    return {name: round(value, 2) for name, value in found.items()}


def _diffusers_frames(pipe: HieraSurgPipeline, latents: Tensor) -> None:
    for frame in latents[0].bfloat16():
        pipe.vae.decode(frame[None, :, None], return_dict=False)


def _seconds(work: Any) -> float:
    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _k_means(maps: PanopticClip) -> float:
    """Clusters 1 % of the colours in LAB for k of 5 to 20, and assigns all to the elbow's centres."""
    palette = np.random.default_rng(0).random((32, 3))
    noisy = palette[maps.map_FHW] + np.random.default_rng(1).normal(0, 0.02, (*maps.map_FHW.shape, 3))
    began = time.perf_counter()
    frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2LAB) for frame in noisy.clip(0, 1).astype(np.float32)]
    colours = np.concatenate([frame.reshape(-1, 3) for frame in frames])
    few = np.ascontiguousarray(colours[::100])
    rule = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-3)
    centres = {}
    spread = []
    for k in range(5, 21):
        error, _, centres[k] = cv2.kmeans(few, k, None, rule, 10, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
        spread.append(error)
    best = centres[5 + int(np.argmax(np.diff(spread, 2))) + 1]
    for chunk in np.array_split(colours, 16):
        np.argmin(((chunk[:, None] - best[None]) ** 2).sum(-1), axis=1)
    return time.perf_counter() - began


def memory(way: str, steps: int) -> dict[str, Any]:
    """Peak memory of one clip of 16 frames, models first on the host."""
    pipe = pipeline().to("cpu")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    asked: Any = way
    notes = prepare(pipe, DEVICE, ClipShape(S2M_HW, M2V_HW, 16, 16), Speed(compile=False, memory=asked))
    first = _one_clip(pipe, steps, "dpm++", 1, 16)
    warm = _one_clip(pipe, steps, "dpm++", 1, 16)
    reserved = round(torch.cuda.max_memory_reserved() / 1024**3, 2)
    return {
        "notes": notes,
        "peak_gib": gib(),
        "reserved_gib": reserved,
        "steps": steps,
        "first": first,
        "warm": warm,
    }


@torch.inference_mode()
def small_parts() -> dict[str, Any]:
    """Map encoder, a photograph's encoding, S2M's decoding."""
    model, coder = full_size.m2v(), full_size.vae()
    flat = single_frame_vae(coder)
    maps = torch.rand(1, 16, *M2V_HW, device=DEVICE)
    photo = torch.rand(1, 3, 1, *M2V_HW, device=DEVICE, dtype=torch.bfloat16)
    latents = torch.randn(1, 16, 16, 32, 48, device=DEVICE)
    return {
        "map_tokens_ms": round(median_ms(lambda: model.encode_maps(maps)), 1),
        "photo_ms": round(median_ms(lambda: flat.encode(photo, return_dict=False)), 1),
        "s2m_decode_ms": round(median_ms(lambda: decode_frames(flat, latents, 4)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default="", help="names to run, with commas; all by default")
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--solver", default="dpm++")
    parser.add_argument("--quantize", default="none")
    asked = parser.parse_args()
    keep_compiled(compiled_folder())
    report = Report(asked.seconds, [name for name in asked.parts.split(",") if name])
    report.part("kernels", kernels)
    report.part("convolutions", convolutions)
    report.part("chain16", lambda: chain(asked.steps, asked.solver, 16, asked.quantize), 40)
    report.part("public16", lambda: public(16), 15)
    report.part("vae17", lambda: vae(17), 25)
    report.part("calls_m2v17", lambda: calls("m2v17", exact=True), 25)
    report.part("calls_s2m", lambda: calls("s2m", exact=True), 20)
    report.part("calls_m2v49", lambda: calls("m2v49", exact=False), 20)
    report.part("small", small_parts, 5)
    report.part("chain48", lambda: chain(asked.steps, asked.solver, 48, asked.quantize), 40)
    report.part("public48", lambda: public(48), 15)
    report.part("vae49", lambda: vae(49), 25)
    for way in ("fast", "offload", "group-offload"):
        report.part(f"memory_{way}", lambda way=way: memory(way, 4), 20)
    report.end()


if __name__ == "__main__":
    main()
