"""Checkpoints: what they keep of a run that goes wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lumiply.errors import UserError
from lumiply.training.checkpoints import read_checkpoint
from lumiply.training.crossattn import CrossAttentionTuning
from tests.nano import nano_model
from tests.photos import make_split
from tests.training.test_resume import assert_equal, run, tuning

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_split(tmp_path / "photos", train=3, validation=1)


class Diverging(CrossAttentionTuning):
    """Learns nothing that is a number from the second epoch on."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch else 1.0)


class Broken(CrossAttentionTuning):
    """A base whose numbers are none to begin with."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.tensor(math.nan), batch_size=1)


def test_a_run_that_diverges_ends_at_once_and_what_was_good_before_can_be_had(
    photos: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "out" / "checkpoints"
    with pytest.raises(UserError) as caught:
        run(photos, tuning(out, 5), Diverging(nano_model(), learning_rate=1e-3))
    text = str(caught.value)
    assert text.startswith("The validation loss after epoch 2 is nan: training has diverged.")
    assert f"stays in {folder / 'last.ckpt'}" in text
    assert all(remedy in text for remedy in ("--learning-rate", "--precision 32-true", "another --out"))
    assert "the same command with --epochs 1" in text
    result = run(photos, tuning(out, 1))
    assert (result.epoch, result.epochs) == (1, 1) and math.isfinite(result.loss)
    assert all(value.isfinite().all() for value in result.trained.values())
    assert "nan" not in (out / "losses.csv").read_text()


def test_a_base_that_computes_no_numbers_is_told_before_it_is_trained(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is nan before any training.*--precision 32-true"):
        run(photos, tuning(tmp_path / "out", 5), Broken(nano_model(), learning_rate=1e-3))
    assert not list((tmp_path / "out" / "checkpoints").iterdir())


def test_a_best_epoch_that_is_there_before_the_last_is_the_result(photos: Path, tmp_path: Path) -> None:
    """As a run leaves it that was killed between the two."""
    whole = run(photos, tuning(tmp_path, 2, every=1))
    folder = tmp_path / "checkpoints"
    assert read_checkpoint(folder / "best.ckpt")["epoch"] == 1
    (folder / "epoch-0001.ckpt").replace(folder / "last.ckpt")
    again = run(photos, tuning(tmp_path, 1))
    assert (again.epoch, again.epochs, again.loss) == (2, 2, whole.loss)
    assert_equal(dict(again.trained), dict(whole.trained))
