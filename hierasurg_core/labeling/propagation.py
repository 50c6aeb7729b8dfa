"""Masks carried from frame to frame: all objects as one batch through SAM 2's memory.

Owns the bank of memories and the walk over the frames. What a frame's objects remember is what sam2's own
one-object-at-a-time video predictor would give each of them: the prompted frame, the last frames before this
one, and pointers. Objects are together in memory encoder and mask decoder; in memory attention those of equal
age are, because only they have equally many memories and attention then needs no mask. On a GPU counts are
padded to buckets, so that shapes repeat. Memories that no later frame looks at are dropped, so the bank has
the same size at any length of video.

Letters: see `sam_network`; P tokens of pointers. Ages count frames since an object's prompt.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hierasurg_core.errors import UsageError
from hierasurg_core.labeling.sam_network import NO_OBJECT_LOGIT, FrameFeatures, SamNetwork, resized_masks

_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_BUCKET_STEP = 16
_SINE_BASE = 10000


@dataclasses.dataclass(frozen=True)
class MaskPrompt:
    """An object's true mask in one frame.

    Attributes:
        frame: Index into the features.
        object: The caller's number of it; each object has one prompt.
        mask_HW: Boolean, of the frame's size.
    """

    frame: int
    object: int
    mask_HW: Tensor


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What the mask decoder gives for N objects in one frame.

    Attributes:
        logits_N1hw: Low-resolution mask logits, stride 4 of the square input.
        pointer_NC: What the object looks like, in one vector.
        present_N1: Logit of whether it is there at all.
    """

    logits_N1hw: Tensor
    pointer_NC: Tensor
    present_N1: Tensor

    def rows(self, index: slice | Tensor) -> Decoded:
        """Some of the objects."""
        return Decoded(self.logits_N1hw[index], self.pointer_NC[index], self.present_N1[index])


