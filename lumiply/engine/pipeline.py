"""Prepare, denoise, decode: three pure steps over one loaded model (DESIGN.md, rule 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from cldm import ControlLDM, StepConditions, StepNetwork
from ldm.layers import Upsample
from ldm.sampling import SAMPLERS, StepCallback, sample
from lumiply.engine.clock import timed
from lumiply.engine.compiling import Function, relative_error
from lumiply.engine.float8 import largest_inputs, sharing, use_float8, uses_float8, wide
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pixels import bypass_picture, hint_of, hint_pixels, to_picture
from lumiply.engine.protocol import Stage
from lumiply.engine.replay import Replayed
from lumiply.engine.stages import HintStage, PictureStage
from lumiply.engine.stepper import Capture, Stepper
from lumiply.engine.threads import usable_cpus
from lumiply.engine.transfer import Decoded, ready_for, sent
from lumiply.engine.upload import place
from lumiply.errors import UserError
from lumiply.weights import Adaptor
from modi_vae import BypassAutoencoder, MergedFeatures

log = logging.getLogger(__name__)

#: Channels of pictures that are resized at once: two pictures'.
CHANNEL_THREADS: Final = 6
#: Timesteps at which float8 products are tried.
FLOAT8_SEEN: Final = 6
#: How far float8 may take a step from what it was (relative error). With the full model, filled by name, steps with
#: errors of 0.013, 0.029 and 0.062 left 51.6, 47.1 and 38.9 dB of pictures of 50 steps; the aim is 45. It keeps out
#: what would do great harm, and tells no finer.
FLOAT8_ERROR: Final = 0.031


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
        float8: whether the step's wide transformers are computed in float8.
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
        float8: bool = False,
    ) -> None:
        """Take over `model` (with the bypass first stage); it must not be used elsewhere afterwards.

        Palette and text context are computed in float32, and what made them is not moved to the device's memory
        for longer than that takes; where `Constants` are given, it is not needed at all.

        Args:
            decode_dtype: precision of the first stage, if it is another.
            float8: whether the step's wide transformers are computed in float8, if that leaves it what it was.

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
            with timed("what colours and prompt say"):
                adaptors = Constants.of(model, adaptors, self.device)
        with timed("placing the weights"):
            self._place(model)
        self._network = model
        self.hint_stage = HintStage(model.control_model)
        self.picture_stage = PictureStage(model.first_stage_model)
        self.float8 = False
        self._compiled: dict[tuple[str, int], Function] = {}  # stages, by name and batch size
        self._capture: Capture | None = None
        # beside a GPU processors are free, and a request waits for its photo's resizing and for its last picture's
        spare = self.device.type == "cuda" and usable_cpus() > CHANNEL_THREADS
        self._channels = ThreadPoolExecutor(CHANNEL_THREADS, "lumiply-channel") if spare else None
        with torch.inference_mode(), timed("what is computed once"):
            self.network = StepNetwork(model)
            self._read(adaptors)
        if float8:
            with timed("float8"):
                self.float8 = self._try_float8()
        self.stepper = Stepper(self.network)

    def _place(self, model: ControlLDM) -> None:
        """Move what renders to the device, channels last; let go of what is known by now."""
        prior = model.control_model.prior_extracter
        for done_with in (model.cond_stage_model, prior.light_decoder, prior.model_latents.light_encoder):
            done_with.to("meta")  # their numbers live on in the palette and in the text context
        control = [part for name, part in model.control_model.named_children() if name != "prior_extracter"]
        parts: list[tuple[torch.nn.Module, torch.dtype | None]] = [
            (part, self.dtype) for part in (model.model, *control, prior.model_latents.enc)
        ]
        place([*parts, (model.first_stage_model, self.decode_dtype)], self.device)
        for layer in (
            layer for part in (model.first_stage_model.decoder, model.model) for layer in part.modules()
        ):
            if isinstance(layer, Upsample):
                layer.pack()
                layer.conv.weight = torch.nn.Parameter(layer.conv.weight.to("meta"), requires_grad=False)

    def _read(self, constants: Constants) -> None:
        """Take the palette, and the keys and values of every colour in it; all of it, or, if that fails, nothing."""
        codes, tokens = (
            part.to(self.device, torch.float32)
            for part in (constants.palette.codes, constants.palette.tokens)
        )
        names = constants.palette.names
        text = constants.text.to(self.device, self.dtype).expand(len(names), -1, -1)
        context = torch.cat([text, tokens.to(self.dtype)], dim=1)
        # one by one, so that a colour's numbers do not depend on which others are loaded
        keys_values = torch.cat([self.network.keys_values(one) for one in context.split(1)])
        self._constants, self.palette, self.keys_values = (
            constants,
            Palette(names, codes, tokens),
            keys_values,
        )

    def _try_float8(self) -> bool:
        """`use_float8`; that it fails keeps no one from rendering without."""
        try:
            return self.use_float8()
        except torch.OutOfMemoryError as error:
            if uses_float8(self.network):  # in part
                raise
            log.warning("no memory to try float8 products, which are not used: %s", error)
            return False
        except Exception:
            log.exception("float8 products cannot be computed here, and are not used")
            return False

    @torch.inference_mode()
    def use_float8(self, limit: float = FLOAT8_ERROR) -> bool:
        """Compute the step's wide transformers in float8, if that leaves the step what it was; whether it does.

        Not while a step is used. Scales of inputs are chosen on steps from noise, at timesteps from first to last.

        Args:
            limit: the largest relative error of such a step that is allowed.
        """
        conditions = self.conditions(Image.radial_gradient("L").convert("RGB"), self.palette.names[:1])
        times = torch.linspace(self.schedule.timesteps - 1, 1, FLOAT8_SEEN).long()
        x = torch.cat([self.noise(seed) for seed in range(FLOAT8_SEEN)])
        hint, keys_values = (
            part.expand(FLOAT8_SEEN, *part.shape[1:])
            for part in (conditions.hint_features, conditions.keys_values)
        )
        inputs = sent(x, self.device), sent(times, self.device), hint, keys_values
        largest = largest_inputs(self.network, [inputs])
        coarse = sharing(self.network)
        use_float8(coarse, wide(coarse), largest)
        error = relative_error(coarse(*inputs), self.network(*inputs))
        if not error < limit:  # nor when it is no number
            log.warning(
                "float8 would change a step by %.3g, not less than %.3g, and is not used", error, limit
            )
            return False
        del coarse
        count = use_float8(self.network, wide(self.network), largest)
        log.info("%d products of a step are computed in float8, which changes it by %.3g", count, error)
        return count > 0

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

    def hint_input(self, photo: Image.Image) -> Tensor:
        """What `conditions` can take instead of a photo of any size, on the CPU; needs no GPU."""
        return ready_for(hint_pixels(photo, self.picture_size, self._channels), self.device)

    @torch.inference_mode()
    def conditions(self, photo: Image.Image | Tensor, colors: Sequence[str]) -> StepConditions:
        """What denoising takes, for an RGB photo of any size, or its `hint_input`, in k colours.

        Raises:
            UserError: the palette lacks a colour.
        """
        chosen = self.palette.index(colors)
        hint = photo if isinstance(photo, Tensor) else self.hint_input(photo)
        hint = hint_of(sent(hint, self.device)).to(self.dtype).contiguous(memory_format=torch.channels_last)
        codes = self.palette.codes[chosen].to(self.dtype)
        features = self._run(("hint", len(codes)), self.hint_stage, hint, codes)
        features = features.contiguous(memory_format=torch.channels_last)
        return StepConditions(features, self.keys_values[chosen])

    def bypass_input(self, photo: Image.Image) -> Tensor:
        """What `features` can take instead of a photo of any size, (1, 3, H, W) on the CPU; needs no GPU."""
        return ready_for(bypass_picture(photo, self.picture_size), self.device)

    @torch.inference_mode()
    def features(self, photo: Image.Image | Tensor) -> MergedFeatures:
        """What decoding takes, for an RGB photo of any size, or for its `bypass_input`."""
        picture = photo if isinstance(photo, Tensor) else self.bypass_input(photo)
        picture = sent(picture, self.device).to(self.decode_dtype)
        picture = picture.contiguous(memory_format=torch.channels_last)
        levels = self._run(("features", len(picture)), self.picture_stage.features, picture)
        return MergedFeatures(picture, tuple(levels))

    @torch.inference_mode()
    def encode(self, picture: Image.Image) -> Tensor:
        """The scaled latent (1, channels, h, w), float32, of an RGB picture of any size: what `denoise` aims at."""
        posterior = self.picture_stage.first_stage.encode(
            sent(self.bypass_input(picture), self.device).to(self.decode_dtype)
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
        x = sent(noise, self.device).expand(conditions.batch, -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        return sample(
            SAMPLERS[sampler], lambda x, t: self.stepper(x, t, conditions), x, self.schedule, steps, callback
        )

    def decode(
        self, latents: Tensor, features: MergedFeatures, callback: StepCallback | None = None
    ) -> Tensor:
        """Scaled latents (k, channels, h, w) of one photo -> (k, H, W, 3) uint8 on the CPU.

        Raises:
            RenderError: the latents or the pictures hold numbers that are not finite.
        """
        decoding: Iterable[Decoded] = self.decoding(latents, features)
        if self.device.type == "cuda":  # which all are launched before the first is waited for
            decoding = list(decoding)
        levels = []
        for number, decoded in enumerate(decoding, 1):
            levels.append(decoded.wait())
            if callback is not None:
                callback(number, latents.shape[0])
        return torch.stack(levels)

    @torch.inference_mode()
    def decoding(self, latents: Tensor, features: MergedFeatures) -> Iterator[Decoded]:
        """As `decode`, picture by picture; on a GPU each is launched and not waited for.

        One at a time, since one fills a processor, and more take more memory.
        """
        features = features.expand(1)
        for latent in latents.split(1):
            yield Decoded.of(self._decode(latent, features))

    @torch.inference_mode()
    def _decode(self, latents: Tensor, features: MergedFeatures) -> Tensor:
        z = (latents / self.params.scale_factor).to(self.decode_dtype)
        z = z.contiguous(memory_format=torch.channels_last)
        inputs = z, features.image, list(features.levels)
        decoded: Tensor = self._run(("decoder", len(z)), self.picture_stage.decode, *inputs)
        return decoded

    def capture_with(self, make: Callable[[], Capture]) -> None:
        """From now on, replay steps and what computes the hint, once compiled, from captured graphs.

        `make` makes what captures them, each with memory of its own.
        """
        self.stepper.capture_with(make())
        self._capture = make()

    def picture(self, levels: Tensor, size: tuple[int, int]) -> Image.Image:
        """One decoded picture (H, W, 3) uint8 on the CPU at `size` (width, height). May be called from any thread."""
        return to_picture(levels, size, self._channels)

    def use(self, stage: tuple[str, int], function: Function) -> None:
        """From now on, compute the stage of that name and batch size by `function`. May be called from any thread."""
        if stage[0] == "hint" and self._capture is not None:  # a render waits for it before its first step
            function = Replayed(function, self._capture)
        self._compiled[stage] = function

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
        return {
            color: self.picture(level, prepared.size) for color, level in zip(colors, levels, strict=True)
        }
