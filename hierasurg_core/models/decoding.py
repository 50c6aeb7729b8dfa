"""The decoder of the CogVideoX VAE, run in fewer passes over memory than diffusers' own modules do.

Owns the order of work only; parameters, chunks of frames and results are those of `AutoencoderKLCogVideoX`.
What is done otherwise, and why it may be:

- Each norm steers by two 1x1x1 convolutions of the latents, repeated to the frame's size. Such a convolution
  sees every place alone, so it is done before the repetition: at 1/64 of the places or fewer.
- Norm, steering, SiLU and the frames carried over from the chunk before are one function, which torch can
  compile into two passes; convolutions of a GPU leave their bias to the next such function.
- Where parameters lie channels-last, all values do.

Refuses: tiles (the VAE's own `tiled_decode` makes them) and encoding.

Letters: B batch, C channels, F frames, H W rows and columns, Z latent frames, h w latent rows and columns.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierasurg_core.models.backbone import AutoencoderKLCogVideoX
from hierasurg_core.models.convolving import by_onednn, is_for_onednn

SAFE_CONV_BYTES = 2 * 1024**3  # above, diffusers splits a convolution in time; so is done here
_WORTH_COMPILING = 1 << 26  # values; a smaller tensor's passes take less than a tenth of a millisecond

_Carried = dict[str, Tensor]  # the last frames that a convolution saw, by its place in the decoder


def decode_latents(vae: AutoencoderKLCogVideoX, latents_BCZhw: Tensor, *, compiled: bool = False) -> Tensor:
    """Returns the video (B, 3, F, 8 h, 8 w) of unscaled latents, as `vae.decode` does without tiles.

    Args:
        vae: Of any width; its parameters may lie channels-last (see `lay_channels_last`).
        latents_BCZhw: In the VAE's number type.
        compiled: Run the large norms through torch.compile.
    """
    frames, step = latents_BCZhw.shape[2], vae.num_latent_frames_batch_size
    first = step + frames % step if frames > step else frames
    bounds = [0, *range(first, frames + 1, step)]
    by_channel = is_channels_last(vae)
    carried: _Carried = {}
    parts = []
    for start, end in itertools.pairwise(bounds):
        chunk = latents_BCZhw[:, :, start:end]
        if vae.post_quant_conv is not None:
            chunk = vae.post_quant_conv(chunk)
        if by_channel:
            chunk = chunk.contiguous(memory_format=torch.channels_last_3d)
        part, carried = _decode_chunk(vae.decoder, chunk, carried, by_channel, compiled)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


@torch.no_grad()
def lay_channels_last(module: nn.Module) -> None:
    """Lays the weights of all convolutions channels-last, the order in which a GPU multiplies them."""
    for parameter in module.parameters():
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


def is_channels_last(vae: AutoencoderKLCogVideoX) -> bool:
    """Tells whether `lay_channels_last` was applied."""
    weight = vae.decoder.conv_in.conv.weight
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def _decode_chunk(
    decoder: Any, latents: Tensor, before: _Carried, by_channel: bool, compiled: bool
) -> tuple[Tensor, _Carried]:
    after: _Carried = {}

    def convolve(name: str, causal: Any, padded: Tensor) -> tuple[Tensor, Tensor | None]:
        if causal.time_kernel_size > 1:
            after[name] = padded[:, :, 1 - causal.time_kernel_size :].clone()
        return _convolve(causal.conv, padded)

    def steer(name: str, values: Tensor, bias: Tensor | None, norm: Any, kernel: int) -> Tensor:
        """Norm, steering by the latents, SiLU, and the frames before; for a kernel of so many frames."""
        steering = norm.conv_y.conv(latents), norm.conv_b.conv(latents)
        function = _steering(by_channel, compiled and values.numel() >= _WORTH_COMPILING)
        group = norm.norm_layer
        return function(
            values,
            bias,
            *steering,
            group.weight,
            group.bias,
            group.num_groups,
            group.eps,
            before.get(name),
            kernel,
        )

    def residual(name: str, block: Any, values: Tensor) -> Tensor:
        padded = steer(f"{name}.1", values, None, block.norm1, block.conv1.time_kernel_size)
        inner, bias = convolve(f"{name}.1", block.conv1, padded)
        padded = steer(f"{name}.2", inner, bias, block.norm2, block.conv2.time_kernel_size)
        inner, bias = convolve(f"{name}.2", block.conv2, padded)
        if block.in_channels != block.out_channels:
            values = block.conv_shortcut(values)
        return _joining(compiled and values.numel() >= _WORTH_COMPILING)(inner, bias, values)

    kernel = decoder.conv_in.time_kernel_size
    values, bias = convolve("in", decoder.conv_in, _with_frames_before(latents, before.get("in"), kernel))
    values = values if bias is None else values + bias.view(1, -1, 1, 1, 1)
    for place, block in enumerate(decoder.mid_block.resnets):
        values = residual(f"mid.{place}", block, values)
    for level, up in enumerate(decoder.up_blocks):
        for place, block in enumerate(up.resnets):
            values = residual(f"{level}.{place}", block, values)
        for upsampler in up.upsamplers or ():
            values = _upsample(upsampler, values)
    padded = steer("out", values, None, decoder.norm_out, decoder.conv_out.time_kernel_size)
    values, bias = convolve("out", decoder.conv_out, padded)
    return (values if bias is None else values + bias.view(1, -1, 1, 1, 1)), after


def _convolve(conv: nn.Conv3d, padded: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns the convolution and the bias that is still to be added to it."""
    if padded.numel() * 2 > SAFE_CONV_BYTES:
        return conv(padded), None
    if is_for_onednn(conv, padded):
        return by_onednn(conv, padded), None
    padding = cast(tuple[int, int, int], conv.padding)
    return F.conv3d(padded, conv.weight, None, padding=padding), conv.bias


