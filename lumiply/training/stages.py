"""What each training stage learns, as Lightning modules: the autoencoder, the base model, the adaptors.

Sources: KL autoencoder, LDM (arXiv 2112.10752), section 3.1; bypass decoder, QuadPrior (arXiv 2403.12933),
section 3.4; v-prediction loss, arXiv 2202.00512; LumiNet (arXiv 2412.00177), section 3; training a one-step
render end to end, arXiv 2409.11355.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cldm import Conditions, ControlLDM
from ldm.autoencoder import DiagonalGaussian
from ldm.sampling import sample_ddim
from lumiply.synth.compose import srgb_encode
from lumiply.training.losses import mean_hue_error, picture_loss, psnr
from lumiply.training.pairs import PairBatch
from lumiply.training.stage_base import Budget, Stage
from modi_vae import BypassAutoencoder


class AutoencoderStage(Stage):
    """Encode the lit picture, decode it with the unlit photo's features, so that the latent carries the light."""

    def __init__(
        self,
        autoencoder: BypassAutoencoder,
        budget: Budget,
        *,
        learning_rate: float = 1e-3,
        kl_weight: float = 2e-3,
        scale_factor: float = 0.18215,
    ) -> None:
        """`kl_weight` is per element of the scaled latent, against a mean absolute error per pixel channel."""
        super().__init__(budget, learning_rate)
        self.autoencoder = autoencoder
        self.kl_weight, self.scale_factor = kl_weight, scale_factor

    def reconstruct(self, batch: PairBatch, sample: bool) -> tuple[Tensor, Tensor]:
        """Pictures in [-1, 1] and the KL divergence per latent element (scalar)."""
        posterior = self.autoencoder.encode(2 * batch.on - 1)
        features = self.autoencoder.bypass_features(2 * batch.off - 1)
        z = posterior.sample(torch.randn_like(posterior.mean)) if sample else posterior.mean
        scaled = DiagonalGaussian(
            posterior.mean * self.scale_factor, posterior.log_variance + 2 * math.log(self.scale_factor)
        )
        kl = scaled.kl().sum() / posterior.mean.numel()
        return self.autoencoder.decode(z, features), kl

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        picture, kl = self.reconstruct(batch, sample=True)
        error = F.l1_loss(picture, 2 * batch.on - 1)
        self.log_dict({"train/l1": error, "train/kl": kl})
        return error + self.kl_weight * kl

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        picture, _ = self.reconstruct(batch, sample=False)
        self.log("val/psnr", psnr(picture, 2 * batch.on - 1), prog_bar=True, batch_size=len(batch.off))


