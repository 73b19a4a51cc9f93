"""An exponential moving average of what is trained, which validates and becomes the result.

Lightning's own averages a copy of the whole module, frozen parts included: at full size 7 GB that never change.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lumiply.training.finetune import FineTuning


class Averaging(Callback):
    """average = decay * average + (1 - decay) * weights, after every optimiser step.

    Early on the decay is smaller, (1 + n) / (10 + n) after n steps, so that the start is soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.steps = 0
        self._weights: dict[str, Tensor] = {}  # of training, while the average stands in their place

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.steps = dict(state_dict["average"]), state_dict["steps"]

    def on_fit_start(self, trainer: Trainer, pl_module: FineTuning) -> None:  # type: ignore[override]
        start = self.average or pl_module.trained()
        self.average = {name: value.detach().clone().to(pl_module.device) for name, value in start.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: FineTuning, *rest: Any) -> None:  # type: ignore[override]
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in pl_module.trained().items():
            self.average[name].lerp_(value.detach(), 1 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: FineTuning) -> None:  # type: ignore[override]
        for name, value in pl_module.trained().items():
            self._weights[name] = value.data
            value.data = self.average[name]

    def on_validation_end(self, trainer: Trainer, pl_module: FineTuning) -> None:  # type: ignore[override]
        for name, value in pl_module.trained().items():
            value.data = self._weights.pop(name)
