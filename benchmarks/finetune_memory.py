"""Memory and seconds a step of both fine-tunings of the full-size model, with and without gradient checkpointing.

    python -m benchmarks.finetune_memory --out benchmarks/results/finetune_memory.md

A configuration that does not fit the GPU is told as such. Weights are filled by name (`tests/golden/fill.py`): they
prove speed and memory, not usefulness. `--mini` measures the mini model, `--tiny` runs a millisecond model on the CPU
to show that the script works; on a CPU no memory is measured.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.full_model import filled_model
from benchmarks.provenance import commit
from cldm import ControlLDM, ControlLDMParams
from lumiply.colors import COLORS
from lumiply.config import config_path, load_config
from lumiply.training.adaptors import AdaptorTuning
from lumiply.training.crossattn import CrossAttentionTuning
from lumiply.training.finetune import FineTuning
from lumiply.training.photos import PhotoSample
from lumiply.training.tuning_run import Tuning, make_trainer, quiet
from tests.nano import NANO

TRAININGS = ("crossattn", "one adaptor", "six adaptors")
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Measured:
    """One configuration: seconds of each step after the first ones, and the peak of allocated memory."""

    training: str
    precision: str
    recompute: bool
    batch: int
    weights: int
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None

    def row(self) -> str:
        memory = "-" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.1f} GB"
        time_ = "-" if not self.seconds else f"{statistics.median(self.seconds):.3f}"
        spread = "does not fit" if not self.seconds else f"{min(self.seconds):.3f} to {max(self.seconds):.3f}"
        checkpointing = "yes" if self.recompute else "no"
        return (
            f"| {self.training} | {self.weights / 1e6:.1f} M | {self.precision} | {checkpointing} | {self.batch} "
            f"| {memory} | {time_} | {spread} |"
        )


HEADER = (
    "| training | weights that learn | precision | gradient checkpointing | batch | peak memory "
    "| seconds a step, median | range |\n|---|---|---|---|---|---|---|---|"
)


class Noise(Dataset[PhotoSample]):
    """Random pictures as photo pairs: what a step costs does not depend on what they show."""

    def __init__(self, size: int, count: int, colors: Sequence[str]) -> None:
        self.size, self.count, self.colors = size, count, colors

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> PhotoSample:
        draw = torch.Generator().manual_seed(index)
        off, on = (torch.rand(3, self.size, self.size, generator=draw) for _ in range(2))
        color = COLORS.index(self.colors[index % len(self.colors)])
        return PhotoSample(off, on, 2 * off - 1, torch.tensor(color))


class Clock(pl.Callback):
    """Seconds of every optimiser step, the device waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_batch_end(self, *rest: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())

    def seconds(self, warm_up: int) -> tuple[float, ...]:
        return tuple(after - before for before, after in itertools.pairwise(self.ends[warm_up:]))


def colors_of(training: str) -> list[str]:
    return {"crossattn": ["white"], "one adaptor": ["red"]}.get(training, list(COLORS[1:]))


def module_of(training: str, model: ControlLDM, recompute: bool) -> FineTuning:
    if training == "crossattn":
        return CrossAttentionTuning(model, recompute=recompute)
    return AdaptorTuning(model, colors_of(training), recompute=recompute)


def measure(
    module: FineTuning,
    training: str,
    recompute: bool,
    precision: str,
    batch: int,
    device: torch.device,
    steps: int,
) -> Measured:
    """Train some steps with the project's own trainer; the first two do not count."""
    weights = sum(value.numel() for value in module.trained().values())
    result = Measured(training, precision, recompute, batch, weights)
    size = module.model.params.picture_size
    data = DataLoader(Noise(size, (steps + 3) * batch, colors_of(training)), batch_size=batch)
    clock = Clock(device)
    tuning = Tuning(Path("runs/benchmark"), epochs=1, progress=False)
    trainer = make_trainer(tuning, device, precision, [clock])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer.fit(module, data)
    except torch.OutOfMemoryError:
        return result
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Measured(training, precision, recompute, batch, weights, clock.seconds(2), peak)


def rows(
    params: ControlLDMParams, device: torch.device, batches: Sequence[int], steps: int
) -> Iterator[Measured]:
    """Every combination. The model is filled once for each training: precision and checkpointing share it."""
    model = filled_model(params)
    tower = model.cond_stage_model
    for training, batch, precision, recompute in itertools.product(
        TRAININGS, batches, PRECISIONS, (False, True)
    ):
        model.cond_stage_model = tower  # a training drops it
        module = module_of(training, model, recompute)
        yield measure(module, training, recompute, precision, batch, device, steps)
        model = module.model.cpu()
        model.zero_grad(set_to_none=True)
        del module
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="also write the report there")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="pairs a step")
    parser.add_argument("--steps", type=int, default=8, help="steps that are measured")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mini", action="store_true", help="the embedded mini model")
    size.add_argument("--tiny", action="store_true", help="a millisecond model on the CPU")
    parser.add_argument("--commit", default=commit(), help="what to print as the commit that was measured")
    given = parser.parse_args(arguments)
    device = torch.device("cpu" if given.tiny else given.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    kind, params = "the full-size model", ControlLDMParams()
    if given.tiny:
        kind, params = "a millisecond model", NANO
    if given.mini:
        kind, params = "the mini model", load_config(config_path("mini"))
    option = " --tiny" if given.tiny else " --mini" if given.mini else ""
    report = [
        f"# Fine-tuning {kind}: memory and time",
        "",
        f"{datetime.date.today()}, commit {given.commit}, {name}, torch {torch.__version__}, "
        f"Python {platform.python_version()}. Command: `python -m benchmarks.finetune_memory{option} "
        f"--device {device} --batch {' '.join(map(str, given.batch))}`. Weights filled by name; AdamW; "
        "TF32 for float32 matrix products on a GPU. Peak memory is what tensors took, without the allocator's "
        "and the driver's own.",
        "",
        HEADER,
    ]
    print("\n".join(report), flush=True)
    with quiet():
        for measured in rows(params, device, given.batch, given.steps):
            report.append(measured.row())
            print(report[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join([*report, ""]))


if __name__ == "__main__":
    main()
