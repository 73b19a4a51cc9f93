"""Prepare, denoise, decode: three pure steps over one loaded model (DESIGN.md, rule 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cldm import ControlLDM, StepConditions, StepNetwork
from ldm.layers import Upsample
from ldm.sampling import SAMPLERS, StepCallback, sample
from lumiply.engine.compiling import Function, Part, Task
from lumiply.engine.memory import BatchLimit
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pixels import bypass_picture, hint_picture, to_bytes, to_picture
from lumiply.engine.protocol import Stage
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stages import HintStage, PictureStage
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
        self._place(model)
        self._network = model
        self._hint_stage = HintStage(model.control_model)
        self._picture_stage = PictureStage(model.first_stage_model)
        with torch.inference_mode():
            self.network = StepNetwork(model)
            self._read(adaptors)
        self.stepper = Stepper(self.network)
        self._compiled: dict[tuple[str, int], Function] = {}  # stages, by name and batch size
        self._decode_limit = BatchLimit(1, "decoding")  # one fills a processor, and keeps memory low

    def _place(self, model: ControlLDM) -> None:
        """Move what renders to the device, channels last; let go of what is known by now."""
        prior = model.control_model.prior_extracter
        for done_with in (model.cond_stage_model, prior.light_decoder, prior.model_latents.light_encoder):
            done_with.to("meta")  # their numbers live on in the palette and in the text context
        control = [part for name, part in model.control_model.named_children() if name != "prior_extracter"]
        parts: list[tuple[torch.nn.Module, torch.dtype]] = [
            (part, self.dtype) for part in (model.model, *control, prior.model_latents.enc)
        ]
        for part, dtype in (*parts, (model.first_stage_model, self.decode_dtype)):
            part.to(self.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        doubling: list[torch.nn.Module] = [model.first_stage_model.decoder]
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
        hint = hint.contiguous(memory_format=torch.channels_last)
        codes = self.palette.codes[chosen].to(self.dtype)
        features = self._run(("hint", len(codes)), self._hint_stage, hint, codes)
        features = features.contiguous(memory_format=torch.channels_last)
        return StepConditions(features, self._keys_values[chosen])

    def bypass_input(self, photo: Image.Image) -> Tensor:
        """What `features` can take instead of a photo of any size, (1, 3, H, W) on the CPU; needs no GPU."""
        return bypass_picture(photo, self.picture_size)

    @torch.inference_mode()
    def features(self, photo: Image.Image | Tensor) -> MergedFeatures:
        """What decoding takes, for an RGB photo of any size, or for its `bypass_input`."""
        picture = photo if isinstance(photo, Tensor) else self.bypass_input(photo)
        picture = picture.to(self.device, self.decode_dtype)
        picture = picture.contiguous(memory_format=torch.channels_last)
        levels = self._run(("features", len(picture)), self._picture_stage.features, picture)
        return MergedFeatures(picture, tuple(levels))

    @torch.inference_mode()
    def encode(self, picture: Image.Image) -> Tensor:
        """The scaled latent (1, channels, h, w), float32, of an RGB picture of any size: what `denoise` aims at."""
        posterior = self._picture_stage.first_stage.encode(
            self.bypass_input(picture).to(self.device, self.decode_dtype)
        )
        return self.params.scale_factor * posterior.mean.float()

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
        on_picture: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Scaled latents (k, channels, h, w) of one photo -> (k, H, W, 3) uint8 on the CPU.

        Args:
            on_picture: takes each picture, (H, W, 3), in order, while the next is decoded.

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
            if on_picture is not None:
                for picture in levels:
                    on_picture(picture)
            if callback is not None:
                callback(stop, latents.shape[0])
            return levels

        return torch.cat(self._decode_limit.run(part, latents.shape[0]))

    def _decode(self, latents: Tensor, features: MergedFeatures) -> Tensor:
        z = (latents / self.params.scale_factor).to(self.decode_dtype)
        z = z.contiguous(memory_format=torch.channels_last)
        inputs = z, features.image, list(features.levels)
        decoded: Tensor = self._run(("decoder", len(z)), self._picture_stage.decode, *inputs)
        return decoded

    def _run(self, key: tuple[str, int], plain: Function, *inputs: Any) -> Any:
        """The compiled form of a stage at a batch size, or, without one or if it fails, the plain one."""
        compiled = self._compiled.get(key)
        if compiled is not None:
            try:
                return compiled(*inputs)
            except torch.OutOfMemoryError:
                raise
            except Exception:
                log.exception("the compiled %s of %d failed and is not used any more", *key)
                del self._compiled[key]
        return plain(*inputs)

    def compile_tasks(self, sizes: Sequence[int]) -> list[Task]:
        """What is worth compiling, the most important first: the step at each batch size, and the other stages."""
        steps = [self._step_task(size) for size in sizes]
        hints = [self._hint_task(size) for size in sizes[:2]]
        return [*steps[:1], self._decoder_task(), *hints[:1], self._features_task(), *hints[1:], *steps[1:]]

    def _noise_like(self, batch: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
        side = self.params.image_size
        noise = torch.randn(batch, channels, side, side, device=self.device, dtype=dtype)
        return noise.contiguous(memory_format=torch.channels_last)

    def _step_task(self, size: int, network: StepNetwork | None = None) -> Task:
        """Of another network if one is given; ControlNet and UNet apart: a GPU runs them on streams of their own."""
        network, params = network or self.network, self.params

        def inputs() -> tuple[Tensor, ...]:
            return (
                self._noise_like(size, params.channels),
                torch.full((size,), self.schedule.timesteps // 2, device=self.device),
                self._noise_like(size, params.unet.model_channels, self.dtype),
                self._keys_values[:1].expand(size, -1, -1).contiguous(),
            )

        def correct(given: tuple[Tensor, ...]) -> Part:
            return Part(network, "correct", given)

        def encode(given: tuple[Tensor, ...]) -> Part:
            x, t, _, keys_values = given
            return Part(network, "encode", (x, t, keys_values))

        def decode(given: tuple[Tensor, ...]) -> Part:
            return Part(network, "decode", (encode(given), correct(given), given[1], given[3]))

        def assemble(functions: Sequence[Function]) -> Function:
            stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            return SideBySide(*functions, stream=stream)

        return Task(
            f"the step of {size} pictures",
            inputs,
            (correct, encode, decode),
            assemble,
            network,
            lambda quick: self.stepper.use(size, quick),
        )

    def _hint_task(self, colors: int) -> Task:
        def inputs() -> tuple[Tensor, ...]:
            hint = hint_picture(self._example_photo(), self.picture_size).to(self.device, self.dtype)
            hint = hint.contiguous(memory_format=torch.channels_last)
            return hint, self.palette.codes[:1].to(self.dtype).expand(colors, -1).contiguous()

        return self._stage_task(
            f"the hint of {colors} colours", self._hint_stage, "forward", inputs, ("hint", colors)
        )

    def _features_task(self) -> Task:
        def inputs() -> tuple[Tensor, ...]:
            picture = bypass_picture(self._example_photo(), self.picture_size)
            picture = picture.to(self.device, self.decode_dtype)
            return (picture.contiguous(memory_format=torch.channels_last),)

        return self._stage_task(
            "the photo's features", self._picture_stage, "features", inputs, ("features", 1)
        )

    def _decoder_task(self) -> Task:
        def inputs() -> tuple[Any, ...]:
            features = self.features(self._example_photo())
            z = self._noise_like(1, self.params.channels, self.decode_dtype)
            return z, features.image, list(features.levels)

        return self._stage_task("the decoder", self._picture_stage, "decode", inputs, ("decoder", 1))

    def _example_photo(self) -> Image.Image:
        """Noise: a stage that is compiled is compared on it."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.picture_size, self.picture_size, 3)
        return Image.fromarray(torch.randint(256, shape, generator=generator, dtype=torch.uint8).numpy())

    def _stage_task(
        self,
        name: str,
        network: torch.nn.Module,
        method: str,
        inputs: Callable[[], tuple[Any, ...]],
        key: tuple[str, int],
    ) -> Task:
        def install(quick: Function) -> None:
            self._compiled[key] = quick

        return Task(
            name,
            inputs,
            (lambda given: Part(network, method, given),),
            lambda functions: functions[0],
            getattr(network, method),
            install,
        )

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
