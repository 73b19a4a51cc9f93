"""A contact sheet: the photo and its seven relit versions, each with its name below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lumiply.colors import LAMP_RGB

_PAPER: Final = (24, 24, 27)
_INK: Final = (228, 228, 231)
_LABELS: Final = {"off": "lamp off"}


def contact_sheet(pictures: Mapping[str, Image.Image], *, cell: int = 400, columns: int = 4) -> Image.Image:
    """Lay pictures out in rows, in their order, each labelled by its key.

    Args:
        pictures: RGB pictures of any size by "off" or colour; at least one.
        cell: width of a picture on the sheet, in pixels; its height follows the first one's aspect.
        columns: pictures in a row.

    Returns:
        One RGB picture.
    """
    first = next(iter(pictures.values()))
    size = (cell, max(1, round(cell * first.height / first.width)))
    gap, caption = cell // 25, cell // 9
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB", (gap + columns * (size[0] + gap), gap + rows * (size[1] + caption + gap)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(cell // 18)
    for index, (name, picture) in enumerate(pictures.items()):
        row, column = divmod(index, columns)
        left, top = gap + column * (size[0] + gap), gap + row * (size[1] + caption + gap)
        fitted = ImageOps.pad(picture.convert("RGB"), size, Image.Resampling.LANCZOS, color=_PAPER)
        sheet.paste(fitted, (left, top))
        _caption(draw, font, name, left, top + size[1] + caption // 2, caption)
    return sheet


def _caption(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    name: str,
    left: int,
    middle: int,
    height: int,
) -> None:
    """Write a name, after a dot of its lamp's colour."""
    radius = height // 5
    center = left + radius
    box = (center - radius, middle - radius, center + radius, middle + radius)
    draw.ellipse(box, fill=_dot(name), outline=_INK if name == "off" else None)
    text = _LABELS.get(name, name)
    draw.text((left + 2 * radius + height // 4, middle), text, fill=_INK, font=font, anchor="lm")


def _dot(name: str) -> tuple[int, int, int]:
    """A lamp's colour as a screen shows it; paper for a lamp that is off."""
    if name not in LAMP_RGB:
        return _PAPER
    red, green, blue = (round(255 * part ** (1 / 2.2)) for part in LAMP_RGB[name])
    return red, green, blue
