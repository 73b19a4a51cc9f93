"""An autoencoder whose decoder takes features of the input photo, so that fine detail bypasses the latent.

Source: QuadPrior (arXiv 2403.12933), section 3.4; LumiNet (arXiv 2412.00177), section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder import AutoencoderKL, AutoencoderParams, Decoder, DiagonalGaussian
from ldm.layers import Upsample, zero_init


@dataclass(frozen=True)
class BypassFeatures:
    """What the decoder takes from the photo.

    Attributes:
        image: the photo itself, (b, 3, H, W) in [-1, 1].
        levels: encoder outputs from the finest, (b, width_i, H >> i, W >> i), all levels but the last.
    """

    image: Tensor
    levels: tuple[Tensor, ...]

    def expand(self, batch: int) -> BypassFeatures:
        """The features of one photo for `batch` latents, without copying."""
        return BypassFeatures(
            self.image.expand(batch, -1, -1, -1),
            tuple(level.expand(batch, -1, -1, -1) for level in self.levels),
        )


@dataclass(frozen=True)
class MergedFeatures(BypassFeatures):
    """What the photo adds inside the decoder, the same for every latent that is decoded for it.

    Attributes:
        levels: each level's feature after the part of its merge convolution that sees it, bias included;
            (b, width of the merge, H >> i, W >> i).
    """

    def expand(self, batch: int) -> MergedFeatures:
        wider = super().expand(batch)
        return MergedFeatures(wider.image, wider.levels)


class Merge(nn.Module):
    """3x3 convolution over concat(h, feature) that starts as the identity on h (Dirac, bias 0).

    A convolution of a concatenation is a sum of two: the one over the feature is done once a photo.
    """

    def __init__(self, channels: int, feature_channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels + feature_channels, channels, 3, padding=1)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def photo_part(self, feature: Tensor) -> Tensor:
        """(b, feature_channels, h, w) -> (b, channels, h, w)."""
        return F.conv2d(feature, self.conv.weight[:, self.channels :], self.conv.bias, padding=1)

    def forward(self, h: Tensor, photo_part: Tensor) -> Tensor:
        return F.conv2d(h, self.conv.weight[:, : self.channels], padding=1) + photo_part


class MergingUpsample(Upsample):
    """Doubling and 3x3 convolution, then a merge with the photo's feature of that resolution."""

    def __init__(self, channels: int, feature_channels: int) -> None:
        super().__init__(channels)
        self.new_merge = Merge(channels, feature_channels)

    def forward(self, x: Tensor, photo_part: Tensor) -> Tensor:  # type: ignore[override]
        return self.new_merge(super().forward(x), photo_part)


class LastProcess(nn.Module):
    """y + conv2(ReLU(conv1(concat(y, image)))), the identity at initialisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, 32, 3, padding=1)
        self.conv2 = zero_init(nn.Conv2d(32, channels, 3, padding=1))

    def forward(self, y: Tensor, image: Tensor) -> Tensor:
        return y + self.conv2(F.relu(self.conv1(torch.cat([y, image], dim=1))))


class BypassDecoder(Decoder):
    """Stable Diffusion's decoder with the photo's features merged in after each doubling."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__(params)
        self.new_last_procee = LastProcess(params.out_ch)  # spelt as in the published files

    def make_upsample(self, params: AutoencoderParams, index: int) -> nn.Module:
        return MergingUpsample(params.widths[index], params.widths[index - 1])

    def merged(self, features: BypassFeatures) -> MergedFeatures:
        """What `forward` takes, for b photos."""
        levels = [level.upsample for level in self.up if isinstance(level.upsample, MergingUpsample)]
        parts = [
            upsample.new_merge.photo_part(feature)
            for upsample, feature in zip(levels, features.levels, strict=True)
        ]
        return MergedFeatures(features.image, tuple(parts))

    def forward(self, z: Tensor, features: MergedFeatures) -> Tensor:  # type: ignore[override]
        """z (b, z_channels, h, w) and the features of b photos -> (b, 3, 8 h, 8 w), not clamped."""
        h = self.mid(self.conv_in(z))
        for index in reversed(range(len(self.up))):
            level = self.up[index]
            h = level(h)
            if isinstance(level.upsample, MergingUpsample):
                h = level.upsample(h, features.levels[index - 1])
        y = self.conv_out(F.silu(self.norm_out(h)))
        return self.new_last_procee(y, features.image)


class BypassAutoencoder(AutoencoderKL):
    """The first stage used for inference. Pictures are in [-1, 1]."""

    decoder: BypassDecoder

    def make_decoder(self, params: AutoencoderParams) -> nn.Module:
        return BypassDecoder(params)

    def bypass_features(self, image: Tensor) -> BypassFeatures:
        """(b, 3, H, W) in [-1, 1] -> what `decode` takes; the latent's own layers are not run."""
        return BypassFeatures(image, tuple(self.encoder.features(image)[:-1]))

    def encode_with_features(self, image: Tensor) -> tuple[DiagonalGaussian, BypassFeatures]:
        """Posterior and features of the same picture from one pass."""
        levels = self.encoder.features(image)
        moments = self.quant_conv(self.encoder.head(levels[-1]))
        return DiagonalGaussian.from_moments(moments), BypassFeatures(image, tuple(levels[:-1]))

    def decode(self, z: Tensor, features: BypassFeatures) -> Tensor:  # type: ignore[override]
        """Unscaled latent (b, z_channels, h, w) and features of b photos -> (b, 3, 8 h, 8 w), not clamped.

        Features that `merge` has prepared are taken as they are; others are merged here, for each latent anew.
        """
        return self.decoder(self.post_quant_conv(z), self.merge(features))

    def merge(self, features: BypassFeatures) -> MergedFeatures:
        """Do the part of decoding that depends on the photo alone, so that several latents can share it."""
        return features if isinstance(features, MergedFeatures) else self.decoder.merged(features)
