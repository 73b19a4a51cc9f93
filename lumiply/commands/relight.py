"""`lumiply relight`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lumiply import api
from lumiply.colors import COLORS, in_palette_order
from lumiply.commands.common import set_up_logging, setting_options, shown
from lumiply.engine.protocol import Engine, Progress
from lumiply.errors import ImageError, ImageTooLargeError, UserError
from lumiply.refusals import in_english
from lumiply.settings import Settings


@click.command()
@click.argument(
    "photos",
    nargs=-1,
    required=True,
    metavar="PHOTO...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--color", "colors", multiple=True, type=click.Choice(COLORS), metavar="COLOR",
    help=f"A colour of the lamp; may be given several times. One of {', '.join(COLORS)}.  [default: all]",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("relit"), show_default=True,
    metavar="DIR", help="Where results go, as output_COLOR.jpg; with several photos, each in a folder of its name.",
)  # fmt: skip
@setting_options(
    "seed",
    "steps",
    "preset",
    "device",
    "precision",
    "model",
    "ckpt_dir",
    "adaptors_dir",
    "jpeg_quality",
    "max_megapixels",
)
def relight(photos: tuple[Path, ...], colors: tuple[str, ...], out: Path, **options: Any) -> None:
    """Relight photos into a folder, without a server. A photo that cannot be used is named, and the others go on."""
    settings = Settings.from_env(**options)
    set_up_logging(settings.replace(log_level="warning") if settings.log_level == "info" else settings)
    if settings.compile == "auto":  # which pays for a server, not for a few photos
        settings = settings.replace(compile="off")
    engine, unusable = api.build_engine(settings), 0
    try:
        for photo, folder in zip(photos, folders_for(photos, out), strict=True):
            try:
                for path in _relight(engine, settings, photo, in_palette_order(colors or COLORS), folder):
                    click.echo(shown(path))
            except (ImageError, ImageTooLargeError) as exc:
                unusable += 1
                click.echo(f"{shown(photo)}: {in_english(exc.code, exc.figures)}.", err=True)
    finally:
        engine.close(timeout=10)
    if unusable:
        raise UserError(
            f"photos that could not be used: {unusable} of {len(photos)}; the lines above say why."
        )


def _relight(
    engine: Engine, settings: Settings, photo: Path, colors: Sequence[str], folder: Path
) -> Sequence[Path]:
    with tqdm(
        total=100, desc=photo.name, unit="%", bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
    ) as bar:

        def progress(now: Progress) -> None:
            bar.update(max(0.0, 100 * now.fraction - bar.n))

        saved = api.relight_file(
            engine,
            photo,
            folder,
            colors,
            seed=settings.seed,
            steps=settings.steps,
            jpeg_quality=settings.jpeg_quality,
            max_megapixels=settings.max_megapixels,
            progress=progress,
        )
        bar.update(max(0.0, 100 - bar.n))
    return list(saved.values())


def folders_for(photos: Sequence[Path], out: Path) -> list[Path]:
    """A folder a photo: `out` itself for one, else one of the photo's name, numbered where names repeat."""
    if len(photos) == 1:
        return [out]
    taken: set[str] = set()
    folders = []
    for photo in photos:
        name, count = photo.stem, 1
        while name in taken:
            count += 1
            name = f"{photo.stem}-{count}"
        taken.add(name)
        folders.append(out / name)
    return folders