@torch.no_grad()
def whiten_latents(autoencoder: BypassAutoencoder, batches: Sequence[PairBatch], scale_factor: float) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions around the latent.

    Afterwards `scale_factor` times the latent has mean 0 and variance 1 in each channel, so that the published
    scale factor holds for an autoencoder of our own.
    """
    moments = [autoencoder.encode(2 * batch.on - 1) for batch in batches]
    means = torch.cat([posterior.mean for posterior in moments]).float()
    variance = means.var(dim=(0, 2, 3)) + torch.cat([p.log_variance for p in moments]).float().exp().mean(
        (0, 2, 3)
    )
    shift, gain = means.mean(dim=(0, 2, 3)), 1.0 / (scale_factor * variance.sqrt())
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    assert quant.bias is not None and post.bias is not None
    channels = len(gain)
    # latent' = gain (latent - shift); its log-variance grows by 2 log gain
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight /= gain[None, :, None, None]
    quant.weight[:channels] *= gain[:, None, None, None]
    quant.bias[:channels] = gain * (quant.bias[:channels] - shift)
    quant.bias[channels:] += 2 * gain.log()


@dataclass(frozen=True)
class Objective:
    """What a diffusion stage is trained for.

    Attributes:
        pictures: compare pictures, decoded after one sampler step from a pair's timestep, rather than v. So all that
            turns a photo into its relit picture learns from what people see (arXiv 2409.11355), the decoder included.
        last_share: share of the pairs that start from pure noise at the last timestep, as a render does; the
            others get timesteps in [0, timesteps), so that renders of many steps stay meaningful.
        compiled: let torch.compile fuse the model's evaluation.
    """

    pictures: bool = False
    last_share: float = 0.5
    compiled: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.last_share <= 1.0:
            raise ValueError(f"last_share is a share between 0 and 1, got {self.last_share}")


class DiffusionStage(Stage):
    """Lit latents or lit pictures from noise; subclasses say where the light comes from."""

    def __init__(
        self, model: ControlLDM, budget: Budget, learning_rate: float, objective: Objective | None = None
    ) -> None:
        super().__init__(budget, learning_rate)
        self.model, self.objective = model, objective or Objective()
        model.first_stage_model.requires_grad_(False)
        model.cond_stage_model.requires_grad_(False)  # one constant context: tokens can learn as much
        compiled = self.objective.compiled
        self.fast_v = torch.compile(self.predict_v, dynamic=False) if compiled else self.predict_v
        self.fast_decode = torch.compile(self.decode, dynamic=False) if compiled else self.decode
        self.fast_latents = torch.compile(self.latents, dynamic=False) if compiled else self.latents
        self.fast_light = torch.compile(model.light, dynamic=False) if compiled else model.light

    @property
    def first_stage(self) -> BypassAutoencoder:
        first_stage = self.model.first_stage_model
        assert isinstance(first_stage, BypassAutoencoder)
        return first_stage

    def light(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Codes (b, light_code) and tokens (b, light_tokens, context_dim) of the batch's pairs."""
        raise NotImplementedError

    def conditions(self, off: Tensor, code: Tensor, tokens: Tensor) -> Conditions:
        intrinsic = self.model.control_model.prior_extracter.model_latents.intrinsic(off)
        return self.model.conditions(self.model.cond_stage_model(), intrinsic, code, tokens)

    def predict_v(self, x: Tensor, t: Tensor, off: Tensor, code: Tensor, tokens: Tensor) -> Tensor:
        return self.model(x, t, self.conditions(off, code, tokens)).float()

    def decode(self, z: Tensor, off: Tensor) -> Tensor:
        """Scaled latents and photos -> pictures, both in [0, 1], the pictures not clamped."""
        features = self.first_stage.bypass_features(2 * off - 1)
        return (self.model.decode_first_stage(z, features).float() + 1) / 2

    @torch.no_grad()
    def latents(self, on: Tensor) -> Tensor:
        """Scaled latents of lit pictures, sampled from the posterior."""
        posterior = self.first_stage.encode(2 * on - 1)
        return self.model.params.scale_factor * posterior.sample(torch.randn_like(posterior.mean)).float()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        loss = self.picture_step(batch) if self.objective.pictures else self.latent_step(batch)
        self.log("train/loss", loss)
        return loss

    def latent_step(self, batch: PairBatch) -> Tensor:
        """MSE against v of the lit latents."""
        x0 = self.fast_latents(batch.on)
        noise = torch.randn_like(x0)
        x, t = self.noisy(x0, noise)
        v = self.fast_v(x, t, batch.off, *self.light(batch))
        return F.mse_loss(v, self.model.schedule.v_target(x0, noise, t))

    def picture_step(self, batch: PairBatch) -> Tensor:
        """`picture_loss` of what one sampler step makes of each pair."""
        count = len(batch.off)
        others = count - round(count * self.objective.last_share)
        x = torch.randn(count, *self.latent_shape(), device=self.device)
        t = torch.full((count,), self.model.schedule.timesteps - 1, device=self.device)
        if others:
            x0 = self.fast_latents(batch.on[:others])
            some, some_t = self.noisy(x0, x[:others], last_share=0.0)
            x, t = torch.cat([some, x[others:]]), torch.cat([some_t, t[others:]])
        v = self.fast_v(x, t, batch.off, *self.light(batch))
        picture = self.fast_decode(self.finish(x, v, t), batch.off)
        return picture_loss(picture, batch.on)

    def noisy(self, x0: Tensor, noise: Tensor, last_share: float | None = None) -> tuple[Tensor, Tensor]:
        """Noisy latents and their timesteps; `last_share` of them are nothing but noise."""
        schedule, count = self.model.schedule, len(x0)
        share = self.objective.last_share if last_share is None else last_share
        t = torch.randint(schedule.timesteps, (count,), device=x0.device)
        is_last = torch.arange(count, device=x0.device) < round(count * share)
        t = torch.where(is_last, schedule.timesteps - 1, t)
        x = torch.where(is_last.view(-1, 1, 1, 1), noise, schedule.add_noise(x0, noise, t))
        return x, t

    def finish(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """One DDIM step from t to the end, as the sampler takes its last."""
        schedule = self.model.schedule
        signal, sigma = schedule.coefficients(t)
        end_signal, end_sigma = schedule.coefficients(torch.zeros_like(t))
        return end_signal * (signal * x - sigma * v) + end_sigma * (signal * v + sigma * x)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Scores of pictures drawn by the real sampler in one step, beside those of the unlit photo.

        The hue error shows whether the colour of the light is heeded at all: PSNR rises well without it.
        """
        conditions = self.conditions(batch.off, *self.light(batch))
        noise = torch.randn(len(batch.off), *self.latent_shape(), device=self.device)
        z = sample_ddim(lambda x, t: self.model(x, t, conditions), noise, self.model.schedule, 1)
        picture, truth = 2 * self.decode(z, batch.off) - 1, 2 * batch.on - 1
        scores = {
            "val/psnr": psnr(picture, truth),
            "val/psnr_of_input": psnr(2 * batch.off - 1, truth),
            "val/hue_error": mean_hue_error(picture, batch),
        }
        self.log_dict(scores, prog_bar=True, batch_size=len(batch.off))

    def latent_shape(self) -> tuple[int, int, int]:
        params = self.model.params
        return params.channels, params.image_size, params.image_size


class BaseStage(DiffusionStage):
    """Everything but the text tower and the latent's encoder learns.

    The light comes from a flat picture of the lamp's colour, so white light has the white reference that inference
    uses, and any other colour has a code as well. The bypass decoder learns only where pictures are compared.
    """

    def __init__(
        self,
        model: ControlLDM,
        budget: Budget,
        *,
        learning_rate: float = 6e-4,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(model, budget, learning_rate, objective)
        if self.objective.pictures:
            self.first_stage.decoder.requires_grad_(True)
            self.first_stage.post_quant_conv.requires_grad_(True)

    def light(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        light = self.fast_light if self.training else self.model.light
        code, tokens = light(flat_references(batch.colors, self.model.params.picture_size))
        return code[batch.which], tokens[batch.which]


def flat_references(colors: Tensor, size: int) -> Tensor:
    """(k, 3) linear RGB -> (k, 3, size, size) flat pictures in [0, 1]; white gives white."""
    return srgb_encode(colors)[:, :, None, None].expand(-1, -1, size, size).contiguous()


class AdaptorStage(DiffusionStage):
    """One light encoder and one light decoder a colour learn; the reference is white; the model is frozen."""

    def __init__(
        self,
        model: ControlLDM,
        colors: Tensor,
        budget: Budget,
        *,
        learning_rate: float = 3e-4,
        objective: Objective | None = None,
    ) -> None:
        """`colors` (k, 3) linear RGB: batches must come in these colours, in this order."""
        super().__init__(model, budget, learning_rate, objective)
        model.requires_grad_(False)
        prior = model.control_model.prior_extracter
        count = len(colors)
        self.colors = colors
        self.encoders = nn.ModuleList(copy.deepcopy(prior.model_latents.light_encoder) for _ in range(count))
        self.decoders = nn.ModuleList(copy.deepcopy(prior.light_decoder) for _ in range(count))
        self.encoders.requires_grad_(True)
        self.decoders.requires_grad_(True)
        self.pooled: Tensor | None = None

    def white(self) -> Tensor:
        """(1, widths[-1]) pooled features of the white reference, computed once: what they come from is frozen."""
        if self.pooled is None:
            size = self.model.params.picture_size
            with torch.no_grad():
                reference = torch.ones(1, 3, size, size, device=self.device)
                self.pooled = self.model.control_model.prior_extracter.model_latents.pooled(reference).float()
        return self.pooled

    def palette(self) -> tuple[Tensor, Tensor]:
        """Codes (k, light_code) and tokens (k, light_tokens, context_dim) of the colours as they are now."""
        prior, pooled = self.model.control_model.prior_extracter, self.white()
        codes, tokens = [], []
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            code = prior.model_latents.head(pooled, dict(encoder.named_parameters()))
            codes.append(code)
            tokens.append(prior.tokens(code, dict(decoder.named_parameters())))
        return torch.cat(codes), torch.cat(tokens)

    def light(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        codes, tokens = self.palette()
        return codes[batch.which], tokens[batch.which]

    def imitate_base(self, steps: int, learning_rate: float = 2e-3) -> float:
        """Start each adaptor at what the base model makes of a flat reference of its colour; return the last loss."""
        with torch.no_grad():
            codes, tokens = self.model.light(flat_references(self.colors, self.model.params.picture_size))
        optimizer = torch.optim.Adam(self.trained().values(), lr=learning_rate)
        loss = codes.new_zeros(())
        for _ in range(steps):
            own_codes, own_tokens = self.palette()
            loss = F.mse_loss(own_codes, codes) + F.mse_loss(own_tokens, tokens)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return float(loss.detach())
