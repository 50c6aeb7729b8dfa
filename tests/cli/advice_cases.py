"""The table of advice: a line that is refused, the advice in its message, and what follows it."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_datasets
import torch
from generation.test_text_vectors import vectors_file
from generation.tiny_assets import tiny_pipeline
from numbered_videos import even_ticks, write_video
from PIL import Image

from hierasurg_cli.app import run
from hierasurg_core.artifacts import read_json, write_json
from hierasurg_core.pictures import write_png
from hierasurg_core.video import read_video, write_mp4

ON_CPU = "-q --device cpu"
EVALUATE = f"evaluate {ON_CPU} --vae none --sam none --replicates 0 --set wall=1 --set classifier=none"
SIDES = f"{EVALUATE} samples --real real"
BUILD = f"build-dataset {ON_CPU} --base model --size 32x48 --map-size 32x48 --val-fraction 0.5"
TRAIN = f"{ON_CPU} --base model --steps 1 --batch 1 --warmup 0 --precision fp32"
S2M, M2V = f"train-s2m {TRAIN}", f"train-m2v {TRAIN}"
GENERATE = f"generate {ON_CPU} --model pipeline --steps 1"
WORDS = "--phase calot --triplet 17"
LABEL = f"label {ON_CPU} --sam sam"


@dataclass(frozen=True)
class Case:
    """One advice.

    Attributes:
        of: Words of the message, as they stand in the source.
        line: What is refused.
        advice: Finds the advice in the message; its groups go into `follow`.
        follow: Lines that end without an error; {line} is the refused one, {0} a group.
        needs: Parts of the world that are copied into the working folder.
        given: What else is done to the working folder before.
        is_gone: The last line needs more than is here: only this error has to be gone.
    """

    of: str
    line: str
    advice: str
    follow: tuple[str, ...]
    needs: tuple[str, ...] = ()
    given: Callable[[], Any] = lambda: None
    is_gone: bool = False


def videos_of(*names: str, rate: float = 25, frames: int = 100) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_video(Path(name), even_ticks(frames))


def at_rate(folder: str, rate: float, frames: int) -> None:
    """Writes a side's videos again at another rate."""
    for path in sorted(Path(folder).glob("????.mp4")):
        video_FHWC = read_video(path)[0]
        times = np.linspace(0, len(video_FHWC) - 1, frames).round().astype(int)
        write_mp4(path, video_FHWC[times], rate)


def compared_with(*options: str) -> Callable[[], None]:
    """Makes the reports `a` and `b`, the second with other options."""

    def made() -> None:
        assert run(shlex.split(f"{SIDES} -o a")) == 0
        assert run([*shlex.split(f"{SIDES} -o b"), *options]) == 0

    return made


def trained(*lines: str) -> Callable[[], None]:
    def made() -> None:
        for line in lines:
            assert run(shlex.split(line)) == 0

    return made


def relabelled(ids: int, video: str = "*") -> None:
    """Gives each map of one or all videos so many ids."""
    for path in Path("videos").glob(f"{video}_masks/*.png"):
        from hierasurg_core.maps import save_map_png

        map_HW = np.arange(32 * 48).reshape(32, 48) * (ids + 2) // (32 * 48)
        save_map_png(path, map_HW.astype(np.uint8), ids)


def without_labels() -> None:
    assert run(shlex.split(f"{BUILD} --set labels=null")) == 0


def built() -> None:
    assert run(shlex.split(BUILD)) == 0


def another_dataset() -> None:
    """A run begins with one data set, which moves to `first`; another takes its place."""
    trained(BUILD, S2M)()
    Path("dataset").rename("first")
    trained(f"{BUILD} --val-fraction 0")()


def a_frame_is_lost() -> None:
    videos_of("in/VID01.mp4")
    assert run(["extract", "in", "-q"]) == 0
    Path("videos/video01/000001.jpg").unlink()


def an_unfinished_extraction() -> None:
    a_frame_is_lost()
    manifest = next(Path("videos/video01").glob("*.json"))
    write_json(manifest, {**read_json(manifest), "complete": False})


