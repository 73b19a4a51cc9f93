"""What a run shows of itself after every epoch: its losses as a table and a graph, and relit validation photos."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from torch.utils.data import default_collate

from lumiply.colors import COLORS
from lumiply.engine.pixels import to_bytes, to_picture
from lumiply.files import write_whole
from lumiply.images import encode_png
from lumiply.sheet import contact_sheet
from lumiply.training.checkpoints import writing
from lumiply.training.finetune import FineTuning
from lumiply.training.photos import PhotoPairs, PhotoSample

log = logging.getLogger(__name__)


class Records(Callback):
    """Writes `losses.csv` and `losses.png` and logs a line after every epoch."""

    def __init__(self, out: Path, checkpoints: Path) -> None:
        self.out, self.checkpoints = out, checkpoints

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FineTuning) -> None:  # type: ignore[override]
        with writing(str(self.out), self.checkpoints):
            pl_module.history.write_table(self.out / "losses.csv")
            pl_module.history.write_graph(self.out / "losses.png")
        epoch, step, loss = pl_module.history.validation[-1]
        log.info(
            "epoch %d of %s, step %d: training loss %.4f, validation loss %.4f",
            epoch,
            trainer.max_epochs,
            step,
            pl_module.history.mean_train_loss(epoch),
            loss,
        )

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: FineTuning,  # type: ignore[override]
        exception: BaseException,
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            log.info("stopped; the same command goes on after epoch %d", trainer.current_epoch)


class Pictures(Callback):
    """Writes `images/epoch-NNNN.png` after every epoch: unlit photo, what the model makes of it, the truth.

    One validation photo, in each of the colours that are trained.
    """

    def __init__(self, out: Path, checkpoints: Path, pairs: PhotoPairs, steps: int) -> None:
        """Args:
        steps: denoising steps of the sampler.
        """
        self.folder, self.checkpoints, self.pairs, self.steps = out / "images", checkpoints, pairs, steps
        first = pairs.pairs[0][0]
        self.shown = [index for index, (scene, _) in enumerate(pairs.pairs) if scene is first]

    def on_validation_end(self, trainer: Trainer, pl_module: FineTuning) -> None:  # type: ignore[override]
        epoch = 0 if trainer.sanity_checking else trainer.current_epoch + 1
        batch: PhotoSample = default_collate([self.pairs[index] for index in self.shown])
        moved = PhotoSample(*(part.to(pl_module.device) for part in batch))
        with trainer.precision_plugin.forward_context():
            drawn = pl_module.draw(moved, self.steps)
        size = (self.pairs.size, self.pairs.size)
        pictures: dict[str, Any] = {}
        for index, picture in enumerate(drawn):
            name = COLORS[int(batch.color[index])]
            shown = to_bytes(torch.stack([2 * batch.off[index] - 1, batch.target[index]]))
            pictures[f"off ({name})"] = to_picture(shown[0], size)
            pictures[f"{name}, drawn"] = picture
            pictures[f"{name}, truth"] = to_picture(shown[1], size)
        sheet = contact_sheet(pictures, cell=min(400, self.pairs.size), columns=3)
        with writing(str(self.folder), self.checkpoints):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / f"epoch-{epoch:04d}.png", encode_png(sheet))
