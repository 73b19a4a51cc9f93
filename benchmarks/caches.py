"""What is left of a picture if the first halves of the networks are not computed in every step, and what that saves.

    python -m benchmarks.caches --model mini PHOTO...

Encoder propagation (S. Li et al., *Faster Diffusion*, arXiv 2312.09608): ControlNet and the UNet's first half are
computed in every k-th of 50 DDIM steps alone, and their results used again in between. Beside it stand samplers that
take fewer steps and leave out nothing; all are compared with 1000 steps of DDIM, with the same noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Results, machine, synchronize, table
from benchmarks.samplers import add_options, pipeline_of, psnr, sample_photos
from cldm import StepConditions, StepNetwork
from ldm.sampling import SAMPLERS, sample
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import choose_device
from lumiply.images import read_photo

#: (name, sampler, steps, one step in how many computes the first halves)
WAYS = (
    ("50 steps of DDIM", "ddim", 50, 1),
    ("first halves in every 2nd", "ddim", 50, 2),
    ("in every 3rd", "ddim", 50, 3),
    ("in every 5th", "ddim", 50, 5),
    ("25 steps of DDIM", "ddim", 25, 1),
    ("20 steps of UniPC", "unipc", 20, 1),
    ("10 steps of UniPC", "unipc", 10, 1),
)


def propagated(
    network: StepNetwork, conditions: StepConditions, every: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """v of (x, t), step after step; the first halves are computed in one of `every` calls, the first among them."""
    hint, keys_values = conditions.hint_features, conditions.keys_values
    kept: tuple[list[Tensor], list[Tensor]] | None = None
    calls = 0

    def step(x: Tensor, t: Tensor) -> Tensor:
        nonlocal kept, calls
        if kept is None or calls % every == 0:
            kept = network.encode(x, t, keys_values), network.correct(x, t, hint, keys_values)
        calls += 1
        return network.decode(*kept, t, keys_values)

    return step


@torch.inference_mode()
def measure(
    pipeline: Pipeline,
    photos: Sequence[Path],
    colors: Sequence[str],
    *,
    steps: int | None,
    reference_steps: int,
) -> list[list[object]]:
    """[way, PSNR in dB of the pictures, seconds of denoising], means and medians over the photos."""
    decibels: dict[str, list[float]] = {name: [] for name, *_ in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name, *_ in WAYS}
    for path in photos:
        prepared = pipeline.prepare(read_photo(path), colors)
        x = pipeline.noise(42).to(pipeline.device).expand(len(colors), -1, -1, -1)
        exact = pipeline.decode(
            pipeline.denoise(prepared.conditions, pipeline.noise(42), reference_steps), prepared.features
        )
        for name, sampler, number, every in WAYS:
            function = propagated(pipeline.network, prepared.conditions, every)
            synchronize(pipeline.device)
            began = time.perf_counter()
            z = sample(SAMPLERS[sampler], function, x, pipeline.schedule, steps or number)
            synchronize(pipeline.device)
            seconds[name].append(time.perf_counter() - began)
            decibels[name].append(psnr(pipeline.decode(z, prepared.features), exact))
    return [[name, statistics.mean(decibels[name]), statistics.median(seconds[name])] for name, *_ in WAYS]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, ("white", "red", "blue"))
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    pipeline = pipeline_of(given.model, device)
    photos = given.photos or sample_photos()
    rows = measure(
        pipeline, photos, given.colors,
        steps=4 if given.quick else None, reference_steps=8 if given.quick else 1000,
    )  # fmt: skip
    results = Results(given.out, {**machine(device), "photos": len(photos), "colors": given.colors})
    head = ["", "dB to 1000 steps", "denoising, s"]
    results.put("ways", [dict(zip(head, row, strict=True)) for row in rows])
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}: {len(photos)} photos, "
        f"{len(given.colors)} colours\n\n{table(head, rows)}"
    )


if __name__ == "__main__":
    main()
