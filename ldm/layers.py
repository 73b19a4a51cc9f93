"""Layers that the UNet and the autoencoders share."""

from __future__ import annotations

from typing import Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.moments import channel_moments, gains, parts_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class GroupNorm(nn.GroupNorm):
    """Group Normalization (arXiv 1803.08494), eq. 1 and 6, in a form that a compiler can fuse.

    A group of a channels-last feature map is a narrow stripe of memory. Compiled, the moments are therefore taken of
    every channel, all channels beside each other, and those of a group from them, which is the same number.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, h, w) -> (b, c, h, w)."""
        return self.by_channel(x) if torch.compiler.is_compiling() else super().forward(x)

    def by_channel(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """`forward` of x + shift as it is compiled; shift (b, c) or (1, c). In float32 within."""
        b, c = x.shape[:2]
        wide = x.permute(0, 2, 3, 1)
        variances, means = _moments(wide)  # (b, parts, c)
        if shift is not None:
            shift = shift.float()[:, None]
            means = means + shift
        variances, means = (part.unflatten(2, (self.num_groups, -1)) for part in (variances, means))
        mean = means.mean(dim=(1, 3), keepdim=True)
        variance = (variances + (means - mean).square()).mean(dim=(1, 3))[:, :, None]
        mean = mean.view(b, self.num_groups, 1)
        scale = self.weight.float().view(1, self.num_groups, -1) * torch.rsqrt(variance + self.eps)
        offset = self.bias.float().view(1, self.num_groups, -1) - mean * scale
        scale, offset = scale.view(b, 1, c), offset.view(b, 1, c)
        if shift is not None:
            offset = offset + shift * scale
        normal = wide.float() * scale[:, None] + offset[:, None]
        return normal.to(x.dtype).permute(0, 3, 1, 2)


def _moments(wide: Tensor) -> tuple[Tensor, Tensor]:
    """(b, h, w, c) -> variances and means over parts of the pixels, all of one size, each (b, parts, c) float32."""
    if torch.is_grad_enabled() or not gains(wide):
        return torch.var_mean(wide.float(), dim=2, correction=0)
    pixels = wide.flatten(1, 2)
    variances, means = channel_moments(pixels, parts_of(*pixels.shape)).unbind()
    return variances, means


def norm_of_conv(norm: GroupNorm, conv: nn.Conv2d, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """norm(conv(x) + shift), shift (b, c).

    Compiled, all that is added to whole channels is the norm's to add, which so reads the map as the convolution
    leaves it.
    """
    if not torch.compiler.is_compiling():
        h = conv(x)
        return norm(h if shift is None else h + shift[:, :, None, None])
    h = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    parts = [part for part in (shift, None if conv.bias is None else conv.bias[None]) if part is not None]
    return norm.by_channel(h, sum(part.float() for part in parts) if parts else None)  # type: ignore[arg-type]


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    kernel: Tensor | None
    #: What each of a 4-tap kernel's places takes of the 3 taps: a doubled pixel meets two of them at once.
    TAPS: Final = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("kernel", None, persistent=False)

    @torch.no_grad()
    def pack(self) -> None:
        """For inference: from now on do both in one transposed 4x4 convolution, with 4/9 of the products.

        Changing the convolution's weights, their precision or device afterwards is not seen.
        """
        weight = self.conv.weight
        taps = torch.tensor(self.TAPS, device=weight.device)
        kernel = torch.einsum("ak,oikl,bl->ioab", taps, weight.float(), taps)
        self.kernel = kernel.to(weight.dtype).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel is not None:
            return F.conv_transpose2d(x, self.kernel, self.conv.bias, stride=2, padding=1)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def join(a: Tensor, b: Tensor) -> Tensor:
    """(b, c, h, w) and (b, d, h, w) -> (b, c + d, h, w).

    Compiled, it is channels last whatever the compiler makes of `cat`, which is to put channels first between layers
    that want them last.
    """
    if not torch.compiler.is_compiling():
        return torch.cat([a, b], dim=1)
    last = [part.permute(0, 2, 3, 1) for part in (a, b)]
    return torch.cat(last, dim=3).permute(0, 3, 1, 2)


@torch.no_grad()
def zero_init(module: ModuleT) -> ModuleT:
    """Set every parameter of `module` to zero and return it."""
    for parameter in module.parameters():
        parameter.zero_()
    return module
