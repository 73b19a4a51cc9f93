"""How well the model relights rooms that training never saw, against the rendered truth.

    python -m lumiply.evaluation.rooms --rooms runs/test --count 100

Prints the mean scores of each colour beside those of two rivals: the input unchanged, and the best that one gain
and one tint can make of it, knowing the truth (`docs/evaluation.md`).
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lumiply.colors import BASE_COLOR, COLORS, LAMP_RGB
from lumiply.engine.pipeline import Pipeline
from lumiply.errors import LumiplyError, UserError
from lumiply.evaluation import metrics
from lumiply.files import write_whole
from lumiply.synth.compose import LayerBatch, compose, normalise_layers, tone_curve
from lumiply.synth.render import RoomLayers
from lumiply.version import __version__
from lumiply.weights import WeightFiles

#: Median linear luminance of the test rooms' daylight, cycled: night, dusk, day.
AMBIENT_LEVELS: Final = (0.04, 0.08, 0.16)
#: How much of the photo a pasted lamp covers.
PASTE_OPACITY: Final = 0.9
#: Rooms that the picture of examples shows.
EXAMPLES: Final = 12

#: What the model has to reach in the mean over rooms, in every colour.
LEAST_PSNR: Final = 26.0
LEAST_SSIM: Final = 0.88
LEAST_GAIN_OVER_UNCHANGED: Final = 6.0
LEAST_GAIN_OVER_TINT: Final = 3.0
LEAST_IDENTITY: Final = 0.95
#: In degrees; white has no hue to miss.
MOST_HUE_ERROR: Final = 10.0

Levels = NDArray[np.uint8]


@dataclass(frozen=True)
class RoomPictures:
    """What a room looks like, as 8-bit pictures (H, W, 3).

    Attributes:
        photo: what the model sees: the lamp switched off, or pasted flat over the room.
        unlit: the room with the lamp in place and off; `photo` where nothing is pasted.
        lit: the truth by colour.
    """

    photo: Levels
    unlit: Levels
    lit: dict[str, Levels]


@dataclass(frozen=True)
class ShownRoom:
    """A room under its file's name, with the daylight and the lamp in which it is judged."""

    name: str
    ambient: float
    pasted: bool
    pictures: RoomPictures


@dataclass(frozen=True)
class RoomScore:
    """One room in one colour; the three PSNR are those of the model and of its rivals, in dB.

    Attributes:
        hue_error: in degrees; None where the lamp adds no coloured light.
        identity: SSIM where the lamp adds nothing; None where it reaches everything.
    """

    room: str
    color: str
    ambient: float
    pasted: bool
    psnr: float
    unchanged: float
    gain_and_tint: float
    ssim: float
    hue_error: float | None
    identity: float | None


@dataclass(frozen=True)
class ColorScore:
    """Means over `rooms` rooms; hue error and identity over those that have one."""

    color: str
    rooms: int
    psnr: float
    unchanged: float
    gain_and_tint: float
    ssim: float
    hue_error: float | None
    hue_rooms: int
    identity: float | None
    identity_rooms: int

    @property
    def misses(self) -> list[str]:
        """The bars that this colour does not reach, each in a few words."""
        at_least = [
            ("PSNR", self.psnr, LEAST_PSNR),
            ("over unchanged", self.psnr - self.unchanged, LEAST_GAIN_OVER_UNCHANGED),
            ("over gain+tint", self.psnr - self.gain_and_tint, LEAST_GAIN_OVER_TINT),
            ("SSIM", self.ssim, LEAST_SSIM),
            ("identity", self.identity, LEAST_IDENTITY),
        ]
        missed = [f"{name} < {bar:g}" for name, value, bar in at_least if value is not None and value < bar]
        if self.color != BASE_COLOR and self.hue_error is not None and self.hue_error > MOST_HUE_ERROR:
            missed.append(f"hue > {MOST_HUE_ERROR:g}")
        return missed


def first_rooms(folder: Path, count: int) -> list[Path]:
    """The first files of rendered rooms.

    Raises:
        UserError: there are not that many.
    """
    files = sorted(folder.glob("room_*.npz"))[:count]
    if len(files) < count:
        raise UserError(f"{folder} holds {len(files)} rooms, {count} were asked for")
    return files


def shown_rooms(rooms: Sequence[Path]) -> Iterator[ShownRoom]:
    """The rooms as they are judged: daylight from night to day in turn, every second lamp pasted flat.

    Raises:
        ValueError: a file is no rendered room.
    """
    for index, path in enumerate(tqdm(rooms, desc="rooms", unit="room", disable=None)):
        ambient, pasted = AMBIENT_LEVELS[index % len(AMBIENT_LEVELS)], index % 2 == 1
        pictures = room_pictures(RoomLayers.load(path), ambient=ambient, pasted=pasted)
        yield ShownRoom(path.stem, ambient, pasted, pictures)


