"""What the mini SAM 2 learns from phantom clips: prompts drawn from true maps, and losses of its masks.

Owns two tasks. Video: objects of a clip, prompted in its first frame by mask, point or box, are followed
through the others by memory. Image: points over a frame as the automatic labeller puts them (also where no
entity is), the refinement of a mask by itself, boxes, several points. Masks are judged at the frame's own
size, so what is learned is what comes out. Legend: B clips, F frames, N objects of a clip, R rows (prompts),
M masks of a prompt, S the network's square input, H W pixels, h w pixels of low-resolution masks.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from hierasurg_core.labeling.propagation import MemoryBank, encode_memory
from hierasurg_core.labeling.sam_network import (
    NO_OBJECT_LOGIT,
    SamNetwork,
    image_levels,
    normalised_input,
    resized_masks,
)

OBJECTS = 4
"""Objects of a clip that are followed."""
_IMAGE_FRAMES = 2
_POINTS = 12
_FEWEST_PIXELS = 10
_MASK_LOGIT_LIMIT = 32.0
_PRESENT_LOGIT = 10.0
_BCE, _DICE, _IOU, _PRESENCE = 2.0, 1.0, 1.0, 0.5
_EMPTY = 0.25  # weight of a mask where no entity is
_MAX_IDS = 20
_MOVING = 4.0  # how much more often an object is drawn that leaves its place altogether


@dataclasses.dataclass(frozen=True)
class TrainingClips:
    """B clips of one step.

    Attributes:
        video_BFCHW: Frames in [0, 1].
        map_BFHW: Panoptic ids, uint8: entities, background, black border.
        num_entities_B: How many ids are entities.
    """

    video_BFCHW: Tensor
    map_BFHW: Tensor
    num_entities_B: Tensor


@dataclasses.dataclass(frozen=True)
class Masks:
    """M = 4 masks of R prompts: the single one, then three for ambiguous prompts.

    Attributes:
        logits_RMhw: Low-resolution logits.
        iou_RM: Predicted overlap with the truth.
        tokens_RMC: What pointers are made of.
        present_R1: Logit of presence.
    """

    logits_RMhw: Tensor
    iou_RM: Tensor
    tokens_RMC: Tensor
    present_R1: Tensor


def sam_loss(
    network: SamNetwork, clips: TrainingClips, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one step, and its parts (detached) with the masks' true overlaps.

    Args:
        network: The network, in training mode.
        clips: The step's clips.
        generator: On the clips' device; draws objects, prompts and frames.
    """
    batch, frames = clips.video_BFCHW.shape[:2]
    fine, middle, coarse = image_levels(
        network, normalised_input(clips.video_BFCHW.flatten(0, 1), network.image_size)
    )
    levels = [level.unflatten(0, (batch, frames)) for level in (fine, middle, coarse)]
    video_loss, video_iou = _video_loss(network, levels, clips, generator)
    image_loss, point_iou = _image_loss(network, levels, clips, generator)
    loss = video_loss + image_loss
    return loss, {
        "video": video_loss.detach(),
        "image": image_loss.detach(),
        "video_iou": video_iou,
        "point_iou": point_iou,
    }


def decode(
    network: SamNetwork,
    embedding_RChw: Tensor,
    high_resolution: list[Tensor],
    points: tuple[Tensor, Tensor] | None = None,
    mask_R1hw: Tensor | None = None,
) -> Masks:
    """Runs prompt encoder and mask decoder, and returns all four masks, absent or not.

    Args:
        network: The network.
        embedding_RChw: Coarse features for each prompt.
        high_resolution: The two finer levels for each prompt.
        points: Coordinates (R, P, 2) in pixels of the square input and labels (R, P): 1 inside, 0 outside,
            2 and 3 the corners of a box, -1 none.
        mask_R1hw: A mask's logits.
    """
    rows, device = len(embedding_RChw), embedding_RChw.device
    if points is None:
        points = (
            torch.zeros(rows, 1, 2, device=device),
            -torch.ones(rows, 1, dtype=torch.int32, device=device),
        )
    sparse, dense = network.sam_prompt_encoder(points=points, boxes=None, masks=mask_R1hw)
    logits, ious, tokens, present = network.sam_mask_decoder.predict_masks(
        image_embeddings=embedding_RChw,
        image_pe=network.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=high_resolution,
    )
    return Masks(logits.float(), ious.float(), tokens, present.float())


