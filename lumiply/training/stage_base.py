"""What all training stages share: the optimiser, and a budget of steps and seconds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from lumiply.training.pairs import PairBatch


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: so many steps, or so many seconds, whichever ends first.

    Attributes:
        warmup: steps of linear warm-up of the learning rate, which then falls along a cosine to a hundredth.
    """

    steps: int
    seconds: float = math.inf
    warmup: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seconds <= 0 or self.warmup < 1:
            raise ValueError(f"a budget needs steps, seconds and warmup above 0, got {self}")

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        return min(1.0, max(step / self.steps, elapsed / self.seconds))

    def learning_rate_factor(self, step: int, elapsed: float) -> float:
        cosine = 0.5 * (1.0 + math.cos(math.pi * self.progress(step, elapsed)))
        return min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * cosine)


class Stage(pl.LightningModule):
    """AdamW over the tensors that require a gradient, on a budget."""

    def __init__(self, budget: Budget, learning_rate: float, weight_decay: float = 0.01) -> None:
        super().__init__()
        self.budget, self.learning_rate, self.weight_decay = budget, learning_rate, weight_decay
        self.started = math.nan

    def trained(self) -> dict[str, nn.Parameter]:
        """What learns, by its name in the stage."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def on_train_batch_end(self, *rest: Any) -> None:
        if math.isnan(self.started):
            self.started = time.monotonic()
        if self.elapsed() > self.budget.seconds:
            self.trainer.should_stop = True

    def elapsed(self) -> float:
        """Seconds since the first step ended: what compiles or loads before does not count."""
        return 0.0 if math.isnan(self.started) else time.monotonic() - self.started

    def transfer_batch_to_device(
        self, batch: PairBatch, device: torch.device, dataloader_idx: int
    ) -> PairBatch:
        """Batches are made on the device that trains."""
        return batch

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By norm; Lightning's own refuses fused optimisers in mixed precision, also where nothing is scaled."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.trained().values(), float(gradient_clip_val))

    def configure_optimizers(self) -> Any:
        fused = (
            self.device.type == "cuda" or None
        )  # one kernel for all tensors; None leaves the choice to torch
        optimizer = torch.optim.AdamW(
            self.trained().values(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=fused
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.budget.learning_rate_factor(step, self.elapsed())
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
