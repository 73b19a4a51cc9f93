"""What keeps the mini model from the rendered truth: brightness, colour, decoder, or noise.

    python -m lumiply.evaluation.limits --rooms runs/test --count 40

Prints, for each colour, the PSNR of the model beside that of its own results after a repair that knows the truth
(`docs/training.md`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline, Prepared
from lumiply.engine.pixels import to_picture
from lumiply.errors import LumiplyError
from lumiply.evaluation import metrics
from lumiply.evaluation.rooms import (
    Levels,
    ShownRoom,
    display,
    first_rooms,
    model_settings,
    shown_rooms,
)
from lumiply.files import write_whole

#: The noise of the model's results, and the noise of those that they are compared with.
SEEDS: Final = (0, 1)


@dataclass(frozen=True)
class Limits:
    """PSNR in dB of one room in one colour, or means over rooms; against the truth, but for the last.

    Attributes:
        model: as it is.
        strength: its added light times the best factor.
        tint: its added light times the best factor a channel.
        true_latent: what the decoder makes of the truth's own latent.
        seeds: of the results from one noise against those from another.
    """

    model: float
    strength: float
    tint: float
    true_latent: float
    seeds: float


def room_limits(pipeline: Pipeline, room: ShownRoom, steps: int) -> dict[str, Limits]:
    """By colour, for one room."""
    prepared = pipeline.prepare(Image.fromarray(room.pictures.photo), COLORS)
    ours, others = (
        decoded(pipeline, prepared, pipeline.denoise(prepared.conditions, pipeline.noise(seed), steps))
        for seed in SEEDS
    )
    true_latents = [pipeline.encode(Image.fromarray(room.pictures.lit[color])) for color in COLORS]
    from_truth = decoded(pipeline, prepared, torch.cat(true_latents))
    photo = display(room.pictures.photo)
    found = {}
    for color, result, other, rebuilt in zip(COLORS, ours, others, from_truth, strict=True):
        truth = display(room.pictures.lit[color])
        found[color] = Limits(
            model=metrics.psnr(truth, result),
            strength=metrics.psnr(truth, best_strength(photo, result, truth, each_channel=False)),
            tint=metrics.psnr(truth, best_strength(photo, result, truth, each_channel=True)),
            true_latent=metrics.psnr(truth, rebuilt),
            seeds=metrics.psnr(result, other),
        )
    return found


def decoded(pipeline: Pipeline, prepared: Prepared, latents: Tensor) -> list[NDArray[np.float32]]:
    """The pictures of a photo's latents at the photo's size, as a request would get them."""
    levels: list[Levels] = [
        np.asarray(to_picture(each, prepared.size)) for each in pipeline.decode(latents, prepared.features)
    ]
    return [display(each) for each in levels]


def best_strength(
    photo: metrics.Picture, result: metrics.Picture, truth: metrics.Picture, *, each_channel: bool
) -> metrics.Picture:
    """photo + a (result - photo), clipped; a by least squares against the truth, one a picture or one a channel.

    Never further from the truth than `result`, which is the case a = 1.
    """
    added, missing = result.astype(np.float64) - photo, truth.astype(np.float64) - photo
    axes = (0, 1) if each_channel else (0, 1, 2)
    power, common = (added**2).sum(axes), (added * missing).sum(axes)
    factor = np.divide(common, power, out=np.ones_like(power), where=power > 0)
    return np.clip(photo + factor * added, 0, 1)


def mean_limits(limits: Sequence[Limits]) -> Limits:
    """The mean of every figure."""
    names = [field.name for field in fields(Limits)]
    return Limits(**{name: float(np.mean([getattr(each, name) for each in limits])) for name in names})


def table(means: dict[str, Limits]) -> str:
    """The means as a Markdown table, in dB, with their own mean in the last row."""
    columns = "colour | model | best strength | best factor a channel | true latent | two seeds"
    rows = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    for name, limits in [*means.items(), ("*mean*", mean_limits(list(means.values())))]:
        rows.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in asdict(limits).values()) + " |")
    return "\n".join(rows)


@click.command(context_settings={"show_default": True})
@click.option("--rooms", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--count", type=click.IntRange(1), default=40, help="Rooms to use.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=Path("ckpt"), help="Folder that holds mini/."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures there.")
def main(rooms: Path, count: int, weights: Path, json_path: Path | None) -> None:
    """Print what limits the mini model on rendered ROOMS of the test split, colour by colour, on the CPU."""
    from lumiply.engine.start import DEFAULT_STEPS, load_pipeline
    from lumiply.weights import find_weights

    logging.basicConfig(level=logging.INFO)
    started = time.monotonic()
    try:
        files = first_rooms(rooms, count)
        chosen = find_weights(weights, Path("adaptors"), "mini")
        pipeline = load_pipeline(chosen, device="cpu", dtype=torch.float32)
        steps = DEFAULT_STEPS[chosen.variant]
        found = {room.name: room_limits(pipeline, room, steps) for room in shown_rooms(files)}
    except (LumiplyError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    means = {color: mean_limits([limits[color] for limits in found.values()]) for color in COLORS}
    click.echo(table(means))
    if json_path is None:
        return
    report: dict[str, Any] = {
        "settings": {
            "rooms": str(rooms),
            "count": count,
            "steps": steps,
            "seeds": SEEDS,
            **model_settings(chosen, pipeline.device),
            "seconds": round(time.monotonic() - started, 1),
        },
        "colors": {color: asdict(limits) for color, limits in means.items()},
        "rooms": {
            name: {color: asdict(each) for color, each in limits.items()} for name, limits in found.items()
        },
    }
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(json_path, json.dumps(report, indent=1, allow_nan=False).encode())


if __name__ == "__main__":
    main()
