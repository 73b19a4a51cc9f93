"""Prepare, denoise, decode: three pure steps over one loaded model (DESIGN.md, rule 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from cldm import Conditions, ControlLDM
from ldm.sampling import StepCallback, sample_ddim
from lumiply.engine.palette import Palette, PaletteBuilder
from lumiply.engine.pixels import bypass_picture, hint_picture, to_bytes, to_picture
from lumiply.engine.protocol import Stage
from lumiply.errors import RenderError
from lumiply.weights import Adaptor
from modi_vae import BypassAutoencoder, BypassFeatures


@dataclass(frozen=True)
class Prepared:
    """All that does not change from step to step, for one photo in k colours.

    Attributes:
        conditions: of batch k.
        features: of the photo, batch 1.
        size: (width, height) of the photo, in pixels.
    """

    conditions: Conditions
    features: BypassFeatures
    size: tuple[int, int]

    @property
    def batch(self) -> int:
        return self.conditions.context.shape[0]


class Pipeline:
    """A loaded model, its palette and its text context. It has no state that a request could change.

    Attributes:
        device, dtype: where and in which precision the networks run.
        picture_size: pixels on a side at which the model works.
    """

    def __init__(
        self,
        model: ControlLDM,
        adaptors: Mapping[str, Adaptor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take over `model` (float32, with the bypass first stage); it must not be used elsewhere afterwards.

        Palette and text context are computed in float32, and what made them is not moved to the device's memory
        for longer than that takes.

        Raises:
            TypeError: the model's first stage is not the bypass autoencoder.
        """
        if not isinstance(model.first_stage_model, BypassAutoencoder):
            raise TypeError(
                "the pipeline needs the bypass first stage; call use_bypass_first_stage() and load it"
            )
        self.device, self.dtype = torch.device(device), dtype
        self.picture_size = model.params.picture_size
        self.params, self.schedule = model.params, model.schedule
        model.eval().requires_grad_(False)
        with torch.inference_mode():
            prior = model.control_model.prior_extracter.to(self.device)
            self._palettes = PaletteBuilder(prior, self.picture_size)
            self.palette: Palette = self._palettes.build(adaptors)
            self.text = model.cond_stage_model.to(self.device)().to(dtype)
        for done_with in (model.cond_stage_model, prior.light_decoder, prior.model_latents.light_encoder):
            done_with.to("meta")  # their numbers live on in the palette and in `text`
        control = [part for name, part in model.control_model.named_children() if name != "prior_extracter"]
        for part in (model.model, *control, prior.model_latents.enc, model.first_stage_model):
            part.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = model
        self._prior = prior.model_latents
        self._first_stage = model.first_stage_model

    def use_adaptors(self, adaptors: Mapping[str, Adaptor]) -> None:
        """Put a palette of these adaptors in the place of the one there is. Not while a render prepares."""
        self.palette = self._palettes.build(adaptors)

    @torch.inference_mode()
    def prepare(self, photo: Image.Image, colors: Sequence[str]) -> Prepared:
        """Everything that the photo and the colours decide, for an RGB photo of any size.

        Raises:
            UserError: the palette lacks a colour.
        """
        code, tokens = self.palette.select(colors)
        hint = hint_picture(photo, self.picture_size).to(self.device, self.dtype)
        bypass = bypass_picture(photo, self.picture_size).to(self.device, self.dtype)
        intrinsic = self._prior.intrinsic(hint.contiguous(memory_format=torch.channels_last))
        conditions = self._network.conditions(
            self.text,
            intrinsic.expand(len(colors), -1, -1, -1),
            code.to(self.dtype),
            tokens.to(self.dtype),
        )
        features = self._first_stage.bypass_features(bypass.contiguous(memory_format=torch.channels_last))
        return Prepared(conditions, features, photo.size)

    def noise(self, seed: int) -> Tensor:
        """(1, channels, h, w) standard normal noise of a request, from its own generator on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        size = self.params.image_size
        return torch.randn(1, self.params.channels, size, size, generator=generator)

    @torch.inference_mode()
    def denoise(
        self, conditions: Conditions, noise: Tensor, steps: int, callback: StepCallback | None = None
    ) -> Tensor:
        """Noise (k, channels, h, w), or (1, ...) for all alike -> scaled latents (k, channels, h, w) float32."""
        batch = conditions.context.shape[0]
        x = noise.to(self.device).expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)

        def predict_v(x: Tensor, t: Tensor) -> Tensor:
            return self._network(x.to(self.dtype), t, conditions)

        return sample_ddim(predict_v, x, self.schedule, steps, callback)

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        features: BypassFeatures,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Scaled latents (k, channels, h, w) of one photo -> (k, H, W, 3) uint8 on the CPU.

        On a CPU one picture at a time, which its caches like better; on a GPU all at once.

        Raises:
            RenderError: the latents or the pictures hold numbers that are not finite.
        """
        chunk = 1 if self.device.type == "cpu" else latents.shape[0]
        pictures: list[Tensor] = []
        for part in latents.split(chunk):
            decoded = self._network.decode_first_stage(part.to(self.dtype), features.expand(part.shape[0]))
            if not bool(torch.isfinite(decoded).all()):
                raise RenderError(
                    f"the model produced numbers that are not finite in {self.dtype}; "
                    "try again with LUMIPLY_PRECISION=float32"
                )
            pictures.append(to_bytes(decoded).cpu())
            if callback is not None:
                callback(sum(len(picture) for picture in pictures), latents.shape[0])
        return torch.cat(pictures)

    def relight(
        self,
        photo: Image.Image,
        colors: Sequence[str],
        *,
        seed: int,
        steps: int,
        on_stage: Callable[[Stage, int, int], None] | None = None,
    ) -> dict[str, Image.Image]:
        """One picture a colour, each of the photo's size.

        `on_stage(stage, step, steps)` is told of progress and may raise to end the render.
        """
        report = on_stage or (lambda stage, step, steps: None)
        report("prepare", 0, 1)
        prepared = self.prepare(photo, colors)
        report("prepare", 1, 1)
        latents = self.denoise(
            prepared.conditions, self.noise(seed), steps, lambda step, total: report("denoise", step, total)
        )
        levels = self.decode(latents, prepared.features, lambda step, total: report("decode", step, total))
        return {color: to_picture(level, prepared.size) for color, level in zip(colors, levels, strict=True)}