def room_pictures(room: RoomLayers, *, ambient: float, pasted: bool) -> RoomPictures:
    """Compose a room in all colours; the lamp drawn in place, or pasted flat as the client does it."""
    layers = normalise_layers(LayerBatch.from_rooms([room]), ambient)
    k = len(COLORS)
    ones = torch.ones(k)
    pairs = compose(
        *(getattr(layers, name).expand(k, -1, -1, -1) for name in LayerBatch.__dataclass_fields__),
        color=torch.tensor([LAMP_RGB[color] for color in COLORS]),
        strength=ones,
        exposure=ones,
        pasted=torch.full((k,), pasted),
        paste_opacity=PASTE_OPACITY,
    )
    lit = {color: to_levels(on) for color, on in zip(COLORS, pairs.on, strict=True)}
    return RoomPictures(to_levels(pairs.off[0]), to_levels(tone_curve(layers.ambient[0])), lit)


def to_levels(tensor: Tensor) -> Levels:
    """(3, H, W) in [0, 1] -> 8-bit levels (H, W, 3)."""
    levels = (tensor * 255).round().to(torch.uint8).permute(1, 2, 0)  # c h w -> h w c
    return np.ascontiguousarray(levels.numpy())


def score_room(
    name: str, pictures: RoomPictures, results: dict[str, Levels], *, ambient: float, pasted: bool
) -> list[RoomScore]:
    """Score the results of one room, by colour, against its truth."""
    photo, unlit = display(pictures.photo), display(pictures.unlit)
    scores = []
    for color, result in results.items():
        truth, ours = display(pictures.lit[color]), display(result)
        true_added = metrics.added_light(truth, unlit)
        ssim, similarity = metrics.ssim_grey_map(ours, truth)
        score = RoomScore(
            room=name,
            color=color,
            ambient=ambient,
            pasted=pasted,
            psnr=metrics.psnr(truth, ours),
            unchanged=metrics.psnr(truth, photo),
            gain_and_tint=metrics.psnr(truth, metrics.best_gain_and_tint(photo, truth)),
            ssim=ssim,
            hue_error=metrics.hue_error(metrics.added_light(ours, unlit), true_added),
            identity=metrics.identity_ssim(similarity, true_added),
        )
        scores.append(score)
    return scores


def evaluate(
    pipeline: Pipeline, rooms: Sequence[Path], *, steps: int, seed: int = 0, examples: Path | None = None
) -> list[RoomScore]:
    """Relight every room in every colour by the whole pipeline, as a request would be.

    Half of the rooms show their lamp pasted flat. `examples`, where given, receives a picture of the first rooms.

    Raises:
        ValueError: a file is no rendered room.
    """
    scores: list[RoomScore] = []
    strips: list[Levels] = []
    for index, room in enumerate(shown_rooms(rooms)):
        pictures = room.pictures
        relit = pipeline.relight(Image.fromarray(pictures.photo), COLORS, seed=seed, steps=steps)
        results = {color: np.asarray(relit[color]) for color in COLORS}
        scores += score_room(room.name, pictures, results, ambient=room.ambient, pasted=room.pasted)
        if examples is not None and index < EXAMPLES:
            strips.append(np.hstack([pictures.photo, *pictures.lit.values()]))
            strips.append(np.hstack([pictures.unlit, *results.values()]))
    if examples is not None:
        examples.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(strips)).save(examples, quality=85)
    return scores


def by_color(scores: Sequence[RoomScore]) -> list[ColorScore]:
    """Means of every colour that `scores` holds, in the order of `COLORS`."""
    found = {color: [score for score in scores if score.color == color] for color in COLORS}
    return [mean_score(color, of_color) for color, of_color in found.items() if of_color]


def mean_score(color: str, scores: Sequence[RoomScore]) -> ColorScore:
    """Means of `scores`, at least one, under the name `color`."""
    hues = [score.hue_error for score in scores if score.hue_error is not None]
    identities = [score.identity for score in scores if score.identity is not None]
    return ColorScore(
        color=color,
        rooms=len({score.room for score in scores}),
        psnr=_mean([score.psnr for score in scores]),
        unchanged=_mean([score.unchanged for score in scores]),
        gain_and_tint=_mean([score.gain_and_tint for score in scores]),
        ssim=_mean([score.ssim for score in scores]),
        hue_error=_mean(hues) if hues else None,
        hue_rooms=len(hues),
        identity=_mean(identities) if identities else None,
        identity_rooms=len(identities),
    )


