"""LumiNet: the latent diffusion model that relights a photo.

Source: LumiNet (arXiv 2412.00177), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from cldm.controlnet import ControlNet, ControlNetParams
from cldm.state import normalise_state
from ldm.autoencoder import AutoencoderKL, AutoencoderParams
from ldm.schedule import NoiseSchedule
from ldm.text import FrozenOpenCLIPEmbedder, TextTowerParams
from ldm.unet import UNetModel, UNetParams
from modi_vae import BypassAutoencoder, BypassFeatures


@dataclass(frozen=True)
class ControlLDMParams:
    """Everything that a configuration file says about a model.

    Attributes:
        image_size: latent pixels on a side.
        scale_factor: latents of the first stage times this have a variance near 1.
    """

    unet: UNetParams = field(default_factory=UNetParams)
    control: ControlNetParams = field(default_factory=ControlNetParams)
    first_stage: AutoencoderParams = field(default_factory=AutoencoderParams)
    text: TextTowerParams = field(default_factory=TextTowerParams)
    linear_start: float = 0.00085
    linear_end: float = 0.0120
    timesteps: int = 1000
    image_size: int = 64
    channels: int = 4
    scale_factor: float = 0.18215

    def __post_init__(self) -> None:
        if self.text.width != self.unet.context_dim or self.control.unet.context_dim != self.unet.context_dim:
            raise ValueError("text tower, UNet and ControlNet must agree on the context width")
        if self.image_size % self.unet.downsampling:
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.unet.downsampling}")

    @property
    def picture_size(self) -> int:
        """Pixels on a side of the pictures that go in and come out."""
        return self.image_size * self.first_stage.downsampling


@dataclass(frozen=True)
class Conditions:
    """What stays the same from step to step of one render.

    Attributes:
        context: (b, n, context_dim), text tokens then light tokens.
        hint_features: (b, model_channels, h, w).
    """

    context: Tensor
    hint_features: Tensor


class DiffusionWrapper(nn.Module):
    """Holds the UNet under the name that the files use."""

    def __init__(self, params: UNetParams) -> None:
        super().__init__()
        self.diffusion_model = UNetModel(params)


class ControlLDM(nn.Module):
    """UNet, ControlNet, text tower and first stage. `forward` predicts v for a noisy latent."""

    first_stage_model: AutoencoderKL

    def __init__(self, params: ControlLDMParams) -> None:
        super().__init__()
        self.params = params
        self.schedule = NoiseSchedule.scaled_linear(params.linear_start, params.linear_end, params.timesteps)
        self.model = DiffusionWrapper(params.unet)
        self.control_model = ControlNet(params.control)
        self.first_stage_model = AutoencoderKL(params.first_stage)
        self.cond_stage_model = FrozenOpenCLIPEmbedder(params.text)

    def forward(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """x (b, channels, h, w), t (b,) raw timesteps -> v (b, channels, h, w)."""
        control = self.control_model(x, conditions.hint_features, t, conditions.context)
        return self.model.diffusion_model(x, t, conditions.context, control)

    def conditions(
        self, text: Tensor, intrinsic: Tensor, light_code: Tensor, light_tokens: Tensor
    ) -> Conditions:
        """Join what describes the photo with what describes the light, for b pairs of them.

        Args:
            text: (1, n, context_dim), from `cond_stage_model()`.
            intrinsic: (b, intrinsic_channels, h, w).
            light_code: (b, light_code).
            light_tokens: (b, light_tokens, context_dim).
        """
        context = torch.cat([text.expand(light_tokens.shape[0], -1, -1), light_tokens], dim=1)
        return Conditions(context, self.control_model.hint_features(intrinsic, light_code))

    def light(self, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Light code (b, light_code) and tokens (b, light_tokens, context_dim) of reference pictures in [0, 1]."""
        prior = self.control_model.prior_extracter
        code = prior.model_latents.light_code(reference)
        return code, prior.tokens(code)

    def decode_first_stage(self, z: Tensor, features: BypassFeatures | None = None) -> Tensor:
        """Scaled latent -> pictures, nominally in [-1, 1]; `features` for a bypass first stage only."""
        unscaled = z / self.params.scale_factor
        if isinstance(self.first_stage_model, BypassAutoencoder):
            if features is None:
                raise ValueError("the bypass first stage needs the photo's features")
            return self.first_stage_model.decode(unscaled, features)
        return self.first_stage_model.decode(unscaled)

    def use_bypass_first_stage(self) -> BypassAutoencoder:
        """Put a bypass autoencoder of the same sizes, not yet loaded, in the first stage's place; return it."""
        device = next(self.first_stage_model.parameters()).device
        with torch.device(device):
            bypass = BypassAutoencoder(self.params.first_stage)
        self.first_stage_model = bypass
        return bypass

    # The published notebook's sequence: add_new_layers, load_state_dict, change_first_stage.

    def add_new_layers(self) -> None:
        """List the hint convolutions under their second published name too (one module, two names)."""
        self.control_model.input_latent_hint_cat_atten_block = self.control_model.input_hint_block

    def change_first_stage(self, path: str | PathLike[str]) -> None:
        """Replace the first stage by the bypass autoencoder stored in `path` (`new_decoder.ckpt`).

        Raises:
            RuntimeError: a key is missing, unexpected, or of another shape; the old first stage then stays.
            OSError: the file cannot be read.
        """
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        bypass = BypassAutoencoder(self.params.first_stage)
        bypass.load_state_dict(stored.get("state_dict", stored))
        self.first_stage_model = bypass.to(next(self.parameters()).device)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a published or a saved state dict; names on the allow-list of `cldm.state` may be there or not.

        Raises:
            RuntimeError: with `strict`, a key is missing, unexpected, or of another shape.
        """
        accepted = normalise_state(
            state_dict, doubled=hasattr(self.control_model, "input_latent_hint_cat_atten_block")
        )
        return super().load_state_dict(accepted, strict=strict, assign=assign)
