"""`lumiply convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lumiply.commands.common import set_up_logging, setting_options, shown
from lumiply.settings import Settings


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Where the two files go.  [default: where the model's own files are, so that the next start takes them]",
)  # fmt: skip
@click.option(
    "--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PHOTO",
    help="What is rendered to compare.  [default: a sample room]",
)  # fmt: skip
@setting_options("model", "ckpt_dir", "adaptors_dir", "device", "precision", "steps", "seed", "log_level")
def convert(out: Path | None, photo: Path | None, **options: Any) -> None:
    """Make one half-precision file of the weights, and a small one of all colours.

    The text tower and the adaptors are not needed after that, loading takes seconds, and the files are a third of the
    size. The same photo is rendered before and after; if the pictures differ by too much, nothing is written.
    """
    from lumiply.demo import find_sample
    from lumiply.engine.convert import convert as convert_files
    from lumiply.engine.start import DEFAULT_STEPS, choose_device, choose_precision
    from lumiply.images import read_photo
    from lumiply.weights import find_weights

    settings = Settings.from_env(**options)
    set_up_logging(settings)
    device = choose_device(settings.device)
    files = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model, converted=False)
    click.echo(f"Converting {files.describe()}")
    report = convert_files(
        files,
        files.checkpoint.parent if out is None else out,
        read_photo(photo or find_sample(), settings.max_megapixels),
        device=device,
        dtype=choose_precision(settings.precision, device),
        steps=settings.steps or DEFAULT_STEPS[files.variant],
        seed=settings.seed,
    )
    for path in (report.networks, report.palette):
        click.echo(f"{shown(path)}  {path.stat().st_size / 1e6:,.1f} MB")
    for color, psnr in report.psnr.items():
        click.echo(f"  {color:8} keeps {psnr:.1f} dB")
