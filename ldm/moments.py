"""Means and variances of the channels of a channels-last feature map: what a group norm reads the map for.

What a compiler makes of reductions over the short rows of large maps is many times slower than memory allows. For
those there is a kernel of our own on a GPU; the others, and all where nothing is compiled, are torch's.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

#: Channels and pixels that a program of the kernel sees at once, and its warps.
CHANNELS: Final = 64
PIXELS: Final = 16
WARPS: Final = 2
#: Of maps of up to so many numbers, and of maps of longer rows, a compiler gains more by fusing.
MOST_FUSED: Final = 1 << 21
LONGEST: Final = 64
#: Programs that keep a large GPU busy.
PROGRAMS: Final = 1024


def gains(wide: Tensor) -> bool:
    """Whether the kernel is quicker for a map (b, h, w, c) than what a compiler makes."""
    return wide.numel() > MOST_FUSED and wide.shape[2] <= LONGEST


def parts_of(batch: int, pixels: int, channels: int) -> int:
    """Into how many equal parts the pixels of a map are divided, so that all of a GPU works at them."""
    parts, others = 1, batch * -(-channels // CHANNELS)
    while parts * others < PROGRAMS and pixels % (2 * parts) == 0 and pixels // (2 * parts) >= PIXELS:
        parts *= 2
    return parts


@torch.library.custom_op("lumiply::channel_moments", mutates_args=())
def channel_moments(x: Tensor, parts: int) -> Tensor:
    """Variances (correction 0) and means over each of `parts` equal parts of a map's pixels.

    Args:
        x: (b, pixels, c), of any real precision.
        parts: divides the number of pixels.

    Returns:
        (2, b, parts, c) float32: variances, then means.
    """
    return torch.stack(torch.var_mean(x.unflatten(1, (parts, -1)).float(), dim=2, correction=0))


@channel_moments.register_fake
def _(x: Tensor, parts: int) -> Tensor:
    return x.new_empty((2, x.shape[0], parts, x.shape[2]), dtype=torch.float32)


@channel_moments.register_kernel("cuda")
def _(x: Tensor, parts: int) -> Tensor:
    x = x.contiguous()
    batch, pixels, channels = x.shape
    moments = x.new_empty((2, batch, parts, channels), dtype=torch.float32)
    grid = (parts, -(-channels // CHANNELS), batch)
    kernel()[grid](x, moments, pixels // parts, channels, PIXELS, CHANNELS, num_warps=WARPS)
    return moments


@cache
def kernel() -> Any:
    """The kernel, when it is first needed: Triton is where torch has a GPU."""
    import triton
    import triton.language as tl

    @triton.jit
    def moments_of_a_part(x, moments, pixels, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
        part, block, picture = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        parts, pictures = tl.num_programs(0), tl.num_programs(2)
        channel = block * CHANNELS + tl.arange(0, CHANNELS)
        inside = channel < channels
        row = picture * parts + part
        first = x + row.to(tl.int64) * pixels * channels + channel
        # of the differences from the part's first pixel, whose squares are small where a channel is nearly constant
        pivot = tl.load(first, mask=inside, other=0.0).to(tl.float32)
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        squares = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for start in range(0, pixels, PIXELS):
            pixel = start + tl.arange(0, PIXELS)
            there = (pixel < pixels)[:, None] & inside[None, :]
            value = tl.load(first[None, :] + pixel[:, None] * channels, mask=there, other=0.0).to(tl.float32)
            value = tl.where(there, value - pivot[None, :], 0.0)
            total += value
            squares += value * value
        mean = tl.sum(total, 0) / pixels
        variance = tl.maximum(tl.sum(squares, 0) / pixels - mean * mean, 0.0)
        tl.store(moments + row * channels + channel, variance, mask=inside)
        tl.store(moments + (pictures * parts + row) * channels + channel, mean + pivot, mask=inside)

    return moments_of_a_part
