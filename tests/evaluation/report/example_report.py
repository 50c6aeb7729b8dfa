"""An example of a report with its videos: phantom clips, and softened copies as what a model made of them.

Numbers are measured by this project's own metrics where that is cheap; "fvd-mini" is a Frechet distance of
plain colour features, which is enough for a page to draw.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from evaluation.phantom_sides import drawn, write_samples, write_videos
from numpy.typing import NDArray

from hierasurg_core import taxonomy
from hierasurg_core.evaluation.frechet import frechet_distance
from hierasurg_core.evaluation.moments import Moments
from hierasurg_core.evaluation.pairs import psnr_F, ssim_F, warp_error
from hierasurg_core.evaluation.protocol import Protocol
from hierasurg_core.phantom.held_out import uint8_video

Videos = NDArray[np.uint8]
DIGEST = "4f8a1c" + "0" * 58


def softened(sigma_px: float, noise: float) -> Callable[[Videos], Videos]:
    """A change of one video: blur that grows along the clip, and grain."""

    def change(video_FHWC: Videos) -> Videos:
        generator = np.random.default_rng(int(video_FHWC.sum()) % 2**32)
        strength = sigma_px * (0.6 + generator.random())
        soft = [
            cv2.GaussianBlur(frame, (0, 0), 0.05 + strength * index / len(video_FHWC))
            for index, frame in enumerate(video_FHWC)
        ]
        grain = generator.normal(0, noise, video_FHWC.shape)
        return np.clip(np.array(soft) + grain, 0, 255).astype(np.uint8)

    return change


def frozen(video_FHWC: Videos) -> Videos:
    return np.repeat(video_FHWC[:1], len(video_FHWC), axis=0)


def write_example(
    folder: Path, count: int = 12, *, sigma_px: float = 1.6, size_hw: tuple[int, int] = (64, 96)
) -> dict[str, Any]:
    """Writes report.json and the videos that it names into an empty folder; returns the report."""
    clips, others = (drawn(count, seed, frames=8, size_hw=size_hw) for seed in (3, 900))
    soften = softened(sigma_px, 2.0)
    write_videos(folder / "real", clips)
    write_samples(folder / "samples", clips, soften)
    real = uint8_video(clips)
    sets = {
        "real": uint8_video(others),
        "vae": np.array([softened(0.3, 0.0)(video) for video in real]),
        "frozen": np.array([frozen(video) for video in real]),
        "model": np.array([soften(video) for video in real]),
    }
    per_clip = {
        "psnr": {
            role: [psnr_F(a, b) for a, b in zip(real, made, strict=True)] for role, made in sets.items()
        },
        "ssim": {
            role: [ssim_F(a, b) for a, b in zip(real, made, strict=True)] for role, made in sets.items()
        },
        "warp-error": {role: [[warp_error(video).error] for video in made] for role, made in sets.items()},
    }
    capped = {
        name: {role: [np.minimum(values, 60).mean() for values in clips] for role, clips in roles.items()}
        for name, roles in per_clip.items()
    }
    for name in ("psnr", "ssim"):
        capped[name].pop("real")
    phases = [taxonomy.PHASES[int(phase)] for phase in clips.phase_BF[:, 0]]
    triplets = [taxonomy.TRIPLETS[int(triplet)].name for triplet in clips.triplet_BF[:, 0]]
    metrics = {"fvd-mini": distance_metric(real, sets)}
    metrics |= {name: mean_metric(name, capped[name]) for name in capped}
    steps = sorted({max(3, count // 4), max(3, count // 2), max(3, 3 * count // 4), count})
    report = {
        "schema": 1,
        "kind": "hierasurg-report",
        "protocol": {**dataclasses.asdict(protocol(count)), "start": "first", "digest": DIGEST},
        "sides": {
            "generated": side(str(folder / "samples"), count, size_hw),
            "real": {
                **side(str(folder / "real"), count, size_hw),
                "unreadable": [{"file": "0099.mp4", "why": "moov atom not found"}],
            },
        },
        "models": {
            "mini": {"name": "classifier-mini", "digest": "ab" * 32},
            "vae": {"name": "vae-mini", "digest": "cd" * 32},
        },
        "metrics": metrics,
        "left_out": [
            {"metric": "fvd", "why": "i3d_torchscript.pt is not in the weights' folder; pass --i3d FILE"},
            {"metric": "is", "why": f"{count} clips are too few for 10 splits"},
        ],
        "plots": {
            "against_samples": {
                "fvd-mini": [[n, distance(real[:n], sets["model"][:n])] for n in steps],
            },
            "per_phase": {name: parts(capped[name]["model"], phases) for name in ("psnr", "warp-error")},
            "per_triplet": {"psnr": parts(capped["psnr"]["model"], triplets)},
            "per_second": {
                name: [
                    [second, float(np.mean([v[second] for v in per_clip[name]["model"]]))]
                    for second in range(8)
                ]
                for name in ("psnr", "ssim")
            },
        },
        "samples": [
            {
                "name": f"{index:04d}",
                "phase": phases[index],
                "triplet": triplets[index],
                "seed": index,
                "generated": f"samples/{index:04d}.mp4",
                "real": f"real/{index:04d}.mp4",
                "maps": f"samples/{index:04d}_maps.mp4",
                "values": {name: float(roles["model"][index]) for name, roles in capped.items()},
            }
            for index in range(count)
        ],
        "timing": {"look": 0.21, "load": 1.4, "measure": 41.7, "compute": 3.9, "write": 2.2},
        "notes": ["the first frame was given to the model and is not counted"],
    }
    (folder / "report.json").write_text(json.dumps(report))
    return report


def protocol(count: int) -> Protocol:
    return Protocol(
        "own",
        num_real=count,
        num_generated=count,
        fps=1.0,
        stride=1,
        clip_frames=8,
        resize="stretch",
        resize_px=64,
        interpolation="bilinear",
        antialias=True,
        crop="none",
        input_px=64,
        extractor="plain colours",
        extractor_sha256="ab" * 32,
        ddof=1,
        kernel="none",
        seed=0,
        first_frame_counts=False,
    )


def side(path: str, count: int, size_hw: tuple[int, int]) -> dict[str, Any]:
    return {"path": path, "clips": count, "frames": 8, "fps": 1.0, "size_hw": list(size_hw), "unreadable": []}


def features(videos: Videos) -> Moments:
    video = videos / 255
    axes = (1, 2, 3)
    found = [video.mean(axis=axes), video.std(axis=axes)]
    found += [np.abs(np.diff(video, axis=axis)).mean(axis=axes) for axis in axes]
    moments = Moments(15)
    moments.update(np.concatenate(found, axis=1))
    return moments


def distance(a: Videos, b: Videos) -> float:
    return 1000 * frechet_distance(features(a), features(b)).value


def distance_metric(real: Videos, sets: dict[str, Videos]) -> dict[str, Any]:
    values = {role: {"value": distance(real, made), "count": len(made)} for role, made in sets.items()}
    for role, value in values.items():
        half = 0.15 * value["value"]
        value["interval"] = None if role == "vae" else [value["value"] - half, value["value"] + half]
    return metric("FVD-mini", "lower", values, mini=True, extractor="classifier-mini", note="few samples")


def mean_metric(name: str, roles: dict[str, list[float]]) -> dict[str, Any]:
    titles = {"psnr": "PSNR", "ssim": "SSIM", "warp-error": "Warp error"}
    values = {}
    for role, clips in roles.items():
        spread = 1.96 * float(np.std(clips)) / len(clips) ** 0.5
        mean = float(np.mean(clips))
        values[role] = {"value": mean, "interval": [mean - spread, mean + spread], "count": len(clips)}
    better = "lower" if name == "warp-error" else "higher"
    return metric(titles[name], better, values, unit="dB" if name == "psnr" else "")


def metric(title: str, better: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    place = None
    if "real" in values and "frozen" in values:
        floor, trivial = values["real"]["value"], values["frozen"]["value"]
        worse = trivial > floor if better == "lower" else trivial < floor
        place = (values["model"]["value"] - floor) / (trivial - floor) if worse else None
        if worse and "vae" in values:
            more["vae_place"] = (values["vae"]["value"] - floor) / (trivial - floor)
    plain = {"unit": "", "mini": False, "extractor": None, "note": None}
    return {**plain, "title": title, "better": better, "values": values, "place": place, **more}


def parts(values: list[float], names: list[str]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for value, name in zip(values, names, strict=True):
        found.setdefault(name, []).append(float(value))
    return {name: {"value": float(np.mean(each)), "count": len(each)} for name, each in found.items()}
