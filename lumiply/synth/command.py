"""The command `synth`: render synthetic rooms into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from lumiply.errors import LumiplyError
from lumiply.synth.backend import VARIANTS, RendererUnavailable
from lumiply.synth.preview import save_sheet
from lumiply.synth.render import Renderer, RoomLayers
from lumiply.synth.spec import SPLITS, Split
from lumiply.synth.stream import render_to_folder, room_path, share


@click.command("synth")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the rooms."
)
@click.option(
    "--first", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the first room."
)
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many rooms.")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True)
@click.option(
    "--size", type=click.IntRange(min=8), default=256, show_default=True, help="Pixels along each side."
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=64, show_default=True, help="Light paths per pixel."
)
@click.option(
    "--variant", type=click.Choice(VARIANTS), default=None, help="Mitsuba variant; the best by default."
)
@click.option("--denoise/--no-denoise", default=None, help="OptiX denoiser; on by default where it works.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the work.",
)
@click.option(
    "--workers-index", type=click.IntRange(min=0), default=0, show_default=True, help="Which of them this is."
)
@click.option(
    "--preview",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write a contact sheet here.",
)
def synth(
    out: Path, first: int, count: int, split: str, size: int, samples: int, variant: str | None, denoise: bool | None,
    workers: int, workers_index: int, preview: Path | None,
) -> None:  # fmt: skip
    """Render synthetic rooms as layers of light; files that are there already are kept."""
    try:
        seeds = list(share(range(first, first + count), workers_index, workers))
        renderer = Renderer(variant, size=size, samples=samples, denoise=denoise)
        report = render_to_folder(out, seeds, cast(Split, split), renderer)
        if preview is not None:
            save_sheet(preview, ((seed, RoomLayers.load(room_path(out, seed))) for seed in seeds))
    except (RendererUnavailable, LumiplyError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(report.rendered)} rooms rendered into {out}, {len(report.skipped)} were there already")
