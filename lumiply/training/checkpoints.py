"""Checkpoints of a run: `last.ckpt`, `best.ckpt` and every n epochs `epoch-NNNN.ckpt`, each whole or not there.

A run that was killed goes on from `last.ckpt`. Equal checkpoints are one file under several names (hard links).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from lumiply.errors import UserError, WeightsError
from lumiply.files import sync_folder, written_whole

LAST: Final = "last.ckpt"
BEST: Final = "best.ckpt"


@contextlib.contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Tell a disk that is full, or a folder that cannot be written, in one sentence.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as exc:
        raise UserError(
            f"{what} cannot be written: {exc.strerror or exc}. {_kept(folder)}; once this is solved, the same "
            "command goes on from there."
        ) from exc


def _kept(folder: Path) -> str:
    last = folder / LAST
    if last.is_file():
        return f"The last good checkpoint stays in {last}"
    return "No checkpoint was complete before"


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it and renames it; reads one without running code from it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        place = Path(path)
        with (
            writing(f"A checkpoint in {place.parent}", place.parent),
            written_whole(place) as beside,
            beside.open("wb") as file,
        ):
            save_to(file, checkpoint)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def save_to(file: Any, value: Any) -> None:
    """`torch.save`, but with the OSError of a write that failed in place of torch's own error.

    Raises:
        OSError: the disk is full.
    """
    try:
        torch.save(value, file)
    except RuntimeError as exc:
        cause: BaseException | None = exc
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        raise cause if cause is not None else exc from exc


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, mapped from its file.

    Raises:
        WeightsError: it is missing, damaged, or none of ours.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as exc:  # torch raises many kinds for a damaged file
        raise WeightsError(
            f"{path}: is no checkpoint that training can go on from ({exc}). Remove it to go on from another one "
            "that you rename to it, or to begin anew."
        ) from exc
    if not isinstance(checkpoint, dict) or not {"state_dict", "history", "run"} <= checkpoint.keys():
        raise WeightsError(f"{path}: is not a checkpoint of fine-tuning. Choose another --out.")
    return checkpoint


class Checkpoints(Callback):
    """Writes the checkpoints of a run after every epoch; ends a run whose numbers are no longer finite.

    Attributes:
        best: smallest validation loss so far.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], every: int) -> None:
        """Args:
        run: what the run was asked for; stored in every checkpoint under `run`.
        every: keep a checkpoint for good after so many epochs; 0 for none.
        """
        self.folder, self.run, self.every = folder, dict(run), every
        self.best = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["run"] = self.run

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises:
        UserError: the loss is not finite. No epoch after it would be, either, nor be worth a checkpoint.
        """
        loss = float(trainer.callback_metrics["val_loss"])
        if math.isfinite(loss):
            return
        if trainer.sanity_checking:
            raise UserError(
                f"The validation loss is {loss} before any training. Try --precision 32-true; if that is no better, "
                "the base model is damaged: fetch it anew."
            )
        epochs = trainer.current_epoch
        result = f"; the same command with --epochs {epochs} writes its best epoch" if epochs else ""
        raise UserError(
            f"The validation loss after epoch {epochs + 1} is {loss}: training has diverged. {_kept(self.folder)}"
            f"{result}. To train on, try a lower --learning-rate, or --precision 32-true, with another --out."
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        loss = float(trainer.callback_metrics["val_loss"])
        names = []
        if loss < self.best:
            self.best = loss
            names.append(BEST)
        if self.every and epoch % self.every == 0:
            names.append(f"epoch-{epoch:04d}.ckpt")
        new = self.folder / f".{LAST}.new"
        trainer.save_checkpoint(new)
        with writing(str(self.folder), self.folder):
            for name in names:
                link(new, self.folder / name)
            # last of all: until then a run that is killed repeats this epoch, and with it all of the above
            os.replace(new, self.folder / LAST)
            sync_folder(self.folder)


def link(source: Path, place: Path) -> None:
    """Give a file a second name, in place of whatever has it; a copy where the file system has no links.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    beside = place.with_name(f".{place.name}.part")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        with written_whole(place) as copy:
            shutil.copyfile(source, copy)
    else:
        os.replace(beside, place)


def trained_tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a checkpoint's run has trained: the average where it kept one, else the weights of the last step."""
    for state in checkpoint["callbacks"].values():
        if "average" in state:
            return dict(state["average"])
    return dict(checkpoint["state_dict"])
