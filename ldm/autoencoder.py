"""The KL autoencoder of Stable Diffusion: pictures to latents of an eighth of their size, and back.

Source: LDM (arXiv 2112.10752), section 3.1 and appendix G; the diagonal Gaussian posterior is that of
Auto-Encoding Variational Bayes (arXiv 1312.6114).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.attention import attention
from ldm.layers import GroupNorm, Upsample, norm_of_conv

NORM_EPS = 1e-6
LOG_VARIANCE_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class AutoencoderParams:
    """Sizes of an autoencoder: level i has `ch * ch_mult[i]` channels.

    Raises:
        ValueError: a width does not divide into the norm's groups.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    in_channels: int = 3
    out_ch: int = 3
    z_channels: int = 4
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        for width in self.widths:
            if width % self.norm_num_groups:
                raise ValueError(f"width {width} does not divide into {self.norm_num_groups} groups")

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.ch * mult for mult in self.ch_mult)

    @property
    def downsampling(self) -> int:
        """Factor between picture and latent."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """The posterior q(z | x); `mean` and `log_variance` are (b, z_channels, h, w)."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> DiagonalGaussian:
        """Split (b, 2 z_channels, h, w); the log-variance is clamped to [-30, 20]."""
        mean, log_variance = moments.chunk(2, dim=1)
        return cls(mean, log_variance.clamp(*LOG_VARIANCE_RANGE))

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, for `noise` of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """KL divergence from the standard normal, summed over each sample's dimensions: (b,)."""
        terms = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * terms.sum(dim=(1, 2, 3))


class ResnetBlock(nn.Module):
    """norm, swish, 3x3 convolution, twice, around a residual."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = GroupNorm(groups, c_out, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)
        self.changes_width = c_in != c_out

    def forward(self, x: Tensor) -> Tensor:
        h = norm_of_conv(self.norm2, self.conv1, F.silu(self.norm1(x)))
        h = self.conv2(F.silu(h))
        return (self.nin_shortcut(x) if self.changes_width else x) + h


class AttnBlock(nn.Module):
    """Single-headed self-attention over all positions of a feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c h w -> b (h w) c") for layer in (self.q, self.k, self.v))
        mixed = rearrange(attention(q, k, v, heads=1), "b (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(mixed)


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """3x3 convolution of stride 2 over a picture padded on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """The residual blocks of one resolution, and what leads to the next one (None at the last)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        blocks: int,
        groups: int,
        *,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(c_in if index == 0 else c_out, c_out, groups) for index in range(blocks)
        )
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Picture to the moments of the latent; also gives the features that a bypass decoder takes."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        widths, groups = params.widths, params.norm_num_groups
        self.conv_in = nn.Conv2d(params.in_channels, params.ch, 3, padding=1)
        levels = []
        channels = params.ch
        for index, width in enumerate(widths):
            last = index + 1 == len(widths)
            down = None if last else Downsample(width)
            levels.append(Level(channels, width, params.num_res_blocks, groups, downsample=down))
            channels = width
        self.down = nn.ModuleList(levels)
        self.mid = Middle(channels, groups)
        self.norm_out = GroupNorm(groups, channels, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels, 2 * params.z_channels, 3, padding=1)

    def features(self, x: Tensor) -> list[Tensor]:
        """x (b, 3, H, W) -> every level's output before its downsampling, the last level's included."""
        outputs = []
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            outputs.append(h)
            if isinstance(level.downsample, nn.Module):
                h = level.downsample(h)
        return outputs

    def head(self, h: Tensor) -> Tensor:
        """The last level's output -> moments (b, 2 z_channels, H / 8, W / 8), before `quant_conv`."""
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[-1])


class Decoder(nn.Module):
    """Latent to picture."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        widths, groups = params.widths, params.norm_num_groups
        channels = widths[-1]
        self.conv_in = nn.Conv2d(params.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[Level] = []
        for index in reversed(range(len(widths))):
            up = None if index == 0 else self.make_upsample(params, index)
            levels.insert(0, Level(channels, widths[index], params.num_res_blocks + 1, groups, upsample=up))
            channels = widths[index]
        self.up = nn.ModuleList(levels)
        self.norm_out = GroupNorm(groups, channels, eps=NORM_EPS)
        self.conv_out = nn.Conv2d(channels, params.out_ch, 3, padding=1)

    def make_upsample(self, params: AutoencoderParams, index: int) -> nn.Module:
        """What leads from level `index` to the next finer one."""
        return Upsample(params.widths[index])

    def forward(self, z: Tensor) -> Tensor:
        """z (b, z_channels, h, w) -> (b, 3, 8 h, 8 w), nominally in [-1, 1], not clamped."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            if isinstance(level.upsample, nn.Module):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class AutoencoderKL(nn.Module):
    """The first stage as Stable Diffusion publishes it. Pictures are in [-1, 1]."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.decoder = self.make_decoder(params)
        self.quant_conv = nn.Conv2d(2 * params.z_channels, 2 * params.z_channels, 1)
        self.post_quant_conv = nn.Conv2d(params.z_channels, params.z_channels, 1)

    def make_decoder(self, params: AutoencoderParams) -> nn.Module:
        return Decoder(params)

    def encode(self, image: Tensor) -> DiagonalGaussian:
        """(b, 3, H, W) in [-1, 1], H and W multiples of 8 -> posterior over (b, z_channels, H/8, W/8)."""
        return DiagonalGaussian.from_moments(self.quant_conv(self.encoder(image)))

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent (b, z_channels, h, w) -> (b, 3, 8 h, 8 w), not clamped."""
        return self.decoder(self.post_quant_conv(z))
