"""The pipeline: a photograph and its map become maps (S2M), and maps become video (M2V).

Owns the order of both stages: pictures and words in, noise to latents, pictures and ids out. It opens
pipeline folders and saves them as diffusers does, and refuses sizes and frame counts that the models cannot
halve evenly, and output that is not finite.

Legend: B clips, F frames, C channels, H W pixels, h w latent sides.
Source: HieraSurg (arXiv 2506.21287) and its public code.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hierasurg_core.config.sampling import StageSampling, as_index, of_index, own_sampling
from hierasurg_core.errors import UsageError
from hierasurg_core.generation.conditions import UNKNOWN, Sampling, first_frame_of, words_of
from hierasurg_core.generation.folders import part_folder
from hierasurg_core.generation.holding import Held
from hierasurg_core.generation.id_maps import IdStart, clips_of, sample_maps
from hierasurg_core.generation.limits import (
    NUM_MAPS,
    check_frames,
    check_size,
    expect_same_sizes,
    expect_starts,
)
from hierasurg_core.generation.pictures import Pictures
from hierasurg_core.generation.placement import Placement
from hierasurg_core.generation.sampling import Denoiser, denoise
from hierasurg_core.maps import (
    PanopticClip,
    colour_map,
    decode_colours,
    fit_maps,
    normalise_levels,
    number_by_appearance,
)
from hierasurg_core.models import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXStack,
    DiffusionPipeline,
    M2VTransformer3DModel,
    S2MTransformer3DModel,
    ids,
    latent_frames,
    load_scheduler,
    load_transformer,
    load_vae,
)
from hierasurg_core.models.defaults import read_pipeline_sampling
from hierasurg_core.models.text_vectors import (
    TEXT_VECTORS,
    TextVectors,
    find_text_vectors,
    load_text_vectors,
    save_text_vectors,
)
from hierasurg_core.runtime import make_generator


@dataclass(frozen=True)
class HieraSurgOutput:
    """What one call of the pipeline makes.

    Attributes:
        frames_FHWC: uint8 RGB.
        maps: One map a second.
    """

    frames_FHWC: NDArray[np.uint8]
    maps: PanopticClip


class HieraSurgPipeline(DiffusionPipeline):
    """Phase and triplet to surgical video, by way of panoptic maps.

    Parts: `s2m` and `m2v` (transformers), one `vae`, one `scheduler`; `s2m` may be None where maps are
    given. `config["sampling"]` says by stage how a call samples that does not say it; see `sampling_of`.
    `text_vectors` has those of a stage that learned from text vectors, by its name.

    Example:
        >>> pipe = HieraSurgPipeline.from_pretrained("path/of/a/pipeline")
        >>> out = pipe(photo_HWC, first_map_HW=map_HW, num_entities=12, phase=1, triplet=17)
        >>> out.frames_FHWC.shape
        (16, 128, 192, 3)
    """

    model_cpu_offload_seq = "s2m->m2v->vae"
    _optional_components = ["s2m"]  # noqa: RUF012 - diffusers' own declaration

    def __init__(
        self,
        s2m: S2MTransformer3DModel | None,
        m2v: M2VTransformer3DModel,
        vae: AutoencoderKLCogVideoX,
        scheduler: CogVideoXDPMScheduler,
        sampling: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.s2m: S2MTransformer3DModel | None
        self.m2v: M2VTransformer3DModel
        self.vae: AutoencoderKLCogVideoX
        self.scheduler: CogVideoXDPMScheduler
        for model in (s2m, m2v, vae):  # a batch norm in training mode would mix and remember clips
            if model is not None:
                model.eval()
        self.register_modules(s2m=s2m, m2v=m2v, vae=vae, scheduler=scheduler)
        self._pictures: Pictures | None = None
        self._placement: Placement | None = None
        self.text_vectors: dict[str, TextVectors] = {}
        self.current_timestep = 0  # at which a transformer is called; a cache asks for it
        self.register_to_config(sampling=as_index(of_index(sampling or {})))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        torch_dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        **parts: Any,
    ) -> "HieraSurgPipeline":
        """Opens a pipeline folder: `model_index.json`, `s2m/`, `m2v/`, `vae/`, `scheduler/`.

        In place of diffusers' own way, which imports what the index names; here every tensor is accounted
        for, and nothing in the folder is run.

        Args:
            pretrained_model_name_or_path: The folder.
            torch_dtype: Of the weights.
            device: Where they go.
            parts: Parts by name that are not read from the folder.

        Raises:
            WeightsError: The folder lacks a part, or one has tensors of another shape than its config says.
        """
        folder = Path(pretrained_model_name_or_path)
        sampling = read_pipeline_sampling(folder)
        where = {"dtype": torch_dtype, "device": device}
        vectors: dict[str, TextVectors] = {}
        for name in ("s2m", "m2v"):
            if name in parts:
                continue
            parts[name] = load_transformer(part_folder(folder, name), **where)
            file = find_text_vectors(part_folder(folder, name))
            if file is not None:
                vectors[name] = load_text_vectors(file, torch.device("cpu"))
        if "vae" not in parts:
            parts["vae"] = load_vae(part_folder(folder, "vae"), **where)
        if "scheduler" not in parts:
            parts["scheduler"] = load_scheduler(part_folder(folder, "scheduler"))
        pipeline = cls(**parts, sampling=as_index(sampling))
        pipeline.text_vectors.update(vectors)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Writes the folder that `from_pretrained` opens: as diffusers does, text vectors in their parts."""
        super().save_pretrained(save_directory, *args, **options)
        for name, vectors in self.text_vectors.items():
            save_text_vectors(vectors, Path(save_directory) / name / TEXT_VECTORS)

    @torch.inference_mode()
    def __call__(
        self,
        photo_HWC: NDArray[np.uint8],
        first_map_HW: NDArray[np.uint8] | None = None,
        num_entities: int | None = None,
        maps: PanopticClip | None = None,
        phase: int = UNKNOWN,
        triplet: int = UNKNOWN,
        fps: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
    ) -> HieraSurgOutput:
        """Runs S2M (unless `maps` are given) and M2V, both at the photograph's size.

        Args:
            photo_HWC: First frame, uint8 RGB; sides divisible by 16.
            first_map_HW: Its map, for S2M.
            num_entities: K of that map.
            maps: Maps of the clip, one a second, in place of S2M's.
            phase: Id 0..6, -1 for unknown.
            triplet: Id 0..99, -1 for none.
            fps: Frames a second, 1 or 8.
            num_inference_steps: Of each stage; None: its own, see `sampling_of`.
            guidance_scale: Of both stages, 1 is off; None: each stage's own.
            generator: Best on the CPU; None draws from seed 0.

        Raises:
            UsageError: Sizes or frame counts that the models cannot take, or neither map nor maps.
            DataError: A first map with more than 20 levels, or of another size than the photograph.
            WeightsError: The output is not finite.
        """
        sampling = Sampling(
            steps=num_inference_steps,
            guidance=guidance_scale,
            phase=phase,
            triplet=triplet,
            generator=generator or make_generator(0),
        )
        if maps is None:
            if first_map_HW is None or num_entities is None:
                raise UsageError("the pipeline needs the photograph's map and its num_entities, or maps")
            maps = self.make_maps(photo_HWC, first_map_HW, num_entities, sampling)
        return HieraSurgOutput(self.make_video(photo_HWC, maps, fps, sampling), maps)

    def make_maps(
        self,
        photo_HWC: NDArray[np.uint8],
        first_map_HW: NDArray[np.uint8],
        num_entities: int,
        sampling: Sampling,
        known: NDArray[np.uint8] | None = None,
    ) -> PanopticClip:
        """S2M: a photograph, its map, phase and triplet become 16 maps, the first of them the given one.

        Args:
            photo_HWC: uint8 RGB at S2M's size.
            first_map_HW: uint8 ids of the same size.
            num_entities: K.
            sampling: How.
            known: Maps (F, H, W) that the clip begins with, the first of them `first_map_HW`; they stay.

        Raises:
            UsageError: Sides not divisible by 16, or the pipeline has no S2M.
            DataError: Photograph and map differ in size, or the map has more than 20 levels.
            WeightsError: The maps are not finite.
        """
        knowns = None if known is None else [known]
        return self.make_maps_batch([photo_HWC], [first_map_HW], [num_entities], [sampling], knowns)[0]

    def make_video(
        self,
        photo_HWC: NDArray[np.uint8],
        maps: PanopticClip,
        fps: int,
        sampling: Sampling,
        known: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """M2V: a photograph and maps become video at the photograph's size.

        CogVideoX wants 4k + 1 frames, so one more is made at the end and cut off.

        Args:
            photo_HWC: uint8 RGB at M2V's size.
            maps: One a second; cropped and resized where their size differs.
            fps: Frames a second: the video has `fps` frames a map.
            sampling: How.
            known: 4k + 1 frames (F, H, W, 3) that the video begins with, the first of them the photograph.

        Returns:
            uint8 (fps * maps, H, W, 3).

        Raises:
            UsageError: Sides not divisible by 16, or a frame count not divisible by 4.
            WeightsError: The frames are not finite.
        """
        knowns = None if known is None else [known]
        return self.begin_videos([photo_HWC], [maps], fps, [sampling], knowns)()[0]

    @torch.inference_mode()
    def make_maps_batch(
        self,
        photos_HWC: Sequence[NDArray[np.uint8]],
        first_maps_HW: Sequence[NDArray[np.uint8]],
        num_entities: Sequence[int],
        samplings: Sequence[Sampling],
        known: Sequence[NDArray[np.uint8]] | None = None,
    ) -> list[PanopticClip]:
        """S2M for several clips of one size at once; see `make_maps`.

        Steps, guidance, solver and callbacks are those of the first; each clip has its own generator, so its
        noise does not depend on the others. `known` has equally many maps for each clip.
        """
        if self.s2m is None:
            raise UsageError("this pipeline has no S2M model: give the maps of the clip")
        size_hw = check_size(first_maps_HW[0].shape)
        if self.s2m.config["maps"] == "ids":
            expect_same_sizes(photos_HWC, first_maps_HW)
            knowns = [map_HW[None] for map_HW in first_maps_HW] if known is None else known
            return self._make_id_maps(photos_HWC, knowns, num_entities, samplings)
        levels = expect_starts(photos_HWC, first_maps_HW, num_entities)
        conditions, dropped = self._words("s2m", samplings, NUM_MAPS)
        coloured = [colour_map(map_HW, of) for map_HW, of in zip(first_maps_HW, levels, strict=True)]
        alone = self.pictures.encode_alone([picture_HWC[None] for picture_HWC in [*photos_HWC, *coloured]])
        photo, first_map = alone.chunk(2)
        model: Denoiser = self.s2m
        if known is not None:
            told = [colour_map(clip, of) for clip, of in zip(known, levels, strict=True)]
            latents = self.pictures.encode_alone(told)
            model = Held(self.s2m, self.scheduler, latents, (1.0,) * latents.shape[1])
        samplings[0].on_stage("encode")
        condition = first_frame_of(torch.cat([first_map, photo], dim=2), NUM_MAPS)
        with self.placement.at_work("s2m"):
            latents = self._denoise("s2m", model, condition, conditions, dropped, samplings)
        self.pictures.expect_finite(latents, "S2M")
        samplings[0].on_stage("denoise")
        video_BFHWC = self.pictures.decode_alone(latents, "S2M")
        assert video_BFHWC.shape[2:4] == size_hw
        samplings[0].on_stage("decode")
        clips = []
        for index, video_FHWC in enumerate(video_BFHWC):
            map_FHW = decode_colours(video_FHWC, levels[index], first_maps_HW[index])
            if known is not None:
                map_FHW[: len(known[index])] = known[index]
            clips.append(PanopticClip(map_FHW, num_entities[index]))
        samplings[0].on_stage("colours")
        return clips

    def _make_id_maps(
        self,
        photos_HWC: Sequence[NDArray[np.uint8]],
        known: Sequence[NDArray[np.uint8]],
        num_entities: Sequence[int],
        samplings: Sequence[Sampling],
    ) -> list[PanopticClip]:
        """S2M on ids; what is known are the maps that each clip begins with, the first at least."""
        assert self.s2m is not None
        start = IdStart.of(known, num_entities, int(self.s2m.config["out_channels"]))
        labels, dropped = self._words("s2m", samplings, NUM_MAPS)
        photo = self.pictures.encode_alone([photo_HWC[None] for photo_HWC in photos_HWC])
        samplings[0].on_stage("encode")
        with self.placement.at_work("s2m"), self._caching(self.s2m):
            shares = sample_maps(
                self.s2m,
                start,
                photo,
                labels,
                dropped,
                self.sampling_of("s2m", samplings[0]),
                [sampling.generator for sampling in samplings],
                on_step=samplings[0].on_step,
                on_time=self._at_time,
            )
        self.pictures.expect_finite(shares, "S2M")
        samplings[0].on_stage("denoise")
        clips = clips_of(shares, start)
        samplings[0].on_stage("ids")
        return clips

    @torch.inference_mode()
    def begin_videos(
        self,
        photos_HWC: Sequence[NDArray[np.uint8]],
        maps: Sequence[PanopticClip],
        fps: int,
        samplings: Sequence[Sampling],
        known: Sequence[NDArray[np.uint8]] | None = None,
    ) -> Callable[[], list[NDArray[np.uint8]]]:
        """M2V for several clips of one size and length at once; see `make_video` and `make_maps_batch`.

        Returns:
            A function that waits for the videos, in any thread. A GPU may decode them beside what it is told
            next, see `Placement.aside`; NaN in them is found by this function.
        """
        size_hw = check_size(photos_HWC[0].shape[:2])
        seconds = len(maps[0].map_FHW)
        num_frames = check_frames(seconds * fps)
        conditions, dropped = self._words("m2v", samplings, seconds)
        frames = latent_frames(self.vae, num_frames)
        given_BFHW = self._map_input(maps, size_hw, frames)
        photo = self.pictures.encode_alone([photo_HWC[None] for photo_HWC in photos_HWC])
        model: Denoiser = self.m2v
        if known is not None:
            latents = self.pictures.encode_videos(known)
            model = Held(self.m2v, self.scheduler, latents, (1.0,) * latents.shape[1])
        with self.placement.at_work("m2v"):
            tokens = conditions["map_tokens_BND"] = self.m2v.encode_maps(given_BFHW)
            if self.sampling_of("m2v", samplings[0]).guidance != 1:
                levels = given_BFHW.is_floating_point()  # numbers are never dropped in training
                dropped["map_tokens_BND"] = (
                    self.m2v.encode_maps(torch.zeros_like(given_BFHW)) if levels else tokens
                )
            samplings[0].on_stage("encode")
            condition = first_frame_of(photo, frames)
            latents = self._denoise("m2v", model, condition, conditions, dropped, samplings)
        self.pictures.expect_finite(latents, "M2V")
        samplings[0].on_stage("denoise")
        arrived = self.pictures.decode_videos(latents, num_frames, "M2V")
        samplings[0].on_stage("decode")
        return lambda: list(arrived())

    def _map_input(self, maps: Sequence[PanopticClip], size_hw: tuple[int, int], frames: int) -> Tensor:
        """Returns maps as M2V takes them: levels, or numbers under each frame of each latent frame."""
        fitted = [PanopticClip(fit_maps(clip.map_FHW, size_hw), clip.num_entities) for clip in maps]
        config = self.m2v.config
        if config["maps"] == "patches":
            count, together = int(config["num_numbers"]), int(config["maps_a_latent"])
            numbered = [number_by_appearance(clip, count).numbered(clip.map_FHW) for clip in fitted]
            order = ids.maps_of_latents(frames, len(maps[0].map_FHW), together)
            return torch.from_numpy(np.stack(numbered)[:, order]).to(self.placement.device)
        ids_BFHW = np.stack([clip.map_FHW for clip in fitted])
        levels_BFHW = normalise_levels(ids_BFHW, [clip.max_id for clip in maps])
        return torch.from_numpy(levels_BFHW).to(self.placement.device)

    @contextlib.contextmanager
    def _caching(self, transformer: CogVideoXStack) -> Iterator[None]:
        """Lets a transformer's cache, if it has one, begin a clip; what it holds of another goes first."""
        if transformer.is_cache_enabled:
            transformer._reset_stateful_cache()
        with transformer.cache_context("cond"):
            yield

    def _words(
        self, stage: str, samplings: Sequence[Sampling], seconds: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        vectors = self.text_vectors.get(stage)
        return words_of(samplings, seconds, getattr(self, stage), vectors, self.placement.device)

    def _denoise(
        self,
        stage: str,
        model: Denoiser,
        condition_BFCHW: Tensor,
        conditions: dict[str, Tensor],
        dropped: dict[str, Tensor],
        samplings: Sequence[Sampling],
    ) -> Tensor:
        """Samples latents."""
        transformer, how = getattr(self, stage), self.sampling_of(stage, samplings[0])
        with self._caching(transformer):
            return denoise(
                model,
                self.scheduler,
                condition_BFCHW,
                conditions=conditions,
                dropped=dropped,
                channels=self.vae.config["latent_channels"],
                steps=how.steps,
                guidance=how.guidance,
                generator=[sampling.generator for sampling in samplings],
                on_step=samplings[0].on_step,
                solver=how.solver,
                on_time=self._at_time,
            )

    def _at_time(self, time: int) -> None:
        self.current_timestep = time

    def sampling_of(self, stage: str, asked: Sampling | None = None) -> StageSampling:
        """Returns how "s2m" or "m2v" is sampled: as asked for, in all else as is its own.

        A few-step student's own way is the one it was made for, whatever the pipeline says of its stage.
        """
        distilled_steps = getattr(self, stage).config["distilled_steps"]
        form = getattr(self, stage).config["maps"]
        own = own_sampling(of_index(self.config["sampling"]), stage, distilled_steps, on_ids=form == "ids")
        return own if asked is None else own.settled(stage, asked)

    @property
    def placement(self) -> Placement:
        """Where the parts work; all on the pipeline's own device until `use_placement` says otherwise."""
        return self._placement or Placement(self.device)

    def use_placement(self, placement: Placement) -> None:
        """Takes over where parts work; see `placement` and `acceleration`."""
        self._placement = placement
        self._pictures = None

    @property
    def pictures(self) -> Pictures:
        """The way of pixels into the VAE and out of it, where the VAE is."""
        if self._pictures is None or self._pictures.vae is not self.vae:
            self._pictures = Pictures(self.vae, self.placement)
        self._pictures.placement = self.placement
        return self._pictures
