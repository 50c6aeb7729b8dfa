"""The settings of `generate`: which samples, which models, what is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hierasurg_core.config.checks import at_least, at_most, check_choices, check_device, check_sam, in_seeds
from hierasurg_core.config.ranks import Ranks
from hierasurg_core.config.sampling import Solver
from hierasurg_core.errors import UsageError

Fps = Literal[1, 8]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
Split = Literal["train", "val"]
Cache = Literal["none", "first-block", "taylorseer", "pab"]
Memory = Literal["auto", "fast", "offload", "group-offload"]
Quantize = Literal["none", "fp8", "int8"]

MAX_STORY_HOURS = 12
_OF_ONE_START = ("phase", "triplet", "frame", "map", "maps")


@dataclass(frozen=True)
class GenerateConfig(Ranks):
    """One call of `generate`; processes as in `Ranks`.

    Attributes:
        phase: Name or id of the phase; None leaves the choice to the starting scene.
        triplet: "instrument,verb,target" or id; None as for the phase. Over time: "17@0-7; 60@8-15", where
            seconds are counted from 0 and both ends belong to a span.
        frame: Image to start from, instead of a scene of the gallery.
        map: Indexed PNG of the frame's panoptic map; without it and `maps`, SAM 2 makes it. Needs `frame`.
        sam: The SAM 2 that does so: "mini", "tiny", "small", "base-plus", "large" or a folder.
        maps: Maps of the whole clip (.pkl, folder of indexed PNGs, or mp4), which take the place of S2M.
        edit: Changes of the maps before they become video: "move 3 by 40,0 over 16; remove 5".
        requests: YAML or CSV file with one sample a line, in place of the five above and `num`.
        from_dataset: Data set whose clips give start frames, maps, phases and triplets instead.
        split: Of that data set.
        true_maps: Take that data set's maps in place of S2M's.
        limit: At most so many of its clips, spread evenly; None: all.
        script: YAML of a story, whose segments become one video.
        seconds: Length of a story, at most 12 hours: of the script's beginning, or of one segment without a
            script.
        model: Pipeline folder or Hub id; None: a finished run of the working folder, else the mini models.
        s2m: Run, checkpoint or model folder that replaces the pipeline's S2M.
        m2v: The same for M2V.
        text_vectors: Safetensors file with a vector by name of phase or triplet, for models that learned from
            such; None: the file that lies with the model.
        out: Folder for the samples.
        num: How many samples, at most 100,000; or stories, at most 5,000.
        batch: Samples made at once; None: the program's choice, which is one on a CPU.
        resume: Keep samples that the same request, models and settings have made already.
        seed: Of the first sample; the next ones count on.
        steps: Denoising steps of either stage; None: the model's own default, a student's its own number.
        guidance: Scale of classifier-free guidance, 1 is off; None: the model's own default.
        maps_guidance: The same of S2M alone; None: as `guidance`.
        newcomers: Ids that S2M keeps free for what comes into view later.
        fps: Frames a second, 1 or 8; None: the model's own rate.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "bf16", "fp16" or "fp32".
        solver: "sde-dpm++" as CogVideoX's own, "dpm++" or "ddim" without noise in between; None: the
            model's own, which is "ddim" for a few-step student.
        compile: Run the models through torch.compile; None: where the run is long enough to gain by it.
        cache: What calls of the transformers take from those before: "none", "first-block", "taylorseer"
            or "pab".
        memory: Where the models lie: "auto" by the GPU's size, "fast", "offload" or "group-offload".
        quantize: Weights in 8 bits: "none", "fp8" or "int8".
        deterministic: Choose no kernel by timing, and let torch use algorithms without chance: the same seed
            then gives the same bytes on one kind of GPU, at some cost in speed.
        contact_sheet: Also write one PNG with the frames of all samples.
        maps_dir: Also write the maps as a folder of indexed PNGs.
        frames_dir: Also write the frames as a folder of PNGs.
        overlay: Also write a video with the maps laid over the frames.
        side_by_side: Also write a video with frames and maps beside each other.
        gif: Also write the video as a GIF.

    Raises:
        UsageError: A number is out of range, or two settings exclude each other.
    """

    phase: str | None = None
    triplet: str | None = None
    frame: Path | None = None
    map: Path | None = None
    sam: str = "mini"
    maps: Path | None = None
    edit: str | None = None
    requests: Path | None = None
    from_dataset: Path | None = None
    split: Split = "val"
    true_maps: bool = False
    limit: int | None = None
    script: Path | None = None
    seconds: int | None = None
    model: str | None = None
    s2m: str | None = None
    m2v: str | None = None
    text_vectors: Path | None = None
    out: Path = Path("samples")
    num: int = 1
    batch: int | None = None
    resume: bool = True
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    maps_guidance: float | None = None
    newcomers: int = 0
    fps: Fps | None = None
    device: str = "auto"
    dtype: Dtype = "auto"
    solver: Solver | None = None
    compile: bool | None = None
    cache: Cache = "none"
    memory: Memory = "auto"
    quantize: Quantize = "none"
    deterministic: bool = False
    contact_sheet: bool = False
    maps_dir: bool = False
    frames_dir: bool = False
    overlay: bool = False
    side_by_side: bool = False
    gif: bool = False

    def __post_init__(self) -> None:
        """Checks ranges and combinations."""
        check_choices(self)
        at_least("num", self.num, 1)
        in_seeds(self.seed)
        for name in ("steps", "batch", "gpus", "limit", "seconds"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        if self.seconds is not None:
            at_most("seconds", self.seconds, MAX_STORY_HOURS * 3600, f" ({MAX_STORY_HOURS} hours)")
        for name in ("guidance", "maps_guidance"):
            scale: float | None = getattr(self, name)
            if scale is not None:
                at_least(name, scale, 0)
        at_least("newcomers", self.newcomers, 0)
        check_device(self.device)
        check_sam(self.sam)
        self._check_start()
        self._check_many()

    @property
    def is_story(self) -> bool:
        """Tells whether one video of several clips is asked for."""
        return self.script is not None or self.seconds is not None

    def _check_start(self) -> None:
        if self.map is not None and self.maps is not None:
            raise UsageError("map and maps exclude each other: give the first map or those of the whole clip")
        if self.map is not None and self.frame is None:
            raise UsageError("map needs frame: give the image that the map belongs to as well")
        for name in ("maps", "from_dataset"):
            if self.newcomers and getattr(self, name) is not None:
                raise UsageError(
                    f"newcomers and {name} exclude each other: those maps have ids for all they show"
                )

    def _check_many(self) -> None:
        sources = [name for name in ("requests", "from_dataset", "script") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise UsageError(f"{sources[0]} and {sources[1]} exclude each other: give one of them")
        given = [name for name in _OF_ONE_START if getattr(self, name) is not None]
        if sources and sources[0] != "script" and (given or self.num != 1):
            what = given[0] if given else "num"
            raise UsageError(
                f"{what} and {sources[0]} exclude each other: {sources[0]} says it for each sample"
            )
        if self.script is not None and (self.phase is not None or self.triplet is not None):
            raise UsageError("script excludes phase and triplet: the story names them for each segment")
        for name, wanted in (("true_maps", self.true_maps), ("limit", self.limit is not None)):
            if wanted and self.from_dataset is None:
                raise UsageError(f"{name} needs from_dataset: it says which of its clips and maps are taken")
        if self.is_story:
            for name in ("maps", "edit", "requests", "from_dataset"):
                if getattr(self, name) is not None:
                    raise UsageError(f"a story excludes {name}: its maps follow from its segments")
