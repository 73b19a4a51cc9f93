"""Prepare, denoise, decode: three pure steps over one loaded model (DESIGN.md, rule 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from cldm import ControlLDM, StepConditions, StepNetwork
from ldm.layers import Upsample
from ldm.sampling import SAMPLERS, StepCallback, sample
from lumiply.engine.compiling import Compile, Task
from lumiply.engine.memory import BatchLimit
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pixels import bypass_picture, hint_picture, to_bytes, to_picture
from lumiply.engine.protocol import Stage
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stepper import Stepper
from lumiply.errors import RenderError, UserError
from lumiply.weights import Adaptor
from modi_vae import BypassAutoencoder, MergedFeatures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """All that does not change from step to step, for one photo in k colours.

    Attributes:
        conditions: of batch k.
        features: of the photo, batch 1.
        size: (width, height) of the photo, in pixels.
    """

    conditions: StepConditions
    features: MergedFeatures
    size: tuple[int, int]


class Pipeline:
    """A loaded model, its palette and its text context. It has no state that a request could change.

    Attributes:
        device, dtype: where and in which precision the networks run.
        decode_dtype: precision of the first stage.
        picture_size: pixels on a side at which the model works.
        network: the denoiser as it stands.
        stepper: what evaluates it; may get compiled forms while it works.
    """

    def __init__(
        self,
        model: ControlLDM,
        adaptors: Mapping[str, Adaptor] | Constants,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        decode_dtype: torch.dtype | None = None,
    ) -> None:
        """Take over `model` (with the bypass first stage); it must not be used elsewhere afterwards.

        Palette and text context are computed in float32, and what made them is not moved to the device's memory
        for longer than that takes; where `Constants` are given, it is not needed at all.

        Raises:
            TypeError: the model's first stage is not the bypass autoencoder.
        """
        if not isinstance(model.first_stage_model, BypassAutoencoder):
            raise TypeError(
                "the pipeline needs the bypass first stage; call use_bypass_first_stage() and load it"
            )
        self.device, self.dtype = torch.device(device), dtype
        self.decode_dtype = decode_dtype or dtype
        self.picture_size = model.params.picture_size
        self.params, self.schedule = model.params, model.schedule
        model.eval().requires_grad_(False)
        if not isinstance(adaptors, Constants):
            adaptors = Constants.of(model, adaptors, self.device)
        self._prior = model.control_model.prior_extracter.model_latents
        self._first_stage = model.first_stage_model
        self._place(model)
        self._network = model
        with torch.inference_mode():
            self.network = StepNetwork(model)
            self._read(adaptors)
        self.stepper = Stepper(self.network)
        self._decoders: dict[int, Callable[..., Tensor]] = {}
        self._decode_limit = BatchLimit(1, "decoding")  # one fills a processor, and keeps memory low

    def _place(self, model: ControlLDM) -> None:
        """Move what renders to the device, channels last; let go of what is known by now."""
        prior = model.control_model.prior_extracter
        for done_with in (model.cond_stage_model, prior.light_decoder, self._prior.light_encoder):
            done_with.to("meta")  # their numbers live on in the palette and in the text context
        control = [part for name, part in model.control_model.named_children() if name != "prior_extracter"]
        parts: list[tuple[torch.nn.Module, torch.dtype]] = [
            (part, self.dtype) for part in (model.model, *control, self._prior.enc)
        ]
        for part, dtype in (*parts, (self._first_stage, self.decode_dtype)):
            part.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        doubling: list[torch.nn.Module] = [self._first_stage.decoder]
        if self.device.type == "cpu":  # where it was measured to be quicker in the UNet too
            doubling.append(model.model)
        for layer in (layer for part in doubling for layer in part.modules()):
            if isinstance(layer, Upsample):
                layer.pack()

    def _read(self, constants: Constants) -> None:
        """Take the palette, and the keys and values of every colour in it."""
        self._constants = constants
        palette = constants.palette
        self.palette = Palette(
            palette.names,
            palette.codes.to(self.device, torch.float32),
            palette.tokens.to(self.device, torch.float32),
        )
        text = constants.text.to(self.device, self.dtype).expand(len(palette.names), -1, -1)
        context = torch.cat([text, self.palette.tokens.to(self.dtype)], dim=1)
        # one by one, so that a colour's numbers do not depend on which others are loaded
        self._keys_values = torch.cat([self.network.keys_values(one) for one in context.split(1)])

    @torch.inference_mode()
    def use_adaptors(self, adaptors: Mapping[str, Adaptor]) -> None:
        """Put a palette of these adaptors in the place of the one there is. Not while a render prepares.

        Raises:
            UserError: the palette was stored ready-made, without what would make another.
        """
        builder = self._constants.builder
        if builder is None:
            raise UserError(
                "converted weights hold their colours ready-made; convert them again and start again"
            )
        self._read(replace(self._constants, palette=builder.build(adaptors)))

    @torch.inference_mode()
    def conditions(self, photo: Image.Image, colors: Sequence[str]) -> StepConditions:
        """What denoising takes, for an RGB photo of any size in k colours.

        Raises:
            UserError: the palette lacks a colour.
        """
        chosen = self.palette.index(colors)
        hint = hint_picture(photo, self.picture_size).to(self.device, self.dtype)
        intrinsic = self._prior.intrinsic(hint.contiguous(memory_format=torch.channels_last))
        features = self._network.control_model.hint_features(
            intrinsic.expand(len(colors), -1, -1, -1), self.palette.codes[chosen].to(self.dtype)
        )
        features = features.contiguous(memory_format=torch.channels_last)
        return StepConditions(features, self._keys_values[chosen])

    @torch.inference_mode()
    def features(self, photo: Image.Image) -> MergedFeatures:
        """What decoding takes, for an RGB photo of any size."""
        picture = bypass_picture(photo, self.picture_size).to(self.device, self.decode_dtype)
        features = self._first_stage.bypass_features(picture.contiguous(memory_format=torch.channels_last))
        return self._first_stage.merge(features)

    def prepare(self, photo: Image.Image, colors: Sequence[str]) -> Prepared:
        """Everything that the photo and the colours decide, for an RGB photo of any size.

        Raises:
            UserError: the palette lacks a colour.
        """
        return Prepared(self.conditions(photo, colors), self.features(photo), photo.size)

    def noise(self, seed: int) -> Tensor:
        """(1, channels, h, w) standard normal noise of a request, from its own generator on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        size = self.params.image_size
        return torch.randn(1, self.params.channels, size, size, generator=generator)

    @torch.inference_mode()
    def denoise(
        self,
        conditions: StepConditions,
        noise: Tensor,
        steps: int,
        callback: StepCallback | None = None,
        *,
        sampler: str = "ddim",
    ) -> Tensor:
        """Noise (k, channels, h, w), or (1, ...) for all alike -> scaled latents (k, channels, h, w) float32."""
        x = noise.to(self.device).expand(conditions.batch, -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        return sample(
            SAMPLERS[sampler], lambda x, t: self.stepper(x, t, conditions), x, self.schedule, steps, callback
        )

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        features: MergedFeatures,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Scaled latents (k, channels, h, w) of one photo -> (k, H, W, 3) uint8 on the CPU.

        Raises:
            RenderError: the latents or the pictures hold numbers that are not finite.
        """

        def part(start: int, stop: int) -> Tensor:
            decoded = self._decode(latents[start:stop], features.expand(stop - start))
            if not bool(torch.isfinite(decoded).all()):
                raise RenderError(
                    f"the model produced numbers that are not finite in {self.dtype}; "
                    "try again with LUMIPLY_PRECISION=float32"
                )
            levels = to_bytes(decoded).cpu()
            if callback is not None:
                callback(stop, latents.shape[0])
            return levels

        return torch.cat(self._decode_limit.run(part, latents.shape[0]))

    def _decode(self, latents: Tensor, features: MergedFeatures) -> Tensor:
        z = (latents / self.params.scale_factor).to(self.decode_dtype)
        z = z.contiguous(memory_format=torch.channels_last)
        inputs = (z, features.image, *features.levels)
        compiled = self._decoders.get(len(z))
        if compiled is not None:
            try:
                return compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                log.exception("the compiled decoder failed and is not used any more")
                del self._decoders[len(z)]
        return self._decode_plainly(*inputs)

    def compile_tasks(self, sizes: Sequence[int], *, side_by_side: bool = False) -> list[Task]:
        """What is worth compiling: the step at each batch size, and the decoder, after the first of them.

        Args:
            side_by_side: compile ControlNet and UNet apart, so that they run on streams of their own on a GPU.
        """
        params, device = self.params, self.device

        def channels_last(size: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
            shape = (size, channels, params.image_size, params.image_size)
            return torch.zeros(shape, device=device, dtype=dtype).contiguous(
                memory_format=torch.channels_last
            )

        def step_inputs(size: int) -> tuple[Tensor, ...]:
            return (
                channels_last(size, params.channels),
                torch.zeros(size, dtype=torch.long, device=device),
                channels_last(size, params.unet.model_channels, self.dtype),
                self._keys_values[:1].expand(size, -1, -1).contiguous(),
            )

        def decoder_inputs() -> tuple[Tensor, ...]:
            features = self.features(Image.new("RGB", (self.picture_size, self.picture_size)))
            return channels_last(1, params.channels, self.decode_dtype), features.image, *features.levels

        def build_step(compile: Compile) -> Callable[..., Tensor]:
            if not side_by_side:
                return compile(self.network)
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            return SideBySide(self.network, compile, stream=stream)

        def step_task(size: int) -> Task:
            return Task(
                f"the step of {size} pictures",
                build_step,
                lambda: step_inputs(size),
                lambda compiled: self.stepper.use(size, compiled),
            )

        def install_decoder(compiled: Callable[..., Tensor]) -> None:
            self._decoders[1] = compiled

        def build_decoder(compile: Compile) -> Callable[..., Tensor]:
            return compile(self._decode_plainly)

        decoder = Task("the decoder", build_decoder, decoder_inputs, install_decoder)
        steps = [step_task(size) for size in sizes]
        return [*steps[:1], decoder, *steps[1:]]

    def _decode_plainly(self, z: Tensor, image: Tensor, *levels: Tensor) -> Tensor:
        return self._first_stage.decode(z, MergedFeatures(image, levels))

    def relight(
        self,
        photo: Image.Image,
        colors: Sequence[str],
        *,
        seed: int,
        steps: int,
        sampler: str = "ddim",
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
            prepared.conditions,
            self.noise(seed),
            steps,
            lambda step, total: report("denoise", step, total),
            sampler=sampler,
        )
        levels = self.decode(latents, prepared.features, lambda step, total: report("decode", step, total))
        return {color: to_picture(level, prepared.size) for color, level in zip(colors, levels, strict=True)}