def judge(logits_RMhw: Tensor, truth_RHW: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and true overlap of each mask, both (R, M); the overlap of two empty masks is 0.

    Cross entropy over all pixels, and the Dice loss, which counts a thin duct as much as the liver.
    """
    logits = F.interpolate(logits_RMhw, truth_RHW.shape[-2:], mode="bilinear", align_corners=False)
    truth = truth_RHW.unsqueeze(1).to(logits.dtype)
    # softplus(x) - x y is the cross entropy of a logit x with a truth y.
    entropy = (F.softplus(logits) - logits * truth).mean((-2, -1))
    probability = logits.sigmoid()
    both = (probability * truth).sum((-2, -1))
    dice = 1 - (2 * both + 1) / (probability.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
    with torch.no_grad():
        found, true = logits > 0, truth_RHW.unsqueeze(1)
        overlap = (found & true).sum((-2, -1)) / (found | true).sum((-2, -1)).clamp_min(1)
    return _BCE * entropy + _DICE * dice, overlap


def boxes_of(mask_RHW: Tensor) -> Tensor:
    """Boxes x0 y0 x1 y1 of masks as fractions of width and height, (R, 4); an empty mask's is all zeros."""
    height, width = mask_RHW.shape[-2:]
    sides = []
    for along, length in ((mask_RHW.any(-2), width), (mask_RHW.any(-1), height)):
        index = torch.arange(length, device=mask_RHW.device)
        low = torch.where(along, index, length).amin(-1)
        high = torch.where(along, index + 1, 0).amax(-1)
        sides.append((torch.minimum(low, high) / length, high / length))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _one_of(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator, device=generator.device))


def _chosen_objects(map_BFHW: Tensor, num_entities_B: Tensor, generator: torch.Generator) -> Tensor:
    """Ids of `OBJECTS` entities seen in each clip's first frame, (B, N); where there are fewer, some again.

    Drawn without repetition, those that move more often: an instrument, of which there is one among ten
    still structures, is what memory has most to learn from.
    """
    ids = torch.arange(_MAX_IDS, device=map_BFHW.device)
    first, last = map_BFHW[:, 0].flatten(1).long(), map_BFHW[:, -1].flatten(1).long()
    begins, ends = _pixels_of(first), _pixels_of(last)
    stays = _pixels_of(first, first == last)
    stillness = stays / (begins + ends - stays).clamp_min(1)
    weight_BK = 1 + _MOVING * (1 - stillness)
    seen_BK = (begins >= _FEWEST_PIXELS) & (ids < num_entities_B.unsqueeze(1))
    # The largest of u^(1/w) are a draw by weight w (Efraimidis and Spirakis 2006).
    score_BK = torch.where(seen_BK, _random(tuple(weight_BK.shape), generator) ** (1 / weight_BK), -1.0)
    best, chosen_BN = score_BK.topk(OBJECTS, dim=1)
    return torch.where(best >= 0, chosen_BN, chosen_BN[:, :1])


def _pixels_of(ids_BP: Tensor, counted_BP: Tensor | None = None) -> Tensor:
    """Pixels of each id, (B, `_MAX_IDS`), of all or of those that are counted."""
    ones = torch.ones_like(ids_BP, dtype=torch.float32) if counted_BP is None else counted_BP.float()
    return torch.zeros(len(ids_BP), _MAX_IDS, device=ids_BP.device).scatter_add_(1, ids_BP, ones)


