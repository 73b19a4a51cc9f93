"""One fine-tuning run: from a plan to epochs, checkpoints and the tensors that are its result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from torch import Tensor

from lumiply.engine.start import choose_device
from lumiply.errors import UserError
from lumiply.training.averaging import Averaging
from lumiply.training.batches import PhotoBatches, digest
from lumiply.training.checkpoints import (
    BEST,
    LAST,
    Checkpoints,
    WholeFileIO,
    read_checkpoint,
    trained_tensors,
    writing,
)
from lumiply.training.finetune import FineTuning
from lumiply.training.photos import PhotoPairs
from lumiply.training.records import Pictures, Records

log = logging.getLogger(__name__)

#: As Lightning names them.
PRECISIONS: Final = ("32-true", "bf16-mixed", "16-mixed")
#: Largest norm of a step's gradient; larger ones are scaled down to it.
MOST_GRADIENT: Final = 1.0


@dataclass(frozen=True)
class Tuning:
    """How a run trains.

    Attributes:
        out: folder of the run; what a former run of the same kind left there is gone on from.
        epochs: passes over the training pairs in all, those of a former run included.
        batch: pairs at a time; accumulate: batches an optimiser step.
        average: decay of the moving average of the weights; 0 for none.
        every: keep a checkpoint for good after so many epochs; 0 for none.
        picture_steps: denoising steps of the validation picture.
        precision: one of `PRECISIONS`, or "auto": bf16-mixed on a GPU that has it, else 32-true.
    """

    out: Path
    epochs: int
    batch: int = 1
    accumulate: int = 1
    average: float = 0.0
    every: int = 0
    picture_steps: int = 50
    workers: int = 0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    progress: bool = True

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def last(self) -> Path:
        """Where a run that was stopped goes on from."""
        return self.checkpoints / LAST


@dataclass(frozen=True)
class Result:
    """What a run has come to.

    Attributes:
        trained: the tensors of the epoch with the smallest validation loss, by their names in the module.
        epoch: which one that was, from 1; epochs: how many there were.
        loss: its validation loss; before: that of the model as it was.
    """

    trained: Mapping[str, Tensor]
    epoch: int
    epochs: int
    loss: float
    before: float


def tune(
    module: FineTuning, train: PhotoPairs, validation: PhotoPairs, tuning: Tuning, run: Mapping[str, Any]
) -> Result:
    """Train `module`, going on from the last checkpoint in `tuning.out` where there is one.

    Args:
        run: what must be the same for a run to go on, besides the tuning's own numbers and the data: which base,
            and what is trained.

    Raises:
        UserError: the folder holds a run of other photos or with other choices, or cannot be written.
        WeightsError: the last checkpoint is damaged.
        SettingsError: the device is not there.
    """
    device = choose_device(tuning.device)
    precision = choose_training_precision(tuning.precision, device)
    identity = {
        **run,
        "photos": f"{digest(train)} {digest(validation)}",
        "flip": train.flip,
        "batch": tuning.batch,
        "accumulate": tuning.accumulate,
        "average": tuning.average,
        "seed": tuning.seed,
        "learning_rate": module.learning_rate,
        "precision": precision,
    }
    with writing(str(tuning.out), tuning.checkpoints):
        tuning.checkpoints.mkdir(parents=True, exist_ok=True)
    former = finished_epochs(tuning.checkpoints, identity)
    if former < tuning.epochs:
        if former:
            log.info("going on after epoch %d of %d", former, tuning.epochs)
        _fit(module, train, validation, tuning, identity, device, precision)
    else:
        log.info("%d epochs are trained already; a larger --epochs trains on", former)
    return read_result(tuning.checkpoints)


def choose_training_precision(wanted: str, device: torch.device) -> str:
    """ "auto" is bfloat16 for most arithmetic on a GPU that has it, and float32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def finished_epochs(folder: Path, identity: Mapping[str, Any]) -> int:
    """How many epochs a former run has trained; 0 if there was none.

    Raises:
        UserError: it was another run.
        WeightsError: its last checkpoint is damaged.
    """
    if not (folder / LAST).is_file():
        return 0
    checkpoint = read_checkpoint(folder / LAST)
    for name, value in identity.items():
        if checkpoint["run"].get(name) != value:
            raise UserError(
                f"{folder.parent} holds a run with another {name} ({checkpoint['run'].get(name)}, now {value}). "
                "Go on with what it had, or choose another --out."
            )
    return int(checkpoint["epoch"]) + 1


def read_result(folder: Path) -> Result:
    """The best epoch of a run that has trained at least one.

    Raises:
        WeightsError: a checkpoint is missing or damaged.
    """
    best, last = read_checkpoint(folder / BEST), read_checkpoint(folder / LAST)
    losses = {epoch: loss for epoch, _, loss in best["history"]["validation"]}
    epoch = int(best["epoch"]) + 1
    epochs = max(epoch, int(last["epoch"]) + 1)  # a run may be killed after writing the best, before the last
    return Result(trained_tensors(best), epoch, epochs, losses[epoch], losses[0])


def make_trainer(
    tuning: Tuning, device: torch.device, precision: str, callbacks: list[Callback]
) -> pl.Trainer:
    """Lightning's trainer on one device, with checkpoints that are whole or absent."""
    return pl.Trainer(
        max_epochs=tuning.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=tuning.accumulate,
        gradient_clip_val=MOST_GRADIENT,
        logger=False,  # Records writes the whole history anew, so that it is right after a resumption
        callbacks=[*callbacks, *([TQDMProgressBar()] if tuning.progress else [])],
        plugins=[WholeFileIO()],
        # all of it before a new run: the loss without training, and proof that every photo can be read
        num_sanity_val_steps=0 if tuning.last.is_file() else -1,
        inference_mode=False,
        enable_checkpointing=False,
        enable_progress_bar=tuning.progress,
        enable_model_summary=False,
        default_root_dir=tuning.out,
    )


def _fit(
    module: FineTuning,
    train: PhotoPairs,
    validation: PhotoPairs,
    tuning: Tuning,
    identity: Mapping[str, Any],
    device: torch.device,
    precision: str,
) -> None:
    folder = tuning.checkpoints
    callbacks: list[Callback] = [
        Pictures(tuning.out, folder, validation, tuning.picture_steps),
        *([Averaging(tuning.average)] if tuning.average else []),  # after the pictures, which it draws with
        Records(tuning.out, folder),
        Checkpoints(folder, identity, tuning.every),
    ]
    batches = PhotoBatches(
        train,
        tuning.batch,
        seed=tuning.seed,
        shuffle=True,
        workers=tuning.workers,
        epoch=lambda: module.current_epoch,
    )
    held_out = PhotoBatches(validation, tuning.batch, workers=tuning.workers)
    with quiet():
        pl.seed_everything(tuning.seed, verbose=False)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        make_trainer(tuning, device, precision, callbacks).fit(
            module, batches, held_out, ckpt_path=tuning.last if tuning.last.is_file() else None
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks about its own defaults, which no option of ours can answer."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
            yield
    finally:
        logger.setLevel(level)
