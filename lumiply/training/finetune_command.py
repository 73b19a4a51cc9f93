"""`lumiply train crossattn` and `lumiply train adaptors`; options first, the heavy packages when a run begins."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from lumiply.colors import BASE_COLOR, COLORS
from lumiply.settings import Settings

if TYPE_CHECKING:
    from lumiply.training.tuning_jobs import Job

Command = TypeVar("Command", bound=Callable[..., Any])
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
FILE: Final = click.Path(dir_okay=False, path_type=Path)
ALL: Final = "all"

_SHARED: Final = (
    click.option("--data", type=FOLDER, required=True, help="Photos, split into train and validation."),
    click.option(
        "--base", required=True, metavar="FILE|mini",
        help="The model to start from: a checkpoint such as ckpt/trained_crossattn.ckpt, with new_decoder.ckpt"
        " beside it; or mini, the embedded one.",
    ),
    click.option("--config", type=FILE, help="The base's configuration, if it is none of models/."),
    click.option("--epochs", type=click.IntRange(1), default=10, help="Passes over the training pairs, in all."),
    click.option("--batch", type=click.IntRange(1), default=4, help="Pairs at a time."),
    click.option("--accumulate", type=click.IntRange(1), default=1, help="Batches a step of the optimiser."),
    click.option(
        "--precision", type=click.Choice(["auto", "32-true", "bf16-mixed", "16-mixed"]), default="auto",
        help="auto is bf16-mixed on a GPU that has it, else 32-true.",
    ),
    click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--gradient-checkpointing", "recompute", is_flag=True,
        help="Compute activations twice in place of keeping them: less memory, more time, the same result.",
    ),
    click.option(
        "--ema", "average", type=click.FloatRange(0, 1, max_open=True), default=0.0, metavar="DECAY",
        help="Validate and keep a moving average of the weights, such as 0.999; 0 is off.",
    ),
    click.option("--flip", is_flag=True, help="Mirror pairs by chance, if the photos are not augmented."),
    click.option("--every", type=click.IntRange(0), default=0, help="Keep a checkpoint every so many epochs."),
    click.option(
        "--picture-steps", type=click.IntRange(1, 1000),
        help="Denoising steps of the validation picture.  [default: those that the model renders with]",
    ),
    click.option("--workers", type=click.IntRange(0), default=2, help="Processes that decode photos."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Of the order, the timesteps and the noise."),
)  # fmt: skip


def shared_options(command: Command) -> Command:
    for option in reversed(_SHARED):
        command = option(command)
    return command


CONTEXT: Final = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.command(context_settings=CONTEXT)
@shared_options
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-5, help="Of AdamW.")
@click.option("--out", type=FOLDER, default=Path("runs/crossattn"), help="Checkpoints, losses, pictures.")
@click.option(
    "--result", type=FILE,
    help="The model that is written in the end.  [default: OUT/trained_crossattn.ckpt; for mini"
    " OUT/ckpt/mini/lumiply_mini.safetensors]",
)  # fmt: skip
def crossattn(result: Path | None, **options: Any) -> None:
    """Fine-tune every attention block of UNet and ControlNet on your own photos, off and on (white).

    All other weights stay as they are. The same command again goes on where it was stopped, and a larger
    --epochs trains on.
    """
    jobs = _jobs()
    click.echo(jobs.train_crossattn(_job(**options), result).text())


@click.command(context_settings=CONTEXT)
@shared_options
@click.option(
    "--color", "colors", multiple=True, type=click.Choice([*COLORS, ALL]), default=(ALL,), metavar="COLOR",
    help=f"May be given several times: {', '.join(COLORS)}, or all: every colour but white.",
)  # fmt: skip
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-4, help="Of AdamW.")
@click.option("--out", type=FOLDER, default=Path("runs/adaptors"), help="Checkpoints, losses, pictures.")
@click.option(
    "--adaptors-dir", "folder", type=FOLDER,
    help="Where adaptor_COLOR.pth is written in the end.  [default: where the server looks; for mini OUT/ckpt/mini]",
)  # fmt: skip
@click.option("--start", type=FOLDER, help="Adaptors to go on from, in place of the model's own white light.")
def adaptors(colors: tuple[str, ...], folder: Path | None, start: Path | None, **options: Any) -> None:
    """Train the adaptors of one or more colours on your own photos, off and in these colours.

    The model itself stays as it is. The same command again goes on where it was stopped, and a larger --epochs
    trains on.
    """
    jobs = _jobs()
    every = [color for color in COLORS if color != BASE_COLOR]
    wanted = {name for color in colors for name in (every if color == ALL else [color])}
    click.echo(jobs.train_adaptors(_job(**options), sorted(wanted), folder, start).text())


def _jobs() -> ModuleType:
    """The module that trains; it imports torch and Lightning.

    Raises:
        click.ClickException: a package of the training extra is not installed.
    """
    try:
        return importlib.import_module("lumiply.training.tuning_jobs")
    except ImportError as exc:
        raise click.ClickException(
            f"Training needs a package that is not installed: {exc.name or exc}."
            " `pip install 'lumiply[training]'` adds it."
        ) from exc


def _job(
    *,
    data: Path,
    base: str,
    config: Path | None,
    learning_rate: float,
    flip: bool,
    recompute: bool,
    picture_steps: int | None,
    **tuning: Any,
) -> Job:
    from lumiply.training.tuning_jobs import Job
    from lumiply.training.tuning_run import Tuning

    settings = Settings.from_env()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return Job(
        data,
        base,
        Tuning(**tuning, progress=sys.stderr.isatty()),
        learning_rate,
        ckpt_dir=settings.ckpt_dir,
        adaptors_dir=settings.adaptors_dir,
        config=config,
        flip=flip,
        recompute=recompute,
        picture_steps=picture_steps,
    )
