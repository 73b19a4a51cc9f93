"""A run that was killed and started again is the run that was not: same weights, same losses, bit for bit."""

from __future__ import annotations

import csv
import errno
import io
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumiply.errors import UserError, WeightsError
from lumiply.training.adaptors import AdaptorTuning
from lumiply.training.batches import pairs_of
from lumiply.training.checkpoints import read_checkpoint, trained_tensors
from lumiply.training.crossattn import CrossAttentionTuning
from lumiply.training.finetune import FineTuning
from lumiply.training.photos import PhotoPairs, scan
from lumiply.training.tuning_run import Result, Tuning, tune
from tests.nano import NANO, nano_model
from tests.photos import make_scene, make_split

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_split(tmp_path / "photos", train=3, validation=1)


def pairs(photos: Path) -> tuple[PhotoPairs, PhotoPairs]:
    return pairs_of(scan(photos), NANO.picture_size, ["white"], flip=True)


def tuning(out: Path, epochs: int, **options: Any) -> Tuning:
    return Tuning(out, epochs, batch=2, picture_steps=2, device="cpu", progress=False, **options)


def run(photos: Path, plan: Tuning, module: CrossAttentionTuning | None = None) -> Result:
    module = module or CrossAttentionTuning(nano_model(), learning_rate=1e-3)
    return tune(module, *pairs(photos), plan, {"training": "crossattn"})


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser, averages, losses, random states and best epoch, of the last and of the best checkpoint."""
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (read_checkpoint(out / "checkpoints" / name) for out in (one, other))
        assert a["epoch"] == b["epoch"] and a["global_step"] == b["global_step"]
        assert a["history"] == b["history"]
        for key in ("state_dict", "optimizer_states", "callbacks", "random_state"):
            assert_equal(a[key], b[key])
    assert (one / "losses.csv").read_bytes() == (other / "losses.csv").read_bytes()


def assert_equal(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import lumiply.files
from lumiply.training import finetune
from tests.training.test_resume import run, tuning

where, photos, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)

def die(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)

def step(self, batch, index, original=finetune.FineTuning.training_step):
    if where == "in the second epoch" and self.current_epoch == 1 and index == 1:
        die()
    return original(self, batch, index)

def replace(source, place, original=os.replace):
    if where == "before the last checkpoint has its name" and (out / "checkpoints/last.ckpt").exists():
        if str(place).endswith("/last.ckpt"):
            die()
    return original(source, place)

finetune.FineTuning.training_step = step
os.replace = replace
run(photos, tuning(out, 3, every=1))
"""