def half_labelled() -> None:
    frames("videos/video01", 18)
    Path("labels").mkdir()
    Path("labels/VID01.json").write_text(json.dumps(tiny_datasets.label_file(18)))
    assert run(shlex.split(f"{LABEL} videos --limit 16")) == 0


def frames(folder: str, count: int) -> None:
    Path(folder).mkdir(parents=True)
    for index in range(count):
        write_png(Path(folder) / f"{index:06d}.png", tiny_datasets.frame(1, index))


def numbered(*numbers: int, size_hw: tuple[int, int] = (32, 48)) -> None:
    """Writes images of these numbers into `in/VID01`."""
    Path("in/VID01").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        write_png(Path(f"in/VID01/{number:06d}.png"), np.full((*size_hw, 3), 90, np.uint8))


def frames_with_maps(*, by_label: bool = True) -> None:
    numbered(0, 1)
    assert run(["extract", "in", "-q"]) == 0
    Path("videos/video01_masks").mkdir()
    Path("videos/video01_masks/000000.png").write_bytes(b"a map")
    if by_label:
        Path("videos/video01_masks/label.json").write_text("{}")


def mixed_frames() -> None:
    frames("videos/video01", 18)
    (Path("videos/video01/000003.png")).unlink()
    Image.fromarray(tiny_datasets.frame(1, 3)).save("videos/video01/000003.jpg")


def a_bad_frame() -> None:
    frames("videos/video01", 16)
    Path("videos/video01/000003.png").write_bytes(b"no image")


def foreign_maps() -> None:
    frames("videos/video01", 16)
    Path("videos/video01_masks").mkdir()
    tiny_datasets.write_operation(Path("other"), 1, 16)
    shutil.copytree("other/videos/video01_masks", "videos/video01_masks", dirs_exist_ok=True)


def videos_and_truth() -> None:
    frames("videos/video01", 16)
    tiny_datasets.write_operation(Path("other"), 1, 16)
    shutil.copytree("other/videos/video01_masks", "truth/video01_masks")


def moved_frames() -> None:
    built()
    Path("videos").rename("elsewhere")
    shutil.rmtree("real", ignore_errors=True)


def code_of_its_own() -> None:
    frames("videos/video01", 16)
    Path("backbone").mkdir()
    write_json(Path("backbone/config.json"), {"auto_map": {"AutoModel": "x.Y"}})


def long_video() -> None:
    Path("long").mkdir()
    write_mp4(Path("long/video01.mp4"), np.full((4097, 16, 16, 3), 90, np.uint8), 25)
    frames("frames/one", 8)
    frames("frames/two", 8)


def photograph() -> None:
    write_png(Path("photo.png"), np.full((64, 96, 3), 90, np.uint8))
    from hierasurg_core.maps import save_map_png

    map_HW = np.zeros((64, 96), np.uint8)
    map_HW[:2], map_HW[20:40, 20:60] = 2, 1
    save_map_png(Path("map.png"), map_HW, 1)


def maps_of_nothing() -> None:
    photograph()
    from hierasurg_core.maps import save_map_png

    Path("maps").mkdir()
    for second in range(16):
        map_HW = np.zeros((64, 96), np.uint8)
        map_HW[:2], map_HW[20:40, second : second + 40] = 2, 1
        save_map_png(Path("maps") / f"{second:06d}.png", map_HW, 1)


def a_story() -> None:
    photograph()
    Path("story.yaml").write_text("segments:\n- {phase: calot, seconds: 2, frame: photo.png, map: map.png}\n")


def speaking_model() -> None:
    tiny_pipeline(vector_dim=6).save_pretrained("pipeline")
    vectors_file(Path("vectors.safetensors"), width=6)


def public_model() -> None:
    shutil.copytree("pipeline/m2v", "public/transformer")
    config = Path("public/transformer/config.json")
    write_json(
        config, {**read_json(config), "_class_name": "CogVideoXTransformer3DModel_SegCond_Hierarchical_I2V"}
    )


def only_frames_of(*names: str) -> None:
    Path("one.txt").write_text("\n".join(names) + "\n")


