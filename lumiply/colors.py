"""The seven lamp colours, in the order used everywhere: requests, palettes, sheets, documentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lumiply.errors import UnknownColorError

COLORS: Final[tuple[str, ...]] = ("white", "red", "orange", "yellow", "green", "blue", "purple")

#: The colour that needs no adaptor: the base weights (MODEL.md, section 8).
BASE_COLOR: Final = "white"

#: Lamp colours in linear light, largest component 1; what training rooms are lit with.
LAMP_RGB: Final[dict[str, tuple[float, float, float]]] = {
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.06, 0.04),
    "orange": (1.0, 0.36, 0.05),
    "yellow": (1.0, 0.80, 0.10),
    "green": (0.10, 1.0, 0.16),
    "blue": (0.08, 0.20, 1.0),
    "purple": (0.60, 0.10, 1.0),
}


def require_color(name: str) -> str:
    """Return `name` if it is one of `COLORS`.

    Raises:
        UnknownColorError: it is not.
    """
    if name not in COLORS:
        raise UnknownColorError(name)
    return name


def in_palette_order(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct colours of `names`, in the order of `COLORS`.

    Raises:
        UnknownColorError: a name is none of `COLORS`.
    """
    chosen = {require_color(name) for name in names}
    return tuple(color for color in COLORS if color in chosen)