def bucket(count: int) -> int:
    """The smallest batch of the fixed ladder that holds `count` objects."""
    for size in _BUCKETS:
        if count <= size:
            return size
    return -(-count // _BUCKET_STEP) * _BUCKET_STEP


def padding(count: int, device: torch.device) -> int:
    """How many objects are added so that shapes repeat; none on a CPU, where a new shape costs nothing."""
    return 0 if device.type == "cpu" else bucket(count) - count


def encode_memory(
    network: SamNetwork, coarse_NCHW: Tensor, logits_N1SS: Tensor, present_N1: Tensor, *, prompted: bool
) -> Tensor:
    """Makes a frame and its masks a memory, (N, mem_dim, h, w).

    Args:
        network: The network.
        coarse_NCHW: The frame's coarse features; one row serves all objects.
        logits_N1SS: Masks at the size of the square input.
        present_N1: Logits of presence; an absent object's memory says so.
        prompted: Whether the masks are the user's (then they are made binary where the network wants that).
    """
    if prompted and network.binarize_mask_from_pts_for_mem_enc:
        masks = (logits_N1SS > 0).to(logits_N1SS.dtype)
    else:
        masks = torch.sigmoid(logits_N1SS)
    masks = masks * network.sigmoid_scale_for_mem_enc + network.sigmoid_bias_for_mem_enc
    encoded = network.memory_encoder(coarse_NCHW, masks, skip_mask_sigmoid=True)["vision_features"]
    if network.no_obj_embed_spatial is not None:
        absent = (present_N1 <= 0).to(encoded.dtype)[..., None, None]
        encoded = encoded + absent * network.no_obj_embed_spatial[..., None, None].to(encoded.dtype)
    return encoded


def attend(
    network: SamNetwork,
    coarse_NCHW: Tensor,
    memories: Sequence[tuple[int, Tensor]],
    pointers: Sequence[tuple[Tensor | int, Tensor]],
    pointer_span: int,
) -> Tensor:
    """Looks at a frame with what is remembered of N objects, (N, C, h, w).

    Args:
        network: The network.
        coarse_NCHW: The frame's coarse features for each object; one row serves all of them.
        memories: Pairs of (position in time, memory (N, mem_dim, h, w)): position 0 is the prompted frame,
            `num_maskmem` - 1 the frame before this one.
        pointers: Pairs of (age, one number or one for each object, pointer (N, C)).
        pointer_span: The age at which the code of ages reaches one.
    """
    channels, height, width = coarse_NCHW.shape[1:]
    count = len(memories[0][1])
    tokens = [feats.flatten(2).transpose(1, 2) for _, feats in memories]
    spatial = network.memory_encoder.position_encoding(memories[0][1][:1]).to(tokens[0].dtype)
    spatial = spatial.flatten(2).transpose(1, 2)
    # Codes are the same for all objects, unless their ages differ; one row of them serves all.
    codes = [
        spatial + network.maskmem_tpos_enc[network.num_maskmem - position - 1].to(spatial.dtype)
        for position, _ in memories
    ]
    pointer_tokens = 0
    if network.use_obj_ptrs_in_encoder and pointers:
        split = channels // network.mem_dim
        vectors_NPC = torch.stack([pointer for _, pointer in pointers], dim=1)
        if network.add_tpos_enc_to_obj_ptrs:
            ages_PN = _ages([age for age, _ in pointers], count, coarse_NCHW.device)
            wide = channels if network.proj_tpos_enc_in_obj_ptrs else network.mem_dim
            age_codes = network.obj_ptr_tpos_proj(_sine_code(ages_PN / pointer_span, wide)).transpose(0, 1)
        else:
            age_codes = vectors_NPC.new_zeros(1, len(pointers), network.mem_dim)
        vectors = vectors_NPC.reshape(count, -1, network.mem_dim)
        tokens.append(vectors.to(tokens[0].dtype))
        age_codes = age_codes.to(spatial.dtype).repeat_interleave(split, dim=1)
        if len(age_codes) > 1:
            codes = [code.expand(count, -1, -1) for code in codes]
        codes.append(age_codes)
        pointer_tokens = vectors.shape[1]
    position_code = network.image_encoder.neck.position_encoding(coarse_NCHW[:1]).to(coarse_NCHW.dtype)
    looked = _attended(
        network.memory_attention,
        coarse_NCHW.flatten(2).transpose(1, 2),
        position_code.flatten(2).transpose(1, 2),
        torch.cat(tokens, dim=1),
        torch.cat(codes, dim=1),
        pointer_tokens,
    )
    return looked.transpose(1, 2).reshape(count, channels, height, width)


def _attended(
    attention: Any, pixel_NKC: Tensor, position_1KC: Tensor, memory: Tensor, code: Tensor, pointer_tokens: int
) -> Tensor:
    """Memory attention; until memories come in, one row of pixels is enough for objects of one frame."""
    if attention.pos_enc_at_input:
        pixel_NKC = pixel_NKC + 0.1 * position_1KC
    for layer in attention.layers:
        pixel_NKC = layer._forward_sa(pixel_NKC, position_1KC)
        pixel_NKC = layer._forward_ca(
            pixel_NKC.expand(len(memory), -1, -1), memory, position_1KC, code, pointer_tokens
        )
        hidden = layer.linear1(layer.norm3(pixel_NKC))
        pixel_NKC = pixel_NKC + layer.dropout3(layer.linear2(layer.dropout(layer.activation(hidden))))
    return attention.norm(pixel_NKC)


def _ages(ages: Sequence[Tensor | int], count: int, device: torch.device) -> Tensor:
    """Ages of pointers, (P, 1) where each is one number for all objects, else (P, N)."""
    numbers = [age for age in ages if isinstance(age, int)]
    if len(numbers) == len(ages):
        return torch.tensor(numbers, device=device).unsqueeze(1)
    return torch.stack([torch.as_tensor(age, device=device).expand(count) for age in ages])


def _sine_code(position_PN: Tensor, width: int) -> Tensor:
    """Sines then cosines of a position, (P, N, width)."""
    half = width // 2
    exponent = 2 * (torch.arange(half, device=position_PN.device) // 2).float() / half
    angle = position_PN.float().unsqueeze(-1) / _SINE_BASE**exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MemoryBank:
    """What N objects remember; constant in size, whatever the length of the video.

    Args:
        network: The network.
        count: N.
        num_frames: Frames of the whole video: in a video shorter than the reach of pointers, SAM 2 counts
            their age in fractions of its length.
    """

    def __init__(self, network: SamNetwork, count: int, num_frames: int) -> None:
        if network.memory_temporal_stride_for_eval != 1:
            raise UsageError("this SAM 2 asks for every n-th frame's memory; only stride 1 is supported")
        self._network = network
        self._count = count
        self._reach = min(num_frames, network.max_obj_ptrs_in_encoder)
        self._first: Tensor | None = None
        self._first_pointer: Tensor | None = None
        # Newest first: the memories and pointers of the frames before the present one.
        self._recent: deque[Tensor] = deque(maxlen=max(1, network.num_maskmem - 1))
        self._recent_pointers: deque[Tensor] = deque(maxlen=max(1, self._reach - 1))

    @property
    def oldest_difference(self) -> int:
        """The age from which on all objects have equally many memories and pointers."""
        return max(self._network.num_maskmem, self._reach)

    def start(self, rows: Tensor | None, memory: Tensor, pointer_NC: Tensor) -> None:
        """Notes the prompted frame of some objects (rows; None: all)."""
        if rows is None:
            self._first, self._first_pointer = memory, pointer_NC
            return
        if self._first is None or self._first_pointer is None:
            self._first = memory.new_zeros(self._count, *memory.shape[1:])
            self._first_pointer = pointer_NC.new_zeros(self._count, pointer_NC.shape[1])
        self._first[rows] = memory
        self._first_pointer[rows] = pointer_NC.to(self._first_pointer.dtype)

    def add(self, rows: Tensor | None, memory: Tensor, pointer_NC: Tensor) -> None:
        """Notes a frame in which some objects (rows; None: all) were tracked, and forgets the oldest."""
        if rows is not None:
            whole = memory.new_zeros(self._count, *memory.shape[1:])
            whole[rows] = memory
            pointers = pointer_NC.new_zeros(self._count, pointer_NC.shape[1])
            pointers[rows] = pointer_NC
            memory, pointer_NC = whole, pointers
        self._recent.appendleft(memory)
        self._recent_pointers.appendleft(pointer_NC)

    def look(self, rows: Tensor | None, ages: Sequence[int], coarse_NCHW: Tensor) -> Tensor:
        """The present frame as objects (rows; None: all) see it whose memories are equally many.

        Args:
            rows: Which objects.
            ages: Theirs: all equal, or all of at least `oldest_difference`.
            coarse_NCHW: The frame's coarse features for each of them; one row serves all.
        """
        youngest = min(ages)
        assert self._first is not None
        assert self._first_pointer is not None

        def of(tensor: Tensor) -> Tensor:
            return tensor if rows is None else tensor[rows]

        frames = min(youngest - 1, self._network.num_maskmem - 1, len(self._recent))
        memories = [(0, of(self._first))]
        for back in range(frames, 0, -1):
            memories.append((self._network.num_maskmem - back, of(self._recent[back - 1])))
        age = torch.tensor(ages, device=coarse_NCHW.device) if max(ages) > youngest else youngest
        pointers: list[tuple[Tensor | int, Tensor]] = [(age, of(self._first_pointer))]
        for back in range(1, min(youngest - 1, self._reach - 1, len(self._recent_pointers)) + 1):
            pointers.append((back, of(self._recent_pointers[back - 1])))
        return attend(self._network, coarse_NCHW, memories, pointers, max(1, self._reach - 1))


def start_objects(network: SamNetwork, features: FrameFeatures, mask_NHW: Tensor) -> tuple[Decoded, Tensor]:
    """Takes true masks in one frame as they are; what is decoded, and the memories of it."""
    fine, middle, coarse = features.levels
    count = len(mask_NHW)
    _, _, _, low_best, _, pointer, present = network._use_mask_as_output(
        coarse.expand(count, -1, -1, -1),
        [fine, middle],
        resized_masks(mask_NHW.to(coarse.device), network.image_size),
    )
    # The predictor of sam2 remembers the low-resolution mask, enlarged again; so does this.
    size = (network.image_size, network.image_size)
    large = F.interpolate(low_best.float(), size, mode="bilinear", align_corners=False)
    memory = encode_memory(network, coarse, large, present, prompted=True)
    return Decoded(low_best, pointer, present), memory


def track_objects(
    network: SamNetwork, features: FrameFeatures, looked_NCHW: Tensor
) -> tuple[Decoded, Tensor]:
    """Decodes one frame as N objects see it; what is decoded, and the memories of it."""
    fine, middle, coarse = features.levels
    _, _, _, low_best, high_best, pointer, present = network._forward_sam_heads(
        backbone_features=looked_NCHW,
        high_res_features=[fine, middle],
        multimask_output=network._use_multimask(False, None),
    )
    memory = encode_memory(network, coarse, high_best, present, prompted=False)
    return Decoded(low_best, pointer, present), memory


def frame_logits(logits_N1hw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Low-resolution logits at the frame's own size, (N, H, W) float."""
    return F.interpolate(logits_N1hw.float(), size_hw, mode="bilinear", align_corners=False).squeeze(1)


def propagate(
    network: SamNetwork,
    features: FrameFeatures,
    prompts: Sequence[MaskPrompt],
    *,
    device: torch.device,
    reverse: bool = False,
    max_frames: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Carries masks through a video, all objects in one batch.

    Args:
        network: The network, on `device`.
        features: Of the video's frames; they may lie in host memory.
        prompts: One of each object.
        device: Where to compute.
        reverse: From the last prompt to frame 0 instead of from the first prompt to the end.
        max_frames: At most so many frames, the first prompt's own included.

    Yields:
        Frame index and logits (N, H, W), float, at the frame's size; N and its order are those of the
        prompts. Before an object's prompt (after it, in reverse) its logits are -1024.

    Raises:
        UsageError: A prompt outside the video, of another size, or a second one of the same object.
    """
    if not prompts:
        return
    _check(prompts, features)
    count = len(prompts)
    order = _frame_order([prompt.frame for prompt in prompts], len(features), reverse, max_frames)
    bank = MemoryBank(network, count, len(features))
    for frame in order:
        here = features[frame].to(device)
        ages = [(prompt.frame - frame) if reverse else (frame - prompt.frame) for prompt in prompts]
        logits: Tensor | None = None
        tracked = [row for row, age in enumerate(ages) if age > 0]
        if tracked:
            decoded, memory = _tracked(network, bank, here, ages, tracked, device)
            rows = None if len(tracked) == count else torch.tensor(tracked, device=device)
            bank.add(rows, memory, decoded.pointer_NC)
            logits = _filled(logits, decoded.logits_N1hw, rows, count)
        begun = [row for row, age in enumerate(ages) if age == 0]
        if begun:
            masks = torch.stack([prompts[row].mask_HW.to(device) for row in begun])
            decoded, memory = start_objects(network, here, masks)
            rows = None if len(begun) == count else torch.tensor(begun, device=device)
            bank.start(rows, memory, decoded.pointer_NC)
            logits = _filled(logits, decoded.logits_N1hw, rows, count)
        assert logits is not None  # the first frame of the order is a prompt's
        yield frame, frame_logits(logits, features.size_hw)


def _tracked(
    network: SamNetwork,
    bank: MemoryBank,
    here: FrameFeatures,
    ages: list[int],
    tracked: list[int],
    device: torch.device,
) -> tuple[Decoded, Tensor]:
    """One frame of the objects that have begun before it; rows in the order of `tracked`."""
    coarse = here.levels[-1]
    groups: dict[int, list[int]] = {}
    for row in tracked:
        groups.setdefault(min(ages[row], bank.oldest_difference), []).append(row)
    looked: list[Tensor] = []
    for members in groups.values():
        padded = members + members[:1] * padding(len(members), device)
        rows = None if padded == list(range(len(ages))) else torch.tensor(padded, device=device)
        seen = bank.look(rows, [ages[row] for row in padded], coarse)
        looked.append(seen[: len(members)])
    sequence = [row for members in groups.values() for row in members]
    batch = torch.cat(looked) if len(looked) > 1 else looked[0]
    missing = padding(len(tracked), device)
    if missing:
        batch = torch.cat([batch, batch[:1].expand(missing, -1, -1, -1)])
    decoded, memory = track_objects(network, here, batch)
    if missing:
        decoded, memory = decoded.rows(slice(0, len(tracked))), memory[: len(tracked)]
    if sequence != tracked:
        back = torch.tensor([sequence.index(row) for row in tracked], device=device)
        decoded, memory = decoded.rows(back), memory[back]
    return decoded, memory


def _filled(logits: Tensor | None, part_N1hw: Tensor, rows: Tensor | None, count: int) -> Tensor:
    if rows is None:
        return part_N1hw
    if logits is None:
        logits = part_N1hw.new_full((count, *part_N1hw.shape[1:]), NO_OBJECT_LOGIT)
    logits[rows] = part_N1hw
    return logits


def _frame_order(prompted: list[int], num_frames: int, reverse: bool, max_frames: int | None) -> range:
    limit = num_frames if max_frames is None else max_frames
    if reverse:
        first = max(prompted)
        return range(first, max(-1, first - limit), -1)
    first = min(prompted)
    return range(first, min(num_frames, first + limit))


def _check(prompts: Sequence[MaskPrompt], features: FrameFeatures) -> None:
    seen: set[int] = set()
    for prompt in prompts:
        if prompt.object in seen:
            raise UsageError(f"object {prompt.object} has two prompts: give each object one")
        seen.add(prompt.object)
        if not 0 <= prompt.frame < len(features):
            raise UsageError(
                f"object {prompt.object} is prompted in frame {prompt.frame}, but there are {len(features)}"
            )
        if tuple(prompt.mask_HW.shape) != features.size_hw:
            raise UsageError(
                f"the mask of object {prompt.object} is {tuple(prompt.mask_HW.shape)}, "
                f"the frames are {features.size_hw}"
            )
        if prompt.mask_HW.dtype != torch.bool:
            raise UsageError(f"the mask of object {prompt.object} is {prompt.mask_HW.dtype}, not boolean")