def _points_in(
    weight_RHW: Tensor, count: int, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pixels drawn with these weights: flat indices (R, count), coordinates (R, count, 2)."""
    height, width = weight_RHW.shape[-2:]
    index = torch.multinomial(weight_RHW.flatten(1), count, replacement=True, generator=generator)
    inside = _random((*index.shape, 2), generator)
    x = (index % width + inside[..., 0]) / width
    y = (torch.div(index, width, rounding_mode="floor") + inside[..., 1]) / height
    return index, torch.stack([x, y], dim=-1) * size


def _noisy_boxes(mask_RHW: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Boxes as the two points that SAM wants, off by up to a tenth of their sides."""
    box = boxes_of(mask_RHW)
    sides = (box[:, 2:] - box[:, :2]).repeat(1, 2)
    box = (box + 0.2 * (_random((len(box), 4), generator) - 0.5) * sides).clamp(0, 1)
    labels = torch.tensor([2, 3], dtype=torch.int32, device=box.device).expand(len(box), 2)
    return box.view(-1, 2, 2) * size, labels


def _few_points(mask_RHW: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two points inside and one outside."""
    inside = _points_in(mask_RHW.float() + 1e-7, 2, size, generator)[1]
    outside = _points_in((~mask_RHW).float() + 1e-7, 1, size, generator)[1]
    labels = torch.tensor([1, 1, 0], dtype=torch.int32, device=mask_RHW.device).expand(len(mask_RHW), 3)
    return torch.cat([inside, outside], dim=1), labels


def _video_loss(
    network: SamNetwork, levels: list[Tensor], clips: TrainingClips, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    batch, frames = clips.map_BFHW.shape[:2]
    rows, size = batch * OBJECTS, network.image_size
    objects_BN = _chosen_objects(clips.map_BFHW, clips.num_entities_B, generator)
    truth = clips.map_BFHW.unsqueeze(2) == objects_BN.view(batch, 1, OBJECTS, 1, 1)
    truth_FRHW = truth.transpose(0, 1).flatten(1, 2)
    present_FR = truth_FRHW.flatten(2).any(-1)
    losses: list[Tensor] = []
    overlaps: list[Tensor] = []
    bank = MemoryBank(network, rows, max(frames, network.max_obj_ptrs_in_encoder))
    for frame in range(frames):
        fine, middle, coarse = (level[:, frame].repeat_interleave(OBJECTS, 0) for level in levels)
        here = present_FR[frame].unsqueeze(1)
        if frame == 0:
            logits, pointer, prompt_loss = _prompted(
                network, coarse, [fine, middle], truth_FRHW[0], size, generator
            )
            losses += prompt_loss
            memory = _remembered(network, coarse, logits, here, prompted=True)
            bank.start(None, memory, pointer)
            continue
        looked = bank.look(None, [frame], coarse)
        masks = decode(network, looked, [fine, middle])
        loss, overlap = judge(masks.logits_RMhw[:, :1], truth_FRHW[frame])
        losses.append(_combined(loss, masks.iou_RM[:, :1], overlap, masks.present_R1, here))
        overlaps.append((overlap * here).sum() / here.sum().clamp_min(1))
        logits = torch.where(here[..., None, None], masks.logits_RMhw[:, :1], NO_OBJECT_LOGIT)
        pointer = _pointer(network, masks.tokens_RMC[:, 0], here)
        bank.add(None, _remembered(network, coarse, logits, here, prompted=False), pointer)
    return torch.stack(losses).mean(), torch.stack(overlaps).mean()


def _combined(
    loss_RM: Tensor, iou_RM: Tensor, overlap_RM: Tensor, present_R1: Tensor, here_R1: Tensor
) -> Tensor:
    """Masks and overlaps where the object is there, presence everywhere."""
    share = here_R1.float()
    masks = ((loss_RM + _IOU * (iou_RM - overlap_RM).abs()).mean(1, keepdim=True) * share).sum()
    presence = F.binary_cross_entropy_with_logits(present_R1, share)
    return masks / share.sum().clamp_min(1) + _PRESENCE * presence


def _prompted(
    network: SamNetwork,
    coarse: Tensor,
    high: list[Tensor],
    truth_RHW: Tensor,
    size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The first frame's logits and pointers: of ten steps seven give masks, two points, one boxes."""
    kind = _one_of(10, generator)
    here = truth_RHW.flatten(1).any(1, keepdim=True)
    if kind < 7:
        mask = resized_masks(truth_RHW, size)
        masks = decode(network, coarse, high, mask_R1hw=network.mask_downsample(mask))
        logits = F.interpolate(
            mask * 20 - 10, (size // 4, size // 4), mode="bilinear", align_corners=False, antialias=True
        )
        return logits, _pointer(network, masks.tokens_RMC[:, 0], here), []
    embedding = coarse + network.no_mem_embed.view(1, -1, 1, 1)
    if kind < 9:
        _, xy = _points_in(truth_RHW.float() + 1e-7, 1, size, generator)
        points = (xy, torch.ones(len(xy), 1, dtype=torch.int32, device=xy.device))
        masks = decode(network, embedding, high, points)
        loss, overlap = judge(masks.logits_RMhw, truth_RHW)
        best = masks.iou_RM[:, 1:].argmax(1) + 1
        row = torch.arange(len(best), device=best.device)
        combined = _combined(loss[:, 1:].amin(1, keepdim=True), masks.iou_RM, overlap, masks.present_R1, here)
        return (
            masks.logits_RMhw[row, best].unsqueeze(1),
            _pointer(network, masks.tokens_RMC[row, best], here),
            [combined],
        )
    masks = decode(network, embedding, high, _noisy_boxes(truth_RHW, size, generator))
    loss, overlap = judge(masks.logits_RMhw[:, :1], truth_RHW)
    combined = _combined(loss, masks.iou_RM[:, :1], overlap, masks.present_R1, here)
    return masks.logits_RMhw[:, :1], _pointer(network, masks.tokens_RMC[:, 0], here), [combined]


def _pointer(network: SamNetwork, token_RC: Tensor, here_R1: Tensor) -> Tensor:
    """Pointers as the network makes them, with the truth for whether the object is there."""
    there = here_R1.to(token_RC.dtype)
    return there * network.obj_ptr_proj(token_RC) + (1 - there) * network.no_obj_ptr


def _remembered(
    network: SamNetwork, coarse: Tensor, logits_R1hw: Tensor, here_R1: Tensor, *, prompted: bool
) -> Tensor:
    size = (network.image_size, network.image_size)
    large = F.interpolate(logits_R1hw, size, mode="bilinear", align_corners=False)
    present = torch.where(here_R1, _PRESENT_LOGIT, -_PRESENT_LOGIT)
    return encode_memory(network, coarse, large, present, prompted=prompted)


def _image_loss(
    network: SamNetwork, levels: list[Tensor], clips: TrainingClips, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    batch, frames = clips.map_BFHW.shape[:2]
    size, device = network.image_size, clips.map_BFHW.device
    picked = torch.randint(frames, (batch, _IMAGE_FRAMES), generator=generator, device=device)
    clip = torch.arange(batch, device=device).unsqueeze(1)
    fine, middle, coarse = (level[clip, picked].flatten(0, 1) for level in levels)
    map_GHW = clips.map_BFHW[clip, picked].flatten(0, 1).long()
    entities_G1 = clips.num_entities_B.repeat_interleave(_IMAGE_FRAMES).unsqueeze(1)
    coarse = coarse + network.no_mem_embed.view(1, -1, 1, 1)

    index_GP, xy = _points_in(_point_weights(map_GHW, entities_G1), _POINTS, size, generator)
    id_GP = map_GHW.flatten(1).gather(1, index_GP)
    inside = (id_GP < entities_G1).view(-1, 1)
    truth = (map_GHW.unsqueeze(1) == id_GP[..., None, None]).flatten(0, 1) & inside[..., None]
    points = (xy.view(-1, 1, 2), torch.ones(len(truth), 1, dtype=torch.int32, device=device))
    large = coarse.repeat_interleave(_POINTS, 0)
    high = [fine.repeat_interleave(_POINTS, 0), middle.repeat_interleave(_POINTS, 0)]
    masks = decode(network, large, high, points)
    loss, overlap = judge(masks.logits_RMhw, truth)
    loss = torch.where(
        inside, loss[:, :1] + loss[:, 1:].amin(1, keepdim=True), 2 * _EMPTY * loss.mean(1, keepdim=True)
    )
    total = _with_overlaps(loss, masks, overlap, inside)
    point_iou = (overlap[:, 1:].amax(1, keepdim=True) * inside).sum() / inside.sum().clamp_min(1)

    row = torch.arange(len(truth), device=device)
    which = torch.randint(4, (len(truth),), generator=generator, device=device)
    before = masks.logits_RMhw.detach()[row, which].unsqueeze(1).clamp(-_MASK_LOGIT_LIMIT, _MASK_LOGIT_LIMIT)
    total = total + _single(network, large, high, points, before, truth, inside)

    # The last prompts are objects: two of each frame, by box or by a few points.
    few = 2
    keep = torch.where(inside.view(-1, _POINTS), _random((len(map_GHW), _POINTS), generator), -1.0)
    chosen = (
        keep.topk(few, dim=1).indices + torch.arange(len(map_GHW), device=device)[:, None] * _POINTS
    ).flatten()
    drawn = _noisy_boxes if _one_of(2, generator) else _few_points
    some, there = truth[chosen], inside[chosen]
    total = total + _single(
        network,
        large[chosen],
        [level[chosen] for level in high],
        drawn(some, size, generator),
        None,
        some,
        there,
    )
    return total / 3, point_iou


def _point_weights(map_GHW: Tensor, entities_G1: Tensor) -> Tensor:
    """Half of the points lie anywhere, the other half on entities, each as often as a larger one."""
    flat = map_GHW.flatten(1)
    count = _pixels_of(flat)
    each = (1 / count.clamp_min(1)).gather(1, flat) / entities_G1
    return torch.where(flat < entities_G1, each, 0.0).add(1 / flat.shape[1]).view(map_GHW.shape)


def _single(
    network: SamNetwork,
    large: Tensor,
    high: list[Tensor],
    points: tuple[Tensor, Tensor],
    before: Tensor | None,
    truth: Tensor,
    inside: Tensor,
) -> Tensor:
    """Loss of the one mask of unambiguous prompts."""
    masks = decode(network, large, high, points, before)
    masks = dataclasses.replace(masks, logits_RMhw=masks.logits_RMhw[:, :1], iou_RM=masks.iou_RM[:, :1])
    loss, overlap = judge(masks.logits_RMhw, truth)
    return _with_overlaps(torch.where(inside, loss, _EMPTY * loss), masks, overlap, inside)


def _with_overlaps(loss_R1: Tensor, masks: Masks, overlap_RM: Tensor, inside_R1: Tensor) -> Tensor:
    """Adds overlap (0 where no entity is) and presence to the loss of masks."""
    wrong = (masks.iou_RM - overlap_RM * inside_R1).abs().mean()
    presence = F.binary_cross_entropy_with_logits(masks.present_R1, inside_R1.float())
    return loss_R1.mean() + _IOU * wrong + _PRESENCE * presence