def lists() -> None:
    Path("labels/VID02.json").unlink()
    Path("train.txt").write_text("video01\n")
    Path("val.txt").write_text("video03\n")
    tiny_datasets.write_operation(Path(), 3, 18)


def other_model() -> None:
    tiny_datasets.write_vae(Path("model2"), seed=5)
    for part in ("transformer", "scheduler"):
        shutil.copytree(Path("model") / part, Path("model2") / part)


CASES = [
    # extract
    Case(
        *("there is no folder {}: make it with 'hierasurg extract'", LABEL),
        r"make it with 'hierasurg (extract)'",
        ("{0} in -q", "label videos --limit 4 --format png -q --device cpu --sam sam"),
        ("sam",),
        lambda: videos_of("in/VID01.mp4"),
    ),
    Case(
        *("{} holds no frame folders (video01/000000.jpg): make them with 'hierasurg extract'", BUILD),
        r"make them with 'hierasurg (extract)'",
        ("{0} in -q --fps 1",),
        ("model",),
        lambda: (videos_of("in/VID01.mp4"), Path("videos").mkdir()),
    ),
    Case(
        *(
            "holds no frame folders (video01/000000.jpg): make them with 'hierasurg extract'",
            "build-dataset --describe --set labels=null",
        ),
        r"make them with 'hierasurg (extract)'",
        ("{0} in -q", "{line}"),
        (),
        lambda: (videos_of("in/VID01.mp4"), Path("videos").mkdir()),
    ),
    Case(
        "lacks {} of {} frames, first {}.jpg: run the same 'hierasurg extract' again",
        *(
            "build-dataset -q --base model --device cpu --set labels=null",
            r"run the same 'hierasurg (extract)'",
        ),
        ("{0} in -q", "evaluate -q --device cpu videos --real videos --sam none --set wall=1 --vae none"),
        ("model",),
        a_frame_is_lost,
    ),
    Case(
        "{} is not finished: run the same 'hierasurg extract' again",
        *(
            "build-dataset -q --base model --device cpu --set labels=null",
            r"run the same 'hierasurg (extract)'",
        ),
        ("{0} in -q", "evaluate -q --device cpu videos --real videos --sam none --set wall=1 --vae none"),
        ("model",),
        an_unfinished_extraction,
    ),
    Case(
        *("ends before the first frame asked for: choose an earlier --start", "extract -q in --start 9"),
        r"lasts (\d)\.\d s .*choose an earlier (--start)",
        ("extract -q in {1} 2",),
        given=lambda: videos_of("in/VID01.mp4"),
    ),
    Case(
        *("holds {} s and ends before --start {}", "extract -q in --start 9"),
        r"holds (\d) s and ends before (--start) 9",
        ("extract -q in {1} 2",),
        given=lambda: frames("in/VID01", 4),
    ),
    Case(
        *("holds images at {} fps: --fps {} needs the video file", "extract -q in/VID01 --fps 8"),
        r"holds images at (\d) fps: (--fps) 8 needs",
        ("extract -q in/VID01 {1} {0}", "extract -q in/VID02.mp4 {1} 8"),
        given=lambda: (frames("in/VID01", 4), videos_of("in/VID02.mp4")),
    ),
    Case(
        *("too small for --crop {}", "extract -q in --crop 100x100"),
        r"is (\d+x\d+) \(rows x columns\), too small for (--crop) 100x100",
        ("extract -q in {1} {0}",),
        given=lambda: videos_of("in/VID01.mp4"),
    ),
    Case(
        *("{} shows {} frames a second: --fps {} asks for more; give --fps {} or less",),
        *("extract -q in --fps 50", r"give (--fps \S+) or less", ("extract -q in {0}",)),
        given=lambda: videos_of("in/VID01.mp4"),
    ),
    Case(
        *("lacks its first {} seconds, counted from --first-index {}: give --start {} as well",),
        *("extract -q in --first-index 0", r"give (--start \d+) as well", ("{line} {0}",)),
        given=lambda: numbered(30, 31),
    ),
    Case(
        *("--size {} is more than {} times the {} (rows x columns) of {}: give {} or less",),
        *("extract -q in --size 999x999", r"(--size) .*: give (\S+) or less", ("extract -q in {0} {1}",)),
        given=lambda: numbered(0, 1),
    ),
    Case(
        *("are too large: give a --size of at most {} megapixels and {} a side",),
        *(
            "extract -q in --size 9000x9000",
            r"a (--size) of at most 64 meg",
            ("extract -q in {0} 8000x8000",),
        ),
        given=lambda: numbered(0, size_hw=(2500, 2500)),
    ),
    Case(
        *("(rows x columns), but the images before it are {}x{}: give --size", "extract -q in"),
        *(r"give (--size)$", ("{line} {0} 32x48",)),
        given=lambda: (numbered(0, 1), numbered(2, size_hw=(64, 96))),
    ),
    Case(
        *("which never meets --first-index {}: give one that does, such as {}",),
        *("extract -q in --first-index 3", r"(--first-index) 3: give one .* as (\d+)$", ("{line} {0} {1}",)),
        given=lambda: numbered(0, 25, 75),
    ),
    Case(
        *("ends with number {}, before --first-index {}: give a lower one", "extract -q in --first-index 9"),
        *(r"number (\d), before (--first-index) 9: give a lower one$", ("{line} {1} {0}",)),
        given=lambda: numbered(1, 2),
    ),
    Case(
        *(
            "would be replaced by other frames: give another OUT, or --overwrite,",
            "extract -q in --quality 80",
        ),
        r"give another OUT, or (--overwrite), which deletes these",
        ("extract -q in other --quality 80", "{line} {0}"),
        given=frames_with_maps,
    ),
    Case(
        *("would be replaced by other frames: give another OUT, or {}", "extract -q in --quality 80"),
        r"give another OUT, or move videos/video01_masks away, whose maps label did not write$",
        ("extract -q in other --quality 80",),
        given=lambda: frames_with_maps(by_label=False),
    ),
    Case(
        "mixes kinds of files ({}): keep one kind, or let 'hierasurg extract' make JPEGs of all",
        *("evaluate -q --device cpu videos --real videos --sam none --set wall=1 --vae none",),
        r"or let 'hierasurg (extract)' make JPEGs of all",
        ("{0} -q videos again", f"{EVALUATE} again --real again"),
        given=mixed_frames,
    ),
    Case(
        *("without holes; 'hierasurg extract' renumbers them into another folder",),
        *("evaluate -q --device cpu videos --real videos --sam none --set wall=1 --vae none",),
        r"'hierasurg (extract)' renumbers them into another folder",
        ("{0} -q videos again", f"{EVALUATE} again --real again"),
        given=lambda: (frames("videos/video01", 18), Path("videos/video01/000003.png").unlink()),
    ),
    # label
    Case(
        *("{} has {} frames (one a second), and a clip takes {}: use --format png for it", LABEL),
        r"use (--format png) for it, or leave it out with (--only)",
        ("{line} {0}", "{line} --out maps2 {1} one.txt"),
        ("sam",),
        lambda: (frames("videos/video01", 4), frames("videos/video02", 16), only_frames_of("video02")),
    ),
    Case(
        *("leave bad frames out with --skip-bad", LABEL),
        *(r"leave bad frames out with (--skip-bad)", ("{line} {0}",)),
        ("sam",),
        a_bad_frame,
    ),
    Case(
        *(
            "holds maps that label did not write ({} is missing): move them away, or give another --out",
            LABEL,
        ),
        *(r"or give another (--out)", ("{line} {0} elsewhere",)),
        ("sam",),
        foreign_maps,
    ),
    Case(
        *(
            "sam_checkpoint needs sam: say which model the file is of (--sam large)",
            "label --sam-checkpoint a.pt",
        ),
        *(r"\((--sam large)\)", ("{line} {0}",)),
        is_gone=True,
    ),
    Case(
        *("{} holds no {}: put the file of that name from {} there, or give it with --sam-checkpoint",),
        "label videos -q --sam tiny --weights-dir empty --device cpu",
        *(r"or give it with (--sam-checkpoint)", ("{line} {0} a.pt",)),
        given=lambda: (frames("videos/video01", 16), Path("empty").mkdir(), Path("a.pt").write_text("x")),
        is_gone=True,
    ),
    Case(
        "brings code of its own: allow it with --trust-remote-code",
        f"{LABEL} --features backbone",
        *(r"allow it with (--trust-remote-code)", ("{line} {0}",)),
        ("sam",),
        code_of_its_own,
        is_gone=True,
    ),
    # build-dataset
    Case(
        *("there are no maps at {}: make them with 'hierasurg label'", BUILD),
        r"make them with 'hierasurg (label)'",
        (f"{{0}} {LABEL.removeprefix('label ')}", "{line} --val-fraction 0"),
        ("sam", "model"),
        lambda: (
            frames("videos/video01", 16),
            Path("labels").mkdir(),
            Path("labels/VID01.json").write_text(json.dumps(tiny_datasets.label_file(16))),
        ),
    ),
    Case(
        "have no maps, the first is {}: run 'hierasurg label' to its end, or leave these clips out with",
        f"{BUILD} --val-fraction 0",
        r"run 'hierasurg (label)' to its end, or leave these clips out with (--drop-unlabelled)",
        ("{line} {1} --set out=other", f"{{0}} {LABEL.removeprefix('label ')}", "{line}"),
        ("sam", "model"),
        half_labelled,
    ),
    Case(
        "leave the video out with --train and --val, or build without any (--set labels=null)",
        BUILD,
        r"leave the video out with (--train) and (--val), or build without any \((--set labels=null)\)",
        ("{line} {2} --set out=other", "{line} --set val_fraction=null {0} train.txt {1} val.txt"),
        ("videos", "labels", "model"),
        lists,
    ),
    Case(
        *("was extracted at {} fps, not {}:", f"{BUILD} --set labels=null"),
        r"extract the videos into another folder with (--fps 1)",
        ("extract -q in again {0}", "build-dataset again --describe --set labels=null"),
        ("model", "videos"),
        lambda: (
            shutil.rmtree("videos/video01"),
            shutil.rmtree("videos/video02"),
            videos_of("in/VID01.mp4", "in/VID02.mp4"),
            run(["extract", "in", "-q", "--fps", "25"]),
        ),
    ),
    Case(
        *("{} has no VAE: give a model folder with vae/{} as --base", f"{BUILD} --base empty"),
        *(r"(--base)$", ("{line} {0} model",)),
        ("videos", "labels", "model"),
        lambda: Path("empty").mkdir(),
    ),
    # training
    Case(
        *("there is no {}; run 'hierasurg build-dataset'", S2M),
        *(r"run 'hierasurg (build-dataset)'", (f"{{0}} {BUILD.removeprefix('build-dataset ')}", "{line}")),
        ("videos", "labels", "model"),
    ),
    Case(
        *("has {} fps, not the {} asked for: give the data set of that rate, or --fps {}", f"{S2M} --fps 8"),
        *(r"or (--fps 1)", ("{line} {0}",)),
        ("videos", "labels", "model"),
        built,
    ),
    Case(
        "was made with the VAE of {} ({}), not that of {} ({}): give --base",
        f"{S2M} --base model2",
        r"give (--base \S+), or build it again with (--no-resume --base \S+)$",
        ("{line} {0} --out runs/one", f"{BUILD} {{1}}", "{line} --out runs/two"),
        ("videos", "labels", "model"),
        lambda: (built(), other_model()),
    ),
    Case(
        *("has no phases and triplets, which {} learns from: build it again with", S2M),
        r"build it again with (--no-resume) and the folder of labels as (--labels)",
        (f"{BUILD} {{0}} {{1}} labels", "{line}"),
        ("videos", "labels", "model"),
        without_labels,
    ),
    Case(
        *("were made with object dropout {}; build it again with", f"{S2M} --object-dropout 0.5"),
        r"build it again with (--no-resume --set \S+), or with (--no-resume --on-the-fly)",
        (f"{BUILD} {{0}}", "{line} --out runs/one", f"{BUILD} {{1}}", "{line} --out runs/two"),
        ("videos", "labels", "model"),
        built,
    ),
    Case(
        *("{} has nothing to train on: {}", S2M),
        r"label with (--max-objects 18) or less, then build it with (--no-resume), or train",
        (f"{LABEL} {{0}} --out maps", f"{BUILD} --maps maps {{1}}", "{line}"),
        ("videos", "labels", "model", "sam"),
        lambda: (relabelled(25), built()),
    ),
    Case(
        *("{} has nothing to train on: {}", S2M),
        *(r"or train S2M with (--maps ids)$", ("{line} {0}",)),
        ("videos", "labels", "model"),
        lambda: (relabelled(25), built()),
    ),
    Case(
        *("goes on as it was begun: asked for optimizer adamw8bit, the run has adamw; leave",),
        f"{S2M} --steps 2 --memory 8bit",
        *(r"; leave it out to go on, or give another --out to start anew$", (f"{S2M} --steps 2",)),
        ("videos", "labels", "model"),
        trained(BUILD, S2M),
    ),
    Case(
        "that {} can learn from, fewer than the {} processes: give --gpus",
        f"{S2M} --dry-run --gpus 8",
        *(r"give (--gpus \d) or less", ("{line} {0}",)),
        ("videos", "labels", "model"),
        built,
    ),
    Case(
        *("is another data set{} than {} of the run {}: {}", f"{S2M} --steps 2"),
        r"give the data set that it was begun with, or another (--out) to start anew$",
        (f"{S2M} --steps 2".replace("train-s2m", "train-s2m first"), "{line} {0} runs/other"),
        ("videos", "labels", "model"),
        another_dataset,
    ),
    Case(
        "--export needs both stages, and {} is no finished run: train it first, then call this again",
        f"{S2M} --export pipeline",
        *(r"and (runs/m2v) is no finished run: train it first", (f"{M2V} --out {{0}}", "{line}")),
        ("videos", "labels", "model"),
        built,
    ),
    Case(
        "holds other files than a pipeline; choose another folder for --export",
        f"{S2M} --export labels",
        *(r"choose another folder for (--export)", ("{line} {0} pipeline",)),
        ("videos", "labels", "model"),
        lambda: (built(), trained(M2V)()),
    ),
    Case(
        "an 8-bit optimizer needs an NVIDIA GPU; use --memory recompute or offload here",
        f"{S2M} --memory 8bit",
        *(r"use (--memory recompute) or (offload)", ("{line} {0}", "{line} --memory {1} --out runs/other")),
        ("videos", "labels", "model"),
        built,
    ),
    # generate
    Case(
        *("--frame needs --phase", f"{GENERATE} --frame photo.png --map map.png"),
        *(r"--frame needs (--phase)", ("{line} {0} calot",)),
        ("pipeline",),
        photograph,
    ),
    Case(
        *("needs --frame: give the image of the first map", f"{GENERATE} --maps maps {WORDS}"),
        *(r"needs (--frame)", ("{line} {0} photo.png",)),
        ("pipeline",),
        maps_of_nothing,
    ),
    Case(
        *("S2M's palette tells {} apart: give at most {}", f"{GENERATE} {WORDS} --newcomers 18"),
        *(r"(--newcomers) 18: .* give at most (\d+)", ("{line} {0} {1}",)),
        ("pipeline",),
    ),
    Case(
        *("is not possible: the scheduler has {} steps", f"{GENERATE} {WORDS} --steps 2000"),
        *(r"(--steps) 2000 .* has (\d+) steps", ("{line} {0} {1}",)),
        ("pipeline",),
        is_gone=True,
    ),
    Case(
        *("is not possible: the model {} makes {} fps", f"{GENERATE} {WORDS} --fps 8"),
        *(r"(--fps) 8 .* makes (\d) fps", ("{line} {0} {1}",)),
        ("pipeline",),
    ),
    Case(
        "there is no model folder {}: give a folder, a Hub id, or '{}'",
        f"generate {ON_CPU} --steps 1 {WORDS} --model gone/x/y",
        *(r"or '(mini)'", ("{line} --model {0}",)),
    ),
    Case(
        *(
            "has no clip in its split '{}': choose the other --split",
            f"{GENERATE} --from-dataset dataset --split val",
        ),
        *(r"choose the other (--split)", ("{line} {0} train",)),
        ("videos", "labels", "model", "pipeline"),
        lambda: trained(f"{BUILD} --val-fraction 0")(),
        is_gone=True,
    ),
    Case(
        "learned from text vectors, and there are none beside it: give their file as --text-vectors",
        f"{GENERATE} {WORDS}",
        *(r"give their file as (--text-vectors)", ("{line} {0} vectors.safetensors",)),
        given=speaking_model,
    ),
    Case(
        "lies beside it: give the pipeline that it belongs to as --model",
        f"generate {ON_CPU} --steps 1 {WORDS} --m2v public",
        *(r"belongs to as (--model)", ("{line} {0} pipeline",)),
        ("pipeline",),
        public_model,
    ),
    Case(
        *("no clip of {} in its split '{}' can be used: they have {}; give --true-maps, choose the other",),
        f"{GENERATE} --from-dataset dataset --limit 1",
        r"give (--true-maps), choose the other (--split), or label",
        ("{line} {0}", "{line} {1} train"),
        ("videos", "labels", "model", "pipeline"),
        lambda: (relabelled(25, "video01"), built()),
    ),
    Case(
        *("was made by another request, model or setting: give another --out, or --no-resume to replace it",),
        f"{GENERATE} --requests requests.csv --seed 5",
        r"give another (--out), or (--no-resume) to replace it",
        ("{line} {0} other", "{line} {1}"),
        ("pipeline",),
        lambda: (
            Path("requests.csv").write_text("name,phase,triplet\nmine,calot,17\n"),
            trained(f"{GENERATE} --requests requests.csv")(),
        ),
    ),
    Case(
        *("frame and --frame {} exclude each other: give the first frame once",),
        f"{GENERATE} --script story.yaml --frame photo.png --map map.png",
        *(r"give the first frame once$", (f"{GENERATE} --script story.yaml",)),
        ("pipeline",),
        a_story,
    ),
    # evaluate
    Case(
        *("give --fps {} to compare both at one rate", SIDES),
        *(r"give (--fps \S+) to compare", ("{line} {0}",)),
        ("samples", "real"),
        lambda: (at_rate("samples", 25, 50), at_rate("real", 8, 16)),
    ),
    Case(
        *("has {} frames a second, fewer than {}: give --fps {}, or less", f"{SIDES} --fps 12"),
        *(r"give (--fps \S+), or less", ("{line} {0}",)),
        ("samples", "real"),
        lambda: (at_rate("samples", 25, 50), at_rate("real", 8, 16)),
    ),
    Case(
        *("is no data set, so it has no split '{}': leave out --split", f"{SIDES} --split val"),
        *(r"leave out (--split)", (SIDES,)),
        ("samples", "real"),
    ),
    Case(
        *("give a smaller --clip-frames or --stride", f"{SIDES} --clip-frames 6 --stride 2"),
        r"give a smaller (--clip-frames) or (--stride)",
        ("{line} {0} 4", "{line} {1} 1"),
        ("samples", "real"),
    ),
    Case(
        "of whose {} the data set {} was made: run in the folder in which it was built, or {}",
        f"{EVALUATE} samples --real dataset",
        r"or give the frames themselves instead of the data set$",
        (f"{EVALUATE} samples --real elsewhere --fps 1",),
        ("videos", "labels", "model", "samples"),
        moved_frames,
    ),
    Case(
        "it holds {} frames: cut whole operations into frames with 'hierasurg extract'",
        f"{EVALUATE} frames --real long",
        r"cut whole operations into frames with 'hierasurg (extract)'",
        ("{0} -q long cut", f"{EVALUATE} frames --real cut"),
        given=long_video,
    ),
    Case(
        *("holds no maps (video01_masks): make them with 'hierasurg label'", "label -q --check truth"),
        *(r"make them with 'hierasurg (label)'", (f"{{0}} {LABEL.removeprefix('label ')}", "{line}")),
        ("sam",),
        videos_and_truth,
    ),
    Case(
        *("holds no maps (video01{}): make them with 'hierasurg label'", "label -q --check truth --out gone"),
        *(
            r"^gone .*make them with 'hierasurg (label)'",
            (f"{{0}} {LABEL.removeprefix('label ')} --out gone", "{line}"),
        ),
        ("sam",),
        videos_and_truth,
    ),
    *(
        Case(
            *("'{}' and '{}' differ in {}; {}", "evaluate -q --compare a b"),
            *(r"measure both again with (--.*)$", (f"{SIDES} -o a {{0}}", f"{SIDES} -o b {{0}}", "{line}")),
            ("samples", "real"),
            compared_with(*options),
        )
        for options in (
            ("--num", "4"),
            ("--clip-frames", "5"),
            ("--stride", "1", "--fps", "0.5", "--clip-frames", "4"),
            ("--no-first-frame", "--seed", "3"),
        )
    ),
    # processes and devices
    Case(
        *("--node-rank {} does not exist with --nodes {}:", f"{S2M} --node-rank 1"),
        *(r"(--node-rank) 1 does not exist .* so give none", (S2M,)),
        ("videos", "labels", "model"),
        built,
    ),
    *(
        Case(
            of,
            f"{EVALUATE.replace('--device cpu', '')} samples --real real {wrong}",
            *(advice, (f"{SIDES} {right}",)),
            ("samples", "real"),
        )
        for of, wrong, advice, right in (
            ("torch finds no GPU here; use --device cpu", "--device cuda", r"use (--device cpu)", "{0}"),
            (
                "mps is not available on this machine; use --device cpu",
                "--device mps",
                r"use (--device cpu)",
                "{0}",
            ),
            (
                "takes GPUs 0 to {}: leave out --device {}",
                "--gpus 2 --device cuda:0",
                r"leave out (--device)",
                "",
            ),
        )
        if not torch.cuda.is_available()
    ),
]