@pytest.mark.parametrize("where", ["in the second epoch", "before the last checkpoint has its name"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(photos: Path, tmp_path: Path, where: str) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(photos), str(killed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_checkpoint(killed / "checkpoints/last.ckpt")["epoch"] == 0  # the first epoch, whole
    again = run(photos, tuning(killed, 3, every=1))
    once = run(photos, tuning(straight, 3, every=1))
    assert_same_run(straight, killed)
    assert_equal(dict(again.trained), dict(once.trained))
    assert sorted(path.name for path in (killed / "checkpoints").glob("*.ckpt")) == [
        "best.ckpt", "epoch-0001.ckpt", "epoch-0002.ckpt", "epoch-0003.ckpt", "last.ckpt",
    ]  # fmt: skip


class Restless(CrossAttentionTuning):
    """Draws from every global generator in every step, and lets it weigh the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        chance = random.random() + np.random.rand() + float(torch.rand(()))
        return super().training_step(batch, batch_idx) * chance


def test_a_stopped_run_goes_on_with_every_random_state_and_average(photos: Path, tmp_path: Path) -> None:
    def go(name: str, epochs: int) -> Result:
        module = Restless(nano_model(), learning_rate=1e-3)
        return run(photos, tuning(tmp_path / name, epochs, average=0.9, accumulate=2), module)

    once = go("straight", 3)
    go("stopped", 1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    again = go("stopped", 3)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    assert_equal(dict(once.trained), dict(again.trained))
    assert (once.epoch, once.loss, once.before) == (again.epoch, again.loss, again.before)


def test_a_run_that_has_all_its_epochs_trains_no_further_and_a_larger_number_trains_on(
    photos: Path, tmp_path: Path
) -> None:
    first = run(photos, tuning(tmp_path / "out", 1))
    stored = (tmp_path / "out/checkpoints/last.ckpt").stat().st_mtime_ns
    again = run(photos, tuning(tmp_path / "out", 1))
    assert (tmp_path / "out/checkpoints/last.ckpt").stat().st_mtime_ns == stored
    assert_equal(dict(first.trained), dict(again.trained))
    assert run(photos, tuning(tmp_path / "out", 2)).epochs == 2


@pytest.mark.parametrize("kind", ["crossattn", "adaptors"])
def test_training_lowers_the_validation_loss(photos: Path, tmp_path: Path, kind: str) -> None:
    module: FineTuning = (
        CrossAttentionTuning(nano_model(), learning_rate=1e-3)
        if kind == "crossattn"
        else AdaptorTuning(nano_model(), ["red"], learning_rate=1e-2)
    )
    color, least = {"crossattn": ("white", 0.9), "adaptors": ("red", 0.99)}[kind]  # an adaptor has less say
    train, validation = pairs_of(scan(photos), NANO.picture_size, [color])
    result = tune(module, train, validation, tuning(tmp_path / "out", 6), {})
    assert result.loss < least * result.before


def test_the_table_has_every_step_and_the_loss_before_training(photos: Path, tmp_path: Path) -> None:
    run(photos, tuning(tmp_path, 2))
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"], bool(row["train_loss"])) for row in rows] == [
        ("0", "0", False), ("1", "1", True), ("1", "2", True), ("1", "2", False),
        ("2", "3", True), ("2", "4", True), ("2", "4", False),
    ]  # fmt: skip
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        f"epoch-{epoch:04d}.png" for epoch in range(3)
    ]


def test_accumulated_batches_make_one_step(photos: Path, tmp_path: Path) -> None:
    run(photos, tuning(tmp_path, 2, accumulate=2))
    last = read_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert last["global_step"] == 2  # two batches an epoch
    assert [row[:2] for row in last["history"]["train"]] == [[1, 1], [2, 2]]


def test_bfloat16_trains_float32_weights(photos: Path, tmp_path: Path) -> None:
    plain = run(photos, tuning(tmp_path / "plain", 1))
    mixed = run(photos, tuning(tmp_path / "mixed", 1, precision="bf16-mixed"))
    assert {value.dtype for value in mixed.trained.values()} == {torch.float32}
    assert mixed.loss != plain.loss and mixed.loss == pytest.approx(plain.loss, rel=0.02)


def test_an_average_validates_and_is_the_result(photos: Path, tmp_path: Path) -> None:
    train, validation = pairs(photos)
    train.pairs = train.pairs[:1]  # an epoch is a step, so that checkpoints hold the weights after every step

    def go(name: str, average: float) -> Result:
        module = CrossAttentionTuning(nano_model(), learning_rate=1e-3)
        return tune(module, train, validation, tuning(tmp_path / name, 2, average=average, every=1), {})

    averaged, plain = go("averaged", 0.999), go("plain", 0.0)
    expected = {n: v.detach() for n, v in CrossAttentionTuning(nano_model()).trained().items()}
    for step in (1, 2):
        ours, theirs = (
            read_checkpoint(tmp_path / name / f"checkpoints/epoch-000{step}.ckpt")
            for name in ("averaged", "plain")
        )
        assert_equal(ours["state_dict"], theirs["state_dict"])  # training itself is the same
        decay = (1 + step) / (10 + step)
        expected = {n: decay * v + (1 - decay) * ours["state_dict"][n] for n, v in expected.items()}
    got = trained_tensors(read_checkpoint(tmp_path / "averaged/checkpoints/last.ckpt"))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)
    assert averaged.loss != plain.loss


# what is refused, and what stays


@pytest.mark.parametrize(
    "option", [{"seed": 1}, {"accumulate": 2}, {"average": 0.5}, {"precision": "bf16-mixed"}]
)
def test_other_choices_are_refused(photos: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    run(photos, tuning(tmp_path / "out", 1))
    (name,) = option
    with pytest.raises(UserError, match=f"another {name} .* another --out"):
        run(photos, replace(tuning(tmp_path / "out", 2), **option))


def test_other_photos_are_refused(photos: Path, tmp_path: Path) -> None:
    run(photos, tuning(tmp_path / "out", 1))
    make_scene(photos / "train" / "kitchen", seed=9)
    with pytest.raises(UserError, match="another photos"):
        run(photos, tuning(tmp_path / "out", 2))


def test_a_damaged_checkpoint_is_told(photos: Path, tmp_path: Path) -> None:
    last = tmp_path / "out/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"PK not really")
    with pytest.raises(WeightsError, match="last.ckpt: is no checkpoint that training can go on from"):
        run(photos, tuning(tmp_path / "out", 2))


class FullDisk(io.RawIOBase):
    """Takes some bytes and then has no space left."""

    def __init__(self, space: int) -> None:
        self.space = space

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.space -= len(data)
        if self.space < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


def test_a_full_disk_ends_the_run_and_the_last_good_checkpoint_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, tuning(out, 1))
    stored = {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    original = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "wb" and ".ckpt" in self.name:
            return FullDisk(100_000)
        return original(self, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(UserError, match=r"No space left on device.*stays in .*last\.ckpt.*same command"):
            run(photos, tuning(out, 2))
    assert {path.name: path.read_bytes() for path in (out / "checkpoints").iterdir()} == stored
    run(photos, tuning(out, 2))
    run(photos, tuning(tmp_path / "straight", 2))
    assert_same_run(tmp_path / "straight", out)
