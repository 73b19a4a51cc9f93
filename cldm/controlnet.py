"""The ControlNet of LumiNet: a copy of the UNet's encoder that is told about the photo and the light.

Source: ControlNet (arXiv 2302.05543), section 3; LumiNet (arXiv 2412.00177), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import repeat
from torch import Tensor, nn

from cldm.intrinsics import IntrinsicsParams, PriorExtractor
from ldm.attention import KeysValues
from ldm.layers import zero_init
from ldm.unet import UNetEncoder, UNetParams


@dataclass(frozen=True)
class ControlNetParams:
    """Sizes of the ControlNet: its UNet half, its latent intrinsics, and the width of the hint convolutions.

    Raises:
        ValueError: the light tokens are not as wide as the context.
    """

    unet: UNetParams = field(default_factory=lambda: UNetParams(attention_resolutions=(4, 2, 1)))
    intrinsics: IntrinsicsParams = field(default_factory=IntrinsicsParams)
    hint_width: int = 256

    def __post_init__(self) -> None:
        if self.intrinsics.token_width != self.unet.context_dim:
            raise ValueError(
                f"light tokens of {self.intrinsics.token_width} do not fit a context of {self.unet.context_dim}"
            )


def with_light(intrinsic: Tensor, light_code: Tensor) -> Tensor:
    """(b, c, h, w) and (b, light_code) -> (b, c + light_code, h, w): the code at every place."""
    _, _, h, w = intrinsic.shape
    return torch.cat([intrinsic, repeat(light_code, "b c -> b c h w", h=h, w=w)], dim=1)


def hint_convs(c_in: int, width: int, c_out: int) -> nn.Sequential:
    """Five 3x3 convolutions of stride 1 with SiLU between, zero at initialisation."""
    widths = [c_in, c_in, width, width, width, c_out]
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.SiLU()]
    zero_init(layers[-2])
    return nn.Sequential(*layers[:-1])


class ControlNet(UNetEncoder):
    """Corrections for the UNet's skip connections and middle block."""

    def __init__(self, params: ControlNetParams) -> None:
        super().__init__(params.unet)
        self.zero_convs = nn.ModuleList(
            nn.Sequential(zero_init(nn.Conv2d(width, width, 1))) for width in self.block_channels
        )
        last = self.block_channels[-1]
        self.middle_block_out = nn.Sequential(zero_init(nn.Conv2d(last, last, 1)))
        self.prior_extracter = PriorExtractor(params.intrinsics)  # spelt as in the published files
        self.input_hint_block = hint_convs(
            params.intrinsics.hint_channels, params.hint_width, params.unet.model_channels
        )

    def hint_features(self, intrinsic: Tensor, light_code: Tensor) -> Tensor:
        """What the hint adds to the first feature map; it does not depend on x or t.

        Args:
            intrinsic: (b, intrinsic_channels, h, w), from `LatentIntrinsics.intrinsic`.
            light_code: (b, light_code), broadcast over space.

        Returns:
            (b, model_channels, h, w).
        """
        return self.input_hint_block(with_light(intrinsic, light_code))

    def forward(self, x: Tensor, hint_features: Tensor, t: Tensor, context: Tensor) -> list[Tensor]:
        """Controls for every input block of the UNet, then one for its middle block.

        Args:
            x: (b, in_channels, h, w).
            hint_features: (b, model_channels, h, w), from `hint_features`.
            t: (b,) raw timesteps.
            context: (b, n, context_dim).
        """
        return self.body(x, hint_features, self.time_shifts(t), self.keys_values(context))

    def body(
        self,
        x: Tensor,
        hint_features: Tensor,
        time_shifts: Sequence[Tensor],
        keys_values: Sequence[KeysValues],
    ) -> list[Tensor]:
        """`forward` with what depends on t or on the context alone already computed."""
        shifts, pairs = iter(time_shifts), iter(keys_values)
        controls = []
        h = x
        for index, (stage, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = stage(h, shifts, pairs)
            if index == 0:
                h = h + hint_features
            controls.append(zero_conv(h))
        h = self.middle_block(h, shifts, pairs)
        return [*controls, self.middle_block_out(h)]
