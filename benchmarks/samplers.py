"""How near each sampler comes to 1000 steps of DDIM, on real photos with the same noise.

    python -m benchmarks.samplers --model mini PHOTO...
    python -m benchmarks.samplers --model mini --rooms runs/test --count 6

Latents are compared by relative L2 distance, decoded pictures by PSNR, each a mean over photos and colours; where
photos are rendered rooms (`lumiply synth`), a last column says how near each picture comes to the rendered truth.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from ldm.sampling import SAMPLERS
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline, Prepared
from lumiply.engine.pixels import to_picture
from lumiply.engine.start import choose_device
from lumiply.images import read_photo

STEPS = (1, 2, 4, 6, 8, 10, 15, 20, 25, 50)


@dataclass(frozen=True)
class Subject:
    """A photo, and where it was rendered the truth by colour, 8-bit levels of its size."""

    photo: Image.Image
    truth: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


def rooms_of(folder: Path, count: int) -> list[Subject]:
    """The first rendered rooms of `folder`, in daylight and with lamps as `lumiply.evaluation.rooms` shows them.

    Raises:
        UserError: there are not that many.
    """
    from lumiply.evaluation.rooms import first_rooms, shown_rooms  # needs the training extra

    pictures = [room.pictures for room in shown_rooms(first_rooms(folder, count))]
    return [Subject(Image.fromarray(each.photo), each.lit) for each in pictures]


def distances(
    pipeline: Pipeline,
    subjects: Sequence[Subject],
    colors: Sequence[str],
    *,
    steps: Sequence[int] = STEPS,
    reference_steps: int = 1000,
    seed: int = 42,
) -> dict[str, dict[str, list[float]]]:
    """{sampler: {steps: means over all photos}}: relative L2 of the latents, PSNR of the pictures in dB, and, where
    the truth is known, PSNR against that."""
    found: dict[str, dict[str, list[list[float]]]] = {name: {str(n): [] for n in steps} for name in SAMPLERS}
    for one in tqdm(subjects, desc="photos", disable=None):
        prepared, noise = pipeline.prepare(one.photo, colors), pipeline.noise(seed)

        def render(
            sampler: str, n: int, prepared: Prepared = prepared, noise: Tensor = noise
        ) -> tuple[Tensor, Tensor]:
            z = pipeline.denoise(prepared.conditions, noise, n, sampler=sampler)
            return z, pipeline.decode(z, prepared.features)

        z, picture = render("ddim", reference_steps)
        for name, by_steps in found.items():
            for n in steps:
                ours, decoded = render(name, n)
                row = [float((ours - z).norm() / z.norm()), psnr(decoded, picture)]
                if one.truth:
                    shown = [np.asarray(to_picture(levels, prepared.size)) for levels in decoded]
                    truth = [one.truth[color] for color in colors]
                    row.append(psnr(torch.from_numpy(np.stack(shown)), torch.from_numpy(np.stack(truth))))
                by_steps[str(n)].append(row)
    return {
        name: {
            n: [sum(column) / len(column) for column in zip(*rows, strict=False)]
            for n, rows in by_steps.items()
        }
        for name, by_steps in found.items()
    }


def psnr(ours: Tensor, exact: Tensor) -> float:
    """In dB, of pictures in 8-bit levels, their errors taken together; 167 dB where they are equal."""
    mean = max(float((ours.double() - exact.double()).square().mean()), 1e-12)
    return 10 * math.log10(255**2 / mean)


def add_options(parser: argparse.ArgumentParser, colors: Sequence[str]) -> None:
    """Which photos are rendered how; `colors` by default."""
    parser.add_argument("photos", nargs="*", type=Path, help="by default the sample rooms in images/")
    parser.add_argument("--model", default="mini", choices=("full", "mini"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--colors", nargs="+", choices=COLORS, default=list(colors))
    parser.add_argument("--out", type=Path, help="write all results there, as JSON")
    parser.add_argument("--quick", action="store_true", help="a few steps: whether it works, no figures")


def sample_photos() -> list[Path]:
    return sorted(Path("images").glob("sample_*.png"))


def pipeline_of(model: str, device: torch.device) -> Pipeline:
    """All of it in one precision, so that samplers alone differ."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return subject(model).pipeline(device, dtype, dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, COLORS)
    parser.add_argument(
        "--rooms", type=Path, help="folder of rendered rooms, besides the photos or in their place"
    )
    parser.add_argument("--count", type=int, default=6, help="rooms of that folder")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    pipeline = pipeline_of(given.model, device)
    paths = given.photos or ([] if given.rooms else sample_photos())
    photos = [Subject(read_photo(path)) for path in paths]
    if given.rooms:
        photos += rooms_of(given.rooms, given.count)
    steps, reference = ((1, 2), 4) if given.quick else (given.steps, 1000)
    began = time.perf_counter()
    found = distances(pipeline, photos, given.colors, steps=steps, reference_steps=reference)
    took = time.perf_counter() - began
    results = Results(
        given.out, {**machine(device), "photos": len(photos), "colors": given.colors, "took_s": took}
    )
    results.put("distance", found)
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}: distance to {reference} steps of DDIM, "
        f"{len(photos)} photos, {len(given.colors)} colours\n"
    )
    rows = [[n, *(cell for name in SAMPLERS for cell in found[name][str(n)])] for n in steps]
    columns = (
        ("rel. L2", "dB", "dB to the truth") if all(photo.truth for photo in photos) else ("rel. L2", "dB")
    )
    head = ["steps", *(f"{name}, {column}" for name in SAMPLERS for column in columns)]
    print(table(head, rows))


if __name__ == "__main__":
    main()