def _with_frames_before(values: Tensor, before: Tensor | None, kernel: int) -> Tensor:
    """Puts in front the frames that a causal convolution looks back at; at the start the first, repeated."""
    if kernel == 1:
        return values
    frames = [values[:, :, :1]] * (kernel - 1) if before is None else [before]
    return torch.cat([*frames, values], dim=2)


def _repeat(small_BCZhw: Tensor, size_FHW: tuple[int, ...]) -> Tensor:
    """Repeats latents to a frame's size; the first latent stands for the first frame alone."""
    if size_FHW[0] > 1 and size_FHW[0] % 2 == 1:
        first = F.interpolate(small_BCZhw[:, :, :1], size=(1, *size_FHW[1:]))
        rest = F.interpolate(small_BCZhw[:, :, 1:], size=(size_FHW[0] - 1, *size_FHW[1:]))
        return torch.cat([first, rest], dim=2)
    return F.interpolate(small_BCZhw, size=size_FHW)


def _steer(
    values: Tensor,
    bias: Tensor | None,
    scale_BCZhw: Tensor,
    shift_BCZhw: Tensor,
    weight: Tensor,
    offset: Tensor,
    groups: int,
    eps: float,
    before: Tensor | None,
    kernel: int,
) -> Tensor:
    if bias is not None:
        values = values + bias.view(1, -1, 1, 1, 1)
    frames, rows, columns = values.shape[2:]
    few = scale_BCZhw.shape[3]  # latent rows: each stands for equally many of the values, and is lent to them
    scale_BCFhW = _repeat(scale_BCZhw, (frames, few, columns))
    shift_BCFhW = _repeat(shift_BCZhw, (frames, few, columns))
    normed = F.group_norm(values, groups, weight, offset, eps).unflatten(3, (few, rows // few))
    steered = torch.addcmul(shift_BCFhW.unsqueeze(4), normed, scale_BCFhW.unsqueeze(4)).flatten(3, 4)
    return _with_frames_before(F.silu(steered, inplace=True), before, kernel)


def _steer_by_channel(
    values: Tensor,
    bias: Tensor | None,
    scale_BCZhw: Tensor,
    shift_BCZhw: Tensor,
    weight: Tensor,
    offset: Tensor,
    groups: int,
    eps: float,
    before: Tensor | None,
    kernel: int,
) -> Tensor:
    """The same for values that lie channels-last, in float32.

    The statistics of each channel come first, since channels lie side by side; torch's own group norm is
    slow there, and on a CPU off by 1e-3.
    """
    dtype, size_FHW = values.dtype, tuple(values.shape[2:])
    values = values.float()
    if bias is not None:
        values = values + bias.float().view(1, -1, 1, 1, 1)
    variance_BC, mean_BC = torch.var_mean(values, dim=(2, 3, 4), correction=0)
    mean_BGC = mean_BC.unflatten(1, (groups, -1))
    mean_BG1 = mean_BGC.mean(2, keepdim=True)
    spread = variance_BC.unflatten(1, (groups, -1)) + (mean_BGC - mean_BG1).square()
    inverse_BG1 = (spread.mean(2, keepdim=True) + eps).rsqrt()
    gain_BC = (inverse_BG1 * weight.float().unflatten(0, (groups, -1))).flatten(1)
    lift_BC = offset.float() - mean_BG1.expand_as(mean_BGC).flatten(1) * gain_BC
    normed = values * gain_BC[:, :, None, None, None] + lift_BC[:, :, None, None, None]
    steered = normed * _repeat(scale_BCZhw, size_FHW).float() + _repeat(shift_BCZhw, size_FHW).float()
    return _with_frames_before(F.silu(steered).to(dtype), before, kernel)


def _join(inner: Tensor, bias: Tensor | None, values: Tensor) -> Tensor:
    return inner + values if bias is None else inner + bias.view(1, -1, 1, 1, 1) + values


@functools.cache
def _steering(by_channel: bool, compiled: bool) -> Callable[..., Tensor]:
    function = _steer_by_channel if by_channel else _steer
    return torch.compile(function, dynamic=False) if compiled else function


@functools.cache
def _joining(compiled: bool) -> Callable[..., Tensor]:
    return torch.compile(_join, dynamic=False) if compiled else _join


def _upsample(upsampler: Any, values: Tensor) -> Tensor:
    """Doubles rows and columns, and where so built frames (all but a first that stands alone)."""
    frames = values.shape[2]
    if upsampler.compress_time and frames > 1:
        repeats = torch.full((frames,), 2, device=values.device)
        repeats[0] = 2 - frames % 2
        values = values.repeat_interleave(repeats, dim=2, output_size=2 * frames - frames % 2)
    values_BFCHW = values.transpose(1, 2)
    batch, frames, channels, rows, columns = values_BFCHW.shape
    if values.is_contiguous(memory_format=torch.channels_last_3d) and channels > 1:
        values_BFHWC = values.permute(0, 2, 3, 4, 1)
        doubled = values_BFHWC[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2, -1)
        pictures = doubled.reshape(batch * frames, 2 * rows, 2 * columns, channels).permute(0, 3, 1, 2)
    else:
        pictures = F.interpolate(values_BFCHW.flatten(0, 1), scale_factor=2.0)
    return upsampler.conv(pictures).unflatten(0, (batch, frames)).transpose(1, 2)
