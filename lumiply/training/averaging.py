"""An exponential moving average of what is trained, which validates and becomes the result.

Lightning's own averages a copy of the whole module, frozen parts included: at full size 7 GB that never change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Learner(Protocol):
    """A module that says which of its parameters learn."""

    @property
    def device(self) -> torch.device: ...

    def trained(self) -> Mapping[str, nn.Parameter]: ...


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

    def on_fit_start(self, trainer: Trainer, pl_module: Learner) -> None:  # type: ignore[override]
        start = self.average or pl_module.trained()
        self.average = {name: value.detach().clone().to(pl_module.device) for name, value in start.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: Learner, *rest: Any) -> None:  # type: ignore[override]
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        trained = pl_module.trained()
        averages = [self.average[name] for name in trained]
        get_ema_multi_avg_fn(decay)(averages, [value.detach() for value in trained.values()], self.steps)

    def on_validation_start(self, trainer: Trainer, pl_module: Learner) -> None:  # type: ignore[override]
        self._show(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Learner) -> None:  # type: ignore[override]
        self._hide(pl_module)

    @contextlib.contextmanager
    def shown(self, learner: Learner) -> Iterator[None]:
        """Within, the average stands in the place of the weights; before the first step, nothing changes."""
        self._show(learner)
        try:
            yield
        finally:
            self._hide(learner)

    @torch.no_grad()
    def adopt(self, learner: Learner) -> None:
        """The average becomes the weights, wherever these lie."""
        for name, value in self._averaged(learner):
            value.copy_(self.average[name])

    def _averaged(self, learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in learner.trained().items() if name in self.average)

    def _show(self, learner: Learner) -> None:
        for name, value in self._averaged(learner):
            self._weights[name] = value.data
            value.data = self.average[name]

    def _hide(self, learner: Learner) -> None:
        for name, value in self._averaged(learner):
            value.data = self._weights.pop(name)
