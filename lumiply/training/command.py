"""The command line of the mini model's training."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lumiply.errors import LumiplyError
from lumiply.synth.backend import RendererUnavailable

DEFAULT_MINUTES = {"autoencoder": 5.0, "base": 14.0, "refine": 27.0, "adaptors": 1.0}
DEFAULT_STEPS = {"autoencoder": 6000, "base": 40000, "refine": 40000, "adaptors": 2000}
DEFAULT_BATCH = {"autoencoder": 64, "base": 64, "refine": 64, "adaptors": 60}
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("stages", nargs=-1, type=click.Choice(["autoencoder", "base", "refine", "adaptors"]))
@click.option("--rooms", type=FOLDER, required=True, help="Rendered rooms to train on (lumiply synth).")
@click.option("--validation", type=FOLDER, required=True, help="Rendered rooms that training never sees.")
@click.option("--out", type=FOLDER, default=Path("runs/mini"), help="Where weights and logs go.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Limit of each stage, in minutes.")
@click.option("--steps", type=click.IntRange(1), help="Limit of each stage, in optimiser steps.")
@click.option("--batch", type=click.IntRange(1), help="Pairs a step.")
@click.option("--least-rooms", type=int, default=256, help="Rooms that training needs.")
@click.option("--most-rooms", type=click.IntRange(1), default=12000, help="Rooms to hold in memory at most.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, help="Seconds to wait for them in a growing folder."
)
@click.option("--validation-rooms", type=int, default=64, help="Held-out rooms to load.")
@click.option(
    "--render", type=click.IntRange(0), default=0, help="Render so many rooms first, where missing."
)
@click.option("--render-samples", type=click.IntRange(1), default=32, help="Light paths a pixel of these.")
@click.option(
    "--renderers",
    type=click.IntRange(0),
    default=0,
    help="Processes that render these beside training; 0 renders before it.",
)
@click.option(
    "--render-on",
    default="",
    help="GPUs that these processes take in turn, as 0,1.",
)
@click.option("--first-room", type=click.IntRange(0), default=0, help="Seed of the first room to render.")
@click.option(
    "--blend",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Share of the refined weights; the rest are those that refinement began with.",
)
@click.option("--seed", type=int, default=0, help="Of the weights, the pairs and the noise.")
@click.option(
    "--compile/--eager", "compiled", default=False, help="Fuse the diffusion stages (GPU, minutes)."
)
@click.option("--device", default="cuda", help="cuda or cpu.")
@click.option("--precision", default="bf16-mixed", help="As Lightning names it; 32-true on a CPU.")
def main(
    stages: tuple[str, ...],
    rooms: Path,
    validation: Path,
    out: Path,
    minutes: float | None,
    steps: int | None,
    batch: int | None,
    render: int,
    render_samples: int,
    renderers: int,
    render_on: str,
    first_room: int,
    **plan_options: Any,
) -> None:
    """Train STAGES (all of them by default, in this order: autoencoder, base, refine, adaptors).

    Each stage goes on from the weights that OUT holds.
    """
    from lumiply.training.mini import STAGES, MiniPlan, MiniTraining, new_renderer, render_rooms, room_orders
    from lumiply.training.renderers import Renderers

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan = MiniPlan(
        rooms=rooms,
        validation=validation,
        out=out,
        minutes=DEFAULT_MINUTES if minutes is None else dict.fromkeys(STAGES, minutes),
        steps=DEFAULT_STEPS if steps is None else dict.fromkeys(STAGES, steps),
        batch=DEFAULT_BATCH if batch is None else dict.fromkeys(STAGES, batch),
        **plan_options,
    )
    try:
        with contextlib.ExitStack() as stack:
            check = None
            if render and renderers:
                orders = room_orders(plan, render, render_samples, first_room)
                devices = [device for device in render_on.split(",") if device]
                check = stack.enter_context(Renderers(orders, renderers, devices)).check
                plan = replace(plan, wait=math.inf)  # as long as one of them renders
            elif render:
                render_rooms(plan, render, lambda: new_renderer(plan, render_samples), first_room)
            training = MiniTraining(plan, check)
            for stage in stages or STAGES:
                getattr(training, stage)()
    except (LumiplyError, RendererUnavailable) as error:
        raise click.ClickException(str(error)) from error