def table(scores: Sequence[ColorScore]) -> str:
    """The scores as a Markdown table, with the bars in the last row and a verdict in the last column."""
    columns = (
        "colour | rooms | model, dB | unchanged, dB | gain+tint, dB | over unchanged | over gain+tint "
        "| SSIM | hue error, deg | identity SSIM | verdict"
    )
    rows = [f"| {columns} |", "|---" * (columns.count("|") + 1) + "|"]
    for score in scores:
        rows.append(
            f"| {score.color} | {score.rooms} | {score.psnr:.2f} | {score.unchanged:.2f} "
            f"| {score.gain_and_tint:.2f} | {score.psnr - score.unchanged:+.2f} "
            f"| {score.psnr - score.gain_and_tint:+.2f} | {score.ssim:.3f} | {_shown(score.hue_error, '.1f')} "
            f"| {_shown(score.identity, '.3f')} | {', '.join(score.misses) or 'ok'} |"
        )
    rows.append(
        f"| *bar* | | {LEAST_PSNR:g} | | | {LEAST_GAIN_OVER_UNCHANGED:+g} | {LEAST_GAIN_OVER_TINT:+g} "
        f"| {LEAST_SSIM:g} | {MOST_HUE_ERROR:g} | {LEAST_IDENTITY:g} | |"
    )
    return "\n".join(rows)


def report(scores: Sequence[RoomScore], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, for a JSON file: settings, bars, the mean of each colour, and every room."""
    bars = {
        "psnr": LEAST_PSNR,
        "ssim": LEAST_SSIM,
        "over_unchanged": LEAST_GAIN_OVER_UNCHANGED,
        "over_gain_and_tint": LEAST_GAIN_OVER_TINT,
        "hue_error": MOST_HUE_ERROR,
        "identity": LEAST_IDENTITY,
    }
    colors = [{**asdict(score), "misses": score.misses} for score in by_color(scores)]
    return {
        "settings": settings,
        "bars": bars,
        "colors": colors,
        "rooms": [asdict(score) for score in scores],
    }


def display(levels: Levels) -> NDArray[np.float32]:
    """8-bit levels -> display values in [0, 1]."""
    return levels.astype(np.float32) / np.float32(255)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def model_settings(weights: WeightFiles, device: torch.device) -> dict[str, Any]:
    """Which model ran on what, for a report."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "weights": weights.describe(),
        "fingerprint": weights.fingerprint(),
        "device": name,
        "torch": torch.__version__,
        "lumiply": __version__,
    }


@click.command(context_settings={"show_default": True})
@click.option("--rooms", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--count", type=click.IntRange(1), default=100, help="Rooms to use.")
@click.option(
    "--weights", type=click.Path(path_type=Path), default=Path("ckpt"), help="Folder that holds mini/."
)
@click.option("--device", default="cpu")
@click.option("--precision", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32")
@click.option("--steps", type=click.IntRange(1, 1000), help="Denoising steps.  [default: the model's own]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the noise.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures there.")
@click.option("--examples", type=click.Path(path_type=Path), help="Also write a picture of the first rooms.")
def main(
    rooms: Path, count: int, weights: Path, device: str, precision: str, steps: int | None, seed: int,
    json_path: Path | None, examples: Path | None,
) -> None:  # fmt: skip
    """Relight rendered ROOMS of the test split with the mini model and print the scores of each colour."""
    from lumiply.engine.start import DEFAULT_STEPS, load_pipeline
    from lumiply.weights import find_weights

    logging.basicConfig(level=logging.INFO)
    try:
        files = first_rooms(rooms, count)
        chosen = find_weights(weights, Path("adaptors"), "mini")
        pipeline = load_pipeline(chosen, device=device, dtype=getattr(torch, precision))
        steps = steps or DEFAULT_STEPS[chosen.variant]
        started = time.monotonic()
        scores = evaluate(pipeline, files, steps=steps, seed=seed, examples=examples)
    except (LumiplyError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(by_color(scores)))
    if json_path is None:
        return
    settings = {
        "rooms": str(rooms),
        "count": count,
        "steps": steps,
        "seed": seed,
        "ambient_levels": AMBIENT_LEVELS,
        "precision": precision,
        **model_settings(chosen, pipeline.device),
        "seconds": round(time.monotonic() - started, 1),
    }
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(json_path, json.dumps(report(scores, settings), indent=1, allow_nan=False).encode())


if __name__ == "__main__":
    main()
