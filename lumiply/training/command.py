"""The command line of the mini model's training."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from lumiply.errors import LumiplyError
from lumiply.synth.backend import RendererUnavailable

DEFAULT_MINUTES = {"autoencoder": 5.0, "base": 9.0, "adaptors": 2.0}
DEFAULT_STEPS = {"autoencoder": 6000, "base": 20000, "adaptors": 2000}
DEFAULT_BATCH = {"autoencoder": 64, "base": 128, "adaptors": 96}
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("stages", nargs=-1, type=click.Choice(["autoencoder", "base", "adaptors"]))
@click.option("--rooms", type=FOLDER, required=True, help="Rendered rooms to train on (lumiply synth).")
@click.option("--validation", type=FOLDER, required=True, help="Rendered rooms that training never sees.")
@click.option("--out", type=FOLDER, default=Path("runs/mini"), help="Where weights and logs go.")
@click.option("--minutes", type=float, help="Limit of each stage, in minutes.")
@click.option("--steps", type=int, help="Limit of each stage, in optimiser steps.")
@click.option("--batch", type=int, help="Pairs a step.")
@click.option("--least-rooms", type=int, default=256, help="Rooms that training needs.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, help="Seconds to wait for them in a growing folder."
)
@click.option("--validation-rooms", type=int, default=64, help="Held-out rooms to load.")
@click.option(
    "--render", type=click.IntRange(0), default=0, help="Render so many rooms first, where missing."
)
@click.option("--render-samples", type=click.IntRange(1), default=32, help="Light paths a pixel of these.")
@click.option("--seed", type=int, default=0, help="Of the weights, the pairs and the noise.")
@click.option("--least-timestep", type=click.IntRange(0, 999), default=0, help="Smallest timestep to train.")
@click.option("--device", default="cuda", help="cuda or cpu.")
@click.option("--precision", default="bf16-mixed", help="As Lightning names it; 32-true on a CPU.")
def main(stages: tuple[str, ...], rooms: Path, validation: Path, out: Path, **options: object) -> None:
    """Train STAGES (all three by default, in this order: autoencoder, base, adaptors).

    Each stage goes on from the weights that OUT holds.
    """
    from lumiply.training.mini import STAGES, MiniPlan, MiniTraining, new_renderer, render_rooms

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def per_stage(name: str, default: dict[str, float] | dict[str, int]) -> dict[str, float]:
        value = options[name]
        return dict(default) if value is None else dict.fromkeys(STAGES, float(str(value)))

    def whole(name: str, default: dict[str, int]) -> dict[str, int]:
        return {stage: int(value) for stage, value in per_stage(name, default).items()}

    plan = MiniPlan(
        rooms=rooms,
        validation=validation,
        out=out,
        minutes=per_stage("minutes", DEFAULT_MINUTES),
        steps=whole("steps", DEFAULT_STEPS),
        batch=whole("batch", DEFAULT_BATCH),
        least_rooms=int(str(options["least_rooms"])),
        validation_rooms=int(str(options["validation_rooms"])),
        wait=float(str(options["wait"])),
        seed=int(str(options["seed"])),
        least_timestep=int(str(options["least_timestep"])),
        device=str(options["device"]),
        precision=str(options["precision"]),
    )
    try:
        if options["render"]:
            samples = int(str(options["render_samples"]))
            render_rooms(plan, int(str(options["render"])), lambda: new_renderer(plan, samples))
        training = MiniTraining(plan)
        for stage in stages or STAGES:
            getattr(training, stage)()
    except (LumiplyError, RendererUnavailable) as error:
        raise click.ClickException(str(error)) from error
