"""Latent intrinsics: what a photo shows, apart from how it is lit, and a code of how it is lit.

Only the parts that relighting with LumiNet uses. The published files also hold Latent Intrinsics' own decoder
(`dec.*`, `final.*`, `pos_embed`, `model_latents.light_decoder.*`), which is not built here.

Source: Latent Intrinsics Emerge from Training to Relight (arXiv 2405.21074), section 3;
LumiNet (arXiv 2412.00177), section 3.2. Pictures here are in [0, 1], not [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

NORM_EPS = 1e-6
#: The published names count resolutions down from 256, whatever the size of the picture.
NAMED_RESOLUTION = 256
#: The level whose features describe the photo; it has an eighth of the photo's resolution.
INTRINSIC_LEVEL = 3


@dataclass(frozen=True)
class IntrinsicsParams:
    """Sizes of the encoder: level i has `model_channels * channel_mult[i]` channels and `num_blocks[i]` blocks.

    Raises:
        ValueError: fewer levels than the intrinsic features need, or block counts that do not match.
    """

    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 4, 4, 8, 16)
    num_blocks: tuple[int, ...] = (1, 2, 2, 4, 4, 4)
    dropout: float = 0.10
    light_code: int = 16
    light_tokens: int = 3
    token_width: int = 1024
    light_hidden: int = 4096

    def __post_init__(self) -> None:
        if len(self.channel_mult) != len(self.num_blocks) or len(self.num_blocks) <= INTRINSIC_LEVEL:
            raise ValueError(
                f"channel_mult and num_blocks need one entry a level and {INTRINSIC_LEVEL + 1} levels at least, "
                f"got {len(self.channel_mult)} and {len(self.num_blocks)}"
            )
        if (self.light_tokens * self.token_width) % self.light_code:
            raise ValueError(
                f"{self.light_tokens} tokens of {self.token_width} do not hold a whole number of codes "
                f"of {self.light_code}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.model_channels * mult for mult in self.channel_mult)

    @property
    def intrinsic_channels(self) -> int:
        return self.widths[INTRINSIC_LEVEL]

    @property
    def hint_channels(self) -> int:
        """Channels of the hint: intrinsic features, then the light code."""
        return self.intrinsic_channels + self.light_code


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least four channels, 32 groups at the most."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=NORM_EPS)


class EncoderBlock(nn.Module):
    """norm0 SiLU conv0, norm1 SiLU dropout conv1, plus the block's raw input.

    With `down`, each channel is averaged over 2 x 2 before `conv0` and before `skip`.
    """

    def __init__(self, c_in: int, c_out: int, *, down: bool, dropout: float) -> None:
        super().__init__()
        self.down = down
        self.norm0 = group_norm(c_in)
        self.conv0 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm1 = group_norm(c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if down or c_in != c_out else nn.Identity()

    def halve(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv0(self.halve(F.silu(self.norm0(x))))
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return self.skip(self.halve(x)) + h


class LatentIntrinsics(nn.Module):
    """The encoder and the head that makes a light code of its last features."""

    def __init__(self, params: IntrinsicsParams) -> None:
        super().__init__()
        self.params = params
        width = params.model_channels
        layers: dict[str, nn.Module] = {self.name(0, "conv"): nn.Conv2d(3, width, 3, padding=1)}
        for level, (out, blocks) in enumerate(zip(params.widths, params.num_blocks, strict=True)):
            if level > 0:
                layers[self.name(level, "down")] = EncoderBlock(
                    width, width, down=True, dropout=params.dropout
                )
            for index in range(blocks):
                final = level > 0 and index + 1 == blocks
                label = f"block{index}_final" if final else f"block{index}"
                layers[self.name(level, label)] = EncoderBlock(width, out, down=False, dropout=params.dropout)
                width = out
        self.enc = nn.ModuleDict(layers)
        self.light_encoder = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, params.light_code)
        )

    @staticmethod
    def name(level: int, label: str) -> str:
        size = NAMED_RESOLUTION >> level
        return f"{size}x{size}_{label}"

    def level_outputs(self, image: Tensor, levels: int) -> list[Tensor]:
        """Outputs of the first `levels` levels, (b, widths[i], H >> i, W >> i), for image (b, 3, H, W) in [0, 1]."""
        outputs: list[Tensor] = []
        stop = self.name(levels, "down")
        h = image
        for name, layer in self.enc.items():
            if name == stop:
                break
            if name.endswith("_down"):
                outputs.append(h)
            h = layer(h)
        return [*outputs, h]

    def intrinsic(self, image: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, intrinsic_channels, H / 8, W / 8), of length 1 over channels."""
        return F.normalize(self.level_outputs(image, INTRINSIC_LEVEL + 1)[-1], dim=1)

    def pooled(self, image: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, widths[-1]): the last features' mean over space."""
        return self.level_outputs(image, len(self.params.widths))[-1].mean(dim=(2, 3))

    def light_code(self, image: Tensor) -> Tensor:
        """(b, 3, H, W) in [0, 1] -> (b, light_code), of length 1: how the picture is lit."""
        return self.head(self.pooled(image))

    def head(self, pooled: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """(b, widths[-1]) from `pooled` -> light code (b, light_code), of length 1.

        `weights` stand in for the light encoder's own, so that a colour's adaptor changes no module.
        """
        raw = (
            self.light_encoder(pooled)
            if weights is None
            else functional_call(self.light_encoder, dict(weights), (pooled,))
        )
        return F.normalize(raw, dim=1)


class PriorExtractor(nn.Module):
    """Latent intrinsics plus the network that turns a light code into context tokens."""

    def __init__(self, params: IntrinsicsParams) -> None:
        super().__init__()
        self.params = params
        self.model_latents = LatentIntrinsics(params)
        ends = params.light_tokens * params.token_width
        self.light_decoder = nn.Sequential(
            nn.Linear(ends, params.light_hidden),
            nn.SiLU(),
            nn.Linear(params.light_hidden, params.light_hidden),
            nn.SiLU(),
            nn.Linear(params.light_hidden, ends),
            nn.SiLU(),
        )

    def tokens(self, code: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """(b, light_code) -> (b, light_tokens, token_width); the code is tiled to the decoder's input width.

        `weights` stand in for the light decoder's own, so that a colour's adaptor changes no module.
        """
        params = self.params
        tiled = code.repeat(1, params.light_tokens * params.token_width // params.light_code)
        raw = (
            self.light_decoder(tiled)
            if weights is None
            else functional_call(self.light_decoder, dict(weights), (tiled,))
        )
        return raw.view(-1, params.light_tokens, params.token_width)
