"""How near each sampler comes to 1000 steps of DDIM, on real photos with the same noise.

    python -m benchmarks.samplers --model mini PHOTO...

Latents are compared by relative L2 distance, decoded pictures by PSNR, each a mean over photos and colours.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from ldm.sampling import SAMPLERS
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import choose_device
from lumiply.images import read_photo

STEPS = (1, 2, 4, 6, 8, 10, 15, 20, 25, 50)


def distances(
    pipeline: Pipeline,
    photos: Sequence[Image.Image],
    colors: Sequence[str],
    *,
    steps: Sequence[int] = STEPS,
    reference_steps: int = 1000,
    seed: int = 42,
) -> dict[str, dict[str, tuple[float, float]]]:
    """{sampler: {steps: (relative L2 of the latents, PSNR of the pictures in dB)}}, means over all photos."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {str(n): [] for n in steps} for name in SAMPLERS
    }
    for photo in photos:
        prepared = pipeline.prepare(photo, colors)
        noise = pipeline.noise(seed)

        def render(
            sampler: str, n: int, prepared: Any = prepared, noise: Tensor = noise
        ) -> tuple[Tensor, Tensor]:
            z = pipeline.denoise(prepared.conditions, noise, n, sampler=sampler)
            return z, pipeline.decode(z, prepared.features).double()

        z, picture = render("ddim", reference_steps)
        for name, by_steps in found.items():
            for n in steps:
                ours, decoded = render(name, n)
                error = float((ours - z).norm() / z.norm())
                mean = max(float((decoded - picture).square().mean()), 1e-12)
                by_steps[str(n)].append((error, 10 * math.log10(255**2 / mean)))
    return {
        name: {n: (_mean(pairs, 0), _mean(pairs, 1)) for n, pairs in by_steps.items()}
        for name, by_steps in found.items()
    }


def _mean(pairs: Sequence[tuple[float, float]], index: int) -> float:
    return sum(pair[index] for pair in pairs) / len(pairs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", type=Path, help="by default the sample rooms in images/")
    parser.add_argument("--model", default="mini", choices=("full", "mini"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--colors", nargs="+", choices=COLORS, default=list(COLORS))
    parser.add_argument("--out", type=Path, help="write all results there, as JSON")
    parser.add_argument("--quick", action="store_true", help="a few steps: whether it works, no figures")
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipeline = subject(given.model).pipeline(device, dtype, dtype)
    paths = given.photos or sorted(Path("images").glob("sample_*.png"))
    photos = [read_photo(path) for path in paths]
    steps, reference = ((1, 2), 4) if given.quick else (STEPS, 1000)
    found = distances(pipeline, photos, given.colors, steps=steps, reference_steps=reference)
    results = Results(given.out, {**machine(device), "photos": len(photos), "colors": given.colors})
    results.put("distance", found)
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}: distance to {reference} steps of DDIM, "
        f"{len(photos)} photos, {len(given.colors)} colours\n"
    )
    rows = [[n, *(cell for name in SAMPLERS for cell in found[name][str(n)])] for n in steps]
    head = ["steps", *(text for name in SAMPLERS for text in (f"{name}, rel. L2", "dB"))]
    print(table(head, rows))


if __name__ == "__main__":
    main()
