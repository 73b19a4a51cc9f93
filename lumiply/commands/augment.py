"""`lumiply augment`."""

from __future__ import annotations

from pathlib import Path

import click

from lumiply.training import augmentation, photos


def _steps() -> str:
    return ", ".join(f"{factor:g}" for factor in augmentation.KINDS["crossattn"].brightness)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--kind", required=True, type=click.Choice(list(augmentation.KINDS)),
    help="What the data is for. crossattn: flips, and brightness steps on the off photos; 95 % of the scenes train."
    " adaptor: flips; 80 % train.",
)  # fmt: skip
@click.option(
    "--brightness", multiple=True, type=float, metavar="FACTOR",
    help="A factor on the off photos, beside 1; may be given several times. For crossattn only."
    f"  [default: {_steps()}]",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="NUMBER",
    help="Of the choice of rooms that validate.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def augment(
    source: Path, out: Path, kind: str, brightness: tuple[float, ...], seed: int, dry_run: bool
) -> None:
    """Make training data from your own photos.

    SOURCE holds a folder a scene: off.jpg with on.jpg, red.jpg, ... beside it. OUT becomes a data set split into
    train and validation; no room stands in both. Photos are mirrored left and right, never upside down. The same
    command again goes on where it was stopped; nothing else in OUT is ever overwritten.
    """
    found = photos.scan_flat(source)
    click.echo(found.report.text())
    planned = augmentation.plan(found.scenes, kind, seed=seed, brightness=brightness or None)
    click.echo(planned.text())
    if dry_run:
        click.echo("dry run: nothing is written")
        return
    click.echo(augmentation.write(planned, out).text())
