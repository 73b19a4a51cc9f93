"""What happens before and after denoising, as networks of tensors alone, so that they can be compiled."""

from __future__ import annotations

from torch import Tensor, nn

from cldm.controlnet import ControlNet, with_light
from modi_vae import BypassAutoencoder, MergedFeatures


class HintStage(nn.Module):
    """From a photo and light codes to what the hint adds (LumiNet, arXiv 2412.00177, section 3.3)."""

    def __init__(self, control: ControlNet) -> None:
        super().__init__()
        self.intrinsics = control.prior_extracter.model_latents
        self.block = control.input_hint_block

    def forward(self, hint: Tensor, codes: Tensor) -> Tensor:
        """hint (1, 3, H, W) in [0, 1], codes (k, light_code) -> (k, model_channels, H / 8, W / 8)."""
        intrinsic = self.intrinsics.intrinsic(hint).expand(len(codes), -1, -1, -1)
        return self.block(with_light(intrinsic, codes))


class PictureStage(nn.Module):
    """From a photo to what decoding takes of it, and from latents to pictures."""

    def __init__(self, first_stage: BypassAutoencoder) -> None:
        super().__init__()
        self.first_stage = first_stage

    def features(self, picture: Tensor) -> tuple[Tensor, ...]:
        """picture (1, 3, H, W) in [-1, 1] -> the levels of `MergedFeatures`."""
        return self.first_stage.merge(self.first_stage.bypass_features(picture)).levels

    def decode(self, z: Tensor, image: Tensor, levels: list[Tensor]) -> Tensor:
        """Latents (k, channels, h, w), unscaled, and `MergedFeatures` of k -> (k, 3, H, W), not clamped."""
        return self.first_stage.decode(z, MergedFeatures(image, tuple(levels)))