ELSEWHERE = {
    # words of a message: why no case follows it
    "--set {} is not of the form key=value": "names no other option",
    "frames cannot be decoded, which --strict refuses": "leaving --strict out is no advice of the message",
    "changes its size from {}x{} to {}x{}: give --size": "a stream of two sizes, which PyAV does not write",
    "the map {} is missing: run 'hierasurg label' to its end": "as 'have no maps'; lost while it is read",
    "the maps {} are missing: run 'hierasurg label' to its end": "as 'have no maps'; lost while it is read",
    "made NaN; use --dtype fp32": "weights that overflow in half precision",
    "give a smaller --batch": "memory of a GPU",
    "use a smaller size or --device cpu": "memory of a GPU",
    "use --memory offload or group-offload, --dtype bf16, or --device cpu": "memory of a GPU",
    "the memory is too small": "memory of a GPU",
    "use --quantize none": "an old GPU",
    "cannot continue in the same order: the run began with": "the Python API",
    "which samples in 4 to 8 steps as it is: leave out --distill": "tests/training/test_run.py",
    "goes on as it was begun: --memory {} asks for": "memory of a GPU; as 'asked for optimizer'",
    "there is no home folder": "a user without a home",
    "give --cache FOLDER for the measured clips": "test_a_cache_that_cannot_be_written",
    "neither samples nor data set say where their VAE is": "test_what_was_left_out_comes_with_its_option",
    "pip install": "needs a package index",
    "which --weights-dir names": "names the option that was given",
    "name its digest as extractor_sha256 in a --protocol file": "tests/evaluation/test_evaluate.py",
    "give a pipeline folder or a Hub id as --model": "the package's own files are gone",
    "give a model and --fps of {}": "needs a model of the other rate",
    "give the file of that size and version, or --sam with the size of the file": "published weights",
    "fetch it elsewhere and give --sam-checkpoint FILE": "published weights",
    "is for a published size, but --sam is {}": "names the option that was given",
    "go on with --text-vectors {}": "tests/training/test_run.py",
    "--export public is not possible": "there is no other way",
    "--nodes needs --rendezvous": "waits for a second machine",
    "--rendezvous must be HOST:PORT": "waits for a second machine",
    "is not possible: this machine has {} GPU": "test_more_processes_than_gpus_run_on_the_cpu",
    "report_to {} needs {}, which is not installed": "needs a package index",
}
