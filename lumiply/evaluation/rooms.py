"""How well the model relights rooms that training never saw, against the rendered truth.

    python -m lumiply.evaluation.rooms --rooms runs/test --count 100

Prints PSNR a colour beside that of returning the input unchanged.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lumiply.colors import COLORS, LAMP_RGB
from lumiply.engine.pipeline import Pipeline
from lumiply.errors import LumiplyError, UserError
from lumiply.synth.compose import LayerBatch, compose, normalise_layers
from lumiply.synth.render import RoomLayers

#: Median linear luminance of the test rooms' daylight, cycled: night, dusk, day.
AMBIENT_LEVELS = (0.04, 0.08, 0.16)
#: The least that this release promises over returning the input unchanged, in dB.
BAR_DB = 3.0


@dataclass(frozen=True)
class ColorScore:
    """Mean PSNR in dB over rooms, of the model and of the unchanged input."""

    color: str
    rooms: int
    model: float
    unchanged: float

    @property
    def gain(self) -> float:
        return self.model - self.unchanged


def room_pair(room: RoomLayers, color: str, *, ambient: float, pasted: bool) -> tuple[Tensor, Tensor]:
    """Unlit and lit picture of a room, (3, H, W) in [0, 1]; the lamp drawn in place, or pasted flat."""
    batch = normalise_layers(LayerBatch.from_rooms([room]), ambient)
    one = torch.ones(1)
    pair = compose(
        batch.ambient,
        batch.ambient_without_lamp,
        batch.lamp,
        batch.lamp_alpha,
        batch.lamp_flat,
        color=torch.tensor([LAMP_RGB[color]]),
        strength=one,
        exposure=one,
        pasted=torch.tensor([pasted]),
        paste_opacity=0.9,
    )
    return pair.off[0], pair.on[0]


def picture(tensor: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> 8-bit RGB picture."""
    levels = (tensor * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(levels.contiguous().numpy())


def evaluate(
    pipeline: Pipeline, rooms: list[Path], *, steps: int, seed: int = 0, examples: Path | None = None
) -> list[ColorScore]:
    """Relight every room in every colour by the whole pipeline, as a request would be.

    Half of the rooms show their lamp pasted flat. `examples`, where given, receives a picture of the first rooms.
    """
    from skimage.metrics import peak_signal_noise_ratio

    ours: dict[str, list[float]] = {color: [] for color in COLORS}
    unchanged: dict[str, list[float]] = {color: [] for color in COLORS}
    strips: list[np.ndarray] = []
    for index, path in enumerate(tqdm(rooms, desc="rooms", unit="room")):
        room = RoomLayers.load(path)
        level = AMBIENT_LEVELS[index % len(AMBIENT_LEVELS)]
        pairs = {c: room_pair(room, c, ambient=level, pasted=index % 2 == 1) for c in COLORS}
        photo = picture(pairs[COLORS[0]][0])
        results = pipeline.relight(photo, COLORS, seed=seed, steps=steps)
        for color in COLORS:
            truth = np.asarray(picture(pairs[color][1]))
            ours[color].append(peak_signal_noise_ratio(truth, np.asarray(results[color])))
            unchanged[color].append(peak_signal_noise_ratio(truth, np.asarray(photo)))
        if len(strips) < 24:
            truths = [np.asarray(picture(pairs[color][1])) for color in COLORS]
            strips.append(np.hstack([np.asarray(photo), *truths]))
            strips.append(np.hstack([np.zeros_like(truths[0]), *(np.asarray(results[c]) for c in COLORS)]))
    if examples is not None:
        Image.fromarray(np.vstack(strips)).save(examples, quality=85)
    return [ColorScore(c, len(rooms), float(np.mean(ours[c])), float(np.mean(unchanged[c]))) for c in COLORS]


def table(scores: list[ColorScore]) -> str:
    """The scores as a Markdown table."""
    rows = ["| colour | rooms | model, dB | input unchanged, dB | gain, dB | |", "|---|---|---|---|---|---|"]
    for score in scores:
        verdict = "ok" if score.gain >= BAR_DB else f"below {BAR_DB:.0f}"
        rows.append(
            f"| {score.color} | {score.rooms} | {score.model:.2f} | {score.unchanged:.2f} "
            f"| {score.gain:+.2f} | {verdict} |"
        )
    return "\n".join(rows)


@click.command(context_settings={"show_default": True})
@click.option("--rooms", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--count", type=click.IntRange(1), default=100, help="Rooms to use.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=Path("ckpt"), help="Folder that holds mini/."
)
@click.option("--device", default="cpu")
@click.option("--precision", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32")
@click.option("--steps", type=click.IntRange(1, 1000), default=20)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures there.")
@click.option("--examples", type=click.Path(path_type=Path), help="Also write a picture of the first rooms.")
def main(
    rooms: Path,
    count: int,
    weights: Path,
    device: str,
    precision: str,
    steps: int,
    json_path: Path | None,
    examples: Path | None,
) -> None:
    """Relight rendered ROOMS of the test split with the mini model and print PSNR a colour."""
    from lumiply.engine.start import load_pipeline
    from lumiply.weights import find_weights

    logging.basicConfig(level=logging.INFO)
    try:
        files = sorted(rooms.glob("room_*.npz"))[:count]
        if len(files) < count:
            raise UserError(f"{rooms} holds {len(files)} rooms, {count} were asked for")
        chosen = find_weights(weights, Path("adaptors"), "mini")
        pipeline = load_pipeline(chosen, device=device, dtype=getattr(torch, precision))
        scores = evaluate(pipeline, files, steps=steps, examples=examples)
    except LumiplyError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(scores))
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(score) for score in scores], indent=1))


if __name__ == "__main__":
    main()
