"""Running a stage: Lightning's trainer, and model files written as training goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from lumiply.training.pairs import PairDataset
from lumiply.training.precision import norms_keep_precision
from lumiply.training.stage_base import Stage

log = logging.getLogger(__name__)


class Report(Callback):
    """One log line now and then: step, seconds, losses, validation figures."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.say(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.say(trainer, pl_module)

    def say(self, trainer: pl.Trainer, stage: Stage) -> None:
        figures = {
            name: round(float(value), 4) for name, value in trainer.callback_metrics.items() if "/" in name
        }
        log.info(
            "%s step %d, %.0f s: %s", type(stage).__name__, trainer.global_step, stage.elapsed(), figures
        )


class SaveEvery(Callback):
    """Call `save` every `seconds` seconds of training, so that an end without warning loses little."""

    def __init__(self, seconds: float, save: Callable[[], None]) -> None:
        self.seconds, self.save = seconds, save
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if time.monotonic() - self.last > self.seconds:
            self.save()
            self.last = time.monotonic()


def batches(dataset: PairDataset) -> DataLoader[Any]:
    """The dataset makes whole batches on the training device itself."""
    return DataLoader(dataset, batch_size=None)


def run_stage(
    stage: Stage,
    train: PairDataset,
    validation: PairDataset,
    *,
    out: Path,
    accelerator: str = "auto",
    precision: str = "32-true",
    validate_every: int = 1000,
    callbacks: tuple[Callback, ...] = (),
) -> None:
    """Train `stage` on its budget.

    Args:
        out: folder for the CSV log of losses.
        precision: as Lightning names it, "bf16-mixed" on a recent GPU.
    """
    trainer = pl.Trainer(
        max_steps=stage.budget.steps,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        logger=CSVLogger(out, name=type(stage).__name__),
        callbacks=[Report(every=200), *callbacks],
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=50,
    )
    with norms_keep_precision():
        trainer.fit(stage, batches(train), batches(validation))
