"""Fine-tuning on photo pairs: the v-prediction loss, validation, and all that a run needs to go on exactly.

Everything random that a step uses (timesteps, noise, the sample of the posterior) is drawn on the CPU from the seed,
the epoch and the number of the batch. Subclasses say what learns and where the light comes from.

Sources: v-prediction, arXiv 2202.00512, appendix D; LumiNet (arXiv 2412.00177), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cldm import Conditions, ControlLDM
from ldm.sampling import sample_ddim
from lumiply.engine.pixels import to_bytes, to_picture
from lumiply.errors import WeightsError
from lumiply.training.history import History
from lumiply.training.photos import PhotoSample
from lumiply.training.random_state import random_state, restore_random_state
from lumiply.training.recompute import set_recompute
from modi_vae import BypassAutoencoder

#: Timesteps at which each validation pair is scored; which ones they are is the same in every epoch.
VALIDATION_TIMESTEPS: Final = 4
#: Decoupled weight decay of AdamW (arXiv 1711.05101): torch's default.
WEIGHT_DECAY: Final = 0.01
#: What the noise of a batch is for, so that training and validation never share any.
_TRAIN, _VALIDATION, _PICTURE = range(3)


class FineTuning(pl.LightningModule):
    """The loss of one model on photo pairs. Only the tensors of `trained()` learn; all else stays as loaded.

    Notation: b batch, h and w latent pixels, H and W picture pixels.
    """

    text: Tensor

    def __init__(self, model: ControlLDM, *, learning_rate: float, seed: int, recompute: bool) -> None:
        """Take over `model` (float32, on the CPU); its text tower is dropped once its context is known.

        Args:
            recompute: compute activations again in the backward pass in place of keeping them.
        """
        super().__init__()
        self.model, self.learning_rate, self.seed = model, learning_rate, seed
        self.history = History()
        self.strict_loading = False  # a checkpoint holds what was trained, nothing else
        self._losses: list[Tensor] = []  # of the batches since the last optimiser step
        self._restored: Mapping[str, Any] | None = None
        with torch.no_grad():
            self.register_buffer("text", model.cond_stage_model(), persistent=False)
        del model.cond_stage_model
        model.eval().requires_grad_(False)  # no dropout: frozen layers must give what inference gives
        set_recompute(model, recompute)

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, under the names of this module's state dict."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def light(self, color: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (b, light_code) and tokens (b, light_tokens, context_dim) of lamp colours (b,)."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.trained().values(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY)

    # The loss

    def conditions(self, batch: PhotoSample) -> Conditions:
        with torch.no_grad():
            intrinsic = self.model.control_model.prior_extracter.model_latents.intrinsic(batch.off)
        code, tokens = self.light(batch.color)
        return self.model.conditions(self.text, intrinsic, code, tokens)

    @torch.no_grad()
    def latents(self, batch: PhotoSample, noise: Tensor) -> Tensor:
        """Scaled latents (b, 4, h, w) of the lit pictures, in float32 whatever the precision of training."""
        with torch.autocast(self.device.type, enabled=False):
            posterior = self.model.first_stage_model.encode(batch.target.float())
            return self.model.params.scale_factor * posterior.sample(noise)

    def loss(self, x0: Tensor, noise: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Mean squared error of the predicted v: scalar."""
        schedule = self.model.schedule
        v = self.model(schedule.add_noise(x0, noise, t), t, conditions)
        return F.mse_loss(v.float(), schedule.v_target(x0, noise, t))

    def training_step(self, batch: PhotoSample, batch_idx: int) -> Tensor:
        draw = self.generator(_TRAIN, self.current_epoch, batch_idx)
        x0 = self.latents(batch, self.normal(draw, len(batch.off)))
        t = torch.randint(self.model.schedule.timesteps, (len(x0),), generator=draw).to(self.device)
        loss = self.loss(x0, self.normal(draw, len(x0)), t, self.conditions(batch))
        self._losses.append(loss.detach())
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(x0))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the loss once an optimiser step is complete, which may take several batches."""
        step = self.trainer.global_step
        if step > (self.history.train[-1][1] if self.history.train else 0):
            mean = float(torch.stack(self._losses).mean())
            self.history.train.append((self.current_epoch + 1, step, mean))
            self._losses.clear()

    # Validation

    def validation_step(self, batch: PhotoSample, batch_idx: int) -> None:
        """The loss at timesteps that are spread over the schedule, with the same noise in every epoch."""
        draw = self.generator(_VALIDATION, 0, batch_idx)
        x0 = self.latents(batch, self.normal(draw, len(batch.off)))
        conditions = self.conditions(batch)
        losses = []
        for part in range(VALIDATION_TIMESTEPS):
            spread = (part + torch.rand(len(x0), generator=draw)) / VALIDATION_TIMESTEPS
            t = (spread * self.model.schedule.timesteps).long().to(self.device)
            losses.append(self.loss(x0, self.normal(draw, len(x0)), t, conditions))
        self.log("val_loss", torch.stack(losses).mean(), prog_bar=True, logger=False, batch_size=len(x0))

    def on_validation_epoch_end(self) -> None:
        epoch = 0 if self.trainer.sanity_checking else self.current_epoch + 1
        loss = float(self.trainer.callback_metrics["val_loss"])
        self.history.validation.append((epoch, self.trainer.global_step, loss))

    @torch.no_grad()
    def draw(self, batch: PhotoSample, steps: int) -> list[Image.Image]:
        """Pictures as the product draws them, one a pair: DDIM from noise, then the first stage's decoder."""
        params = self.model.params
        conditions = self.conditions(batch)
        noise = self.normal(self.generator(_PICTURE, 0, 0), 1).expand(len(batch.off), -1, -1, -1)
        z = sample_ddim(lambda x, t: self.model(x, t, conditions), noise, self.model.schedule, steps)
        # one at a time: what the decoder keeps in memory is large
        pairs = zip(z.split(1), batch.bypass.split(1), strict=True)
        levels = [to_bytes(self.decode(latent, bypass))[0].cpu() for latent, bypass in pairs]
        return [to_picture(level, (params.picture_size, params.picture_size)) for level in levels]

    def decode(self, z: Tensor, bypass: Tensor) -> Tensor:
        """Scaled latents (b, 4, h, w) and unlit photos (b, 3, H, W) -> pictures, both in [-1, 1]."""
        first_stage = self.model.first_stage_model
        if isinstance(first_stage, BypassAutoencoder):
            return self.model.decode_first_stage(z, first_stage.bypass_features(bypass))
        return self.model.decode_first_stage(z)

    # What is random, and what is kept

    def generator(self, purpose: int, epoch: int, batch_idx: int) -> torch.Generator:
        """On the CPU; the same numbers for the same arguments."""
        seed = np.random.SeedSequence((self.seed, purpose, epoch, batch_idx)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> np.uint64(1)))

    def normal(self, generator: torch.Generator, batch: int) -> Tensor:
        """(batch, channels, h, w) standard normal, on the device of training."""
        params = self.model.params
        shape = (batch, params.channels, params.image_size, params.image_size)
        return torch.randn(shape, generator=generator).to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = self.trained()
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in trained}
        checkpoint["history"] = self.history.state_dict()
        checkpoint["random_state"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises:
        WeightsError: the checkpoint holds other tensors than those that learn.
        """
        expected, given = self.trained(), checkpoint["state_dict"]
        wrong = sorted(expected.keys() ^ given.keys())
        wrong += [name for name in expected if name in given and expected[name].shape != given[name].shape]
        if wrong:
            raise WeightsError(
                f"the checkpoint belongs to another training: {len(wrong)} tensors differ, as {wrong[0]}. "
                "Choose another --out."
            )
        self.history.load_state_dict(checkpoint["history"])
        self._restored = checkpoint["random_state"]

    def on_train_start(self) -> None:
        if self._restored is not None:
            restore_random_state(self._restored)
            self._restored = None
