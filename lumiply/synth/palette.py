"""Colours and materials that rooms are made of: the random choices, no painting."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lumiply.synth.spec import Color, Surface

WOODS: tuple[Color, ...] = (
    (0.42, 0.25, 0.12), (0.20, 0.10, 0.045), (0.09, 0.05, 0.03), (0.55, 0.38, 0.21), (0.30, 0.13, 0.06),
    (0.62, 0.50, 0.34), (0.16, 0.12, 0.09), (0.35, 0.30, 0.25),
)  # fmt: skip
BRICKS: tuple[Color, ...] = (
    (0.36, 0.13, 0.07),
    (0.45, 0.22, 0.13),
    (0.30, 0.10, 0.06),
    (0.75, 0.72, 0.68),
    (0.22, 0.20, 0.19),
)
METALS: tuple[Color, ...] = (
    (0.80, 0.58, 0.27),
    (0.72, 0.72, 0.72),
    (0.62, 0.36, 0.22),
    (0.30, 0.29, 0.28),
    (0.88, 0.78, 0.58),
)
WALL_PATTERNS = (
    "plaster",
    "stripes",
    "plaid",
    "motif",
    "damask",
    "brick",
    "panels",
    "concrete",
    "tiles",
    "chevron",
)
WALL_WEIGHTS = (0.52, 0.06, 0.05, 0.06, 0.06, 0.09, 0.05, 0.05, 0.03, 0.03)
FLOOR_PATTERNS = ("planks", "parquet", "carpet", "tiles", "concrete", "marble")
FLOOR_WEIGHTS = (0.55, 0.1, 0.13, 0.11, 0.06, 0.05)
CLOTH_PATTERNS = ("plain", "fabric", "stripes", "plaid", "motif", "checks", "chevron", "damask")
CLOTH_WEIGHTS = (0.3, 0.34, 0.07, 0.1, 0.06, 0.04, 0.04, 0.05)
RUG_PATTERNS = ("ornament", "carpet", "stripes", "chevron", "checks", "plaid")


def choose(rng: np.random.Generator, options: Sequence[Any], weights: Sequence[float] | None = None) -> Any:
    """One of `options`, by index, so that tuples stay tuples."""
    return options[int(rng.choice(len(options), p=weights))]


def new_seed(rng: np.random.Generator) -> int:
    """A seed for the details of one thing."""
    return int(rng.integers(2**31))


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A display colour (sRGB hue, saturation, value in 0..1) as linear RGB."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (red**2.2, green**2.2, blue**2.2)


def shaded(color: Color, factor: float) -> Color:
    """A colour made darker or lighter."""
    return (min(color[0] * factor, 0.9), min(color[1] * factor, 0.9), min(color[2] * factor, 0.9))


@dataclass(frozen=True)
class Scheme:
    """The colours that one room keeps to.

    Attributes:
        hue: of the walls.
        accent: hue of cushions, curtains and small things.
        saturation: 0 grey .. 1 garish.
        brightness: 0 dark .. 1 light paint.
        wood: colour of most furniture.
        second_wood: colour of the floor and the rest.
    """

    hue: float
    accent: float
    saturation: float
    brightness: float
    wood: Color
    second_wood: Color


def sample_scheme(rng: np.random.Generator) -> Scheme:
    """Colours of a room: mostly calm, sometimes strong, sometimes dark."""
    hue = float(choose(rng, (0.08, 0.11, 0.6, 0.58, 0.35, 0.97, 0.75, rng.random()))) + rng.normal(0, 0.03)
    accent = hue + float(choose(rng, (0.5, 0.33, 0.08, rng.random())))
    wood: Color = choose(rng, (*WOODS, (0.78, 0.77, 0.74), (0.05, 0.05, 0.055)))
    saturation = float(
        choose(
            rng, (rng.uniform(0, 0.12), rng.uniform(0.1, 0.32), rng.uniform(0.32, 0.7)), (0.46, 0.38, 0.16)
        )
    )
    brightness = float(
        choose(
            rng, (rng.uniform(0.72, 0.97), rng.uniform(0.4, 0.75), rng.uniform(0.14, 0.4)), (0.58, 0.28, 0.14)
        )
    )
    return Scheme(float(hue % 1), float(accent % 1), saturation, brightness, wood, choose(rng, WOODS))


def paint_color(rng: np.random.Generator, scheme: Scheme) -> Color:
    """A wall colour of the scheme."""
    saturation = np.clip(scheme.saturation + rng.normal(0, 0.04), 0, 0.9)
    return hsv(
        scheme.hue + rng.normal(0, 0.015),
        saturation,
        np.clip(scheme.brightness + rng.normal(0, 0.04), 0.1, 0.97),
    )


def cloth_color(rng: np.random.Generator, scheme: Scheme) -> Color:
    """A colour for textiles: neutral, close to the walls, or the accent."""
    roll = rng.random()
    if roll < 0.48:
        return hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.12, 0.95))
    if roll < 0.7:
        return hsv(scheme.hue + rng.normal(0, 0.03), rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.9))
    if roll < 0.93:
        return hsv(scheme.accent + rng.normal(0, 0.03), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.9))
    return hsv(rng.random(), rng.uniform(0.65, 1.0), rng.uniform(0.5, 0.95))


def plain(color: Color, roughness: float = 0.7, metallic: float = 0.0) -> Surface:
    """An even material."""
    return Surface("plain", (color,), 1.0, roughness, metallic)


def cloth(rng: np.random.Generator, scheme: Scheme, patterned: bool = True) -> Surface:
    """Textile for beds, sofas, curtains and cushions."""
    pattern = choose(rng, CLOTH_PATTERNS, CLOTH_WEIGHTS) if patterned else "plain"
    first = cloth_color(rng, scheme)
    second = shaded(first, rng.uniform(0.4, 1.8)) if rng.random() < 0.5 else cloth_color(rng, scheme)
    third = cloth_color(rng, scheme)
    return Surface(pattern, (first, second, third), rng.uniform(0.3, 0.9), 0.9, 0.0, new_seed(rng))


def timber(rng: np.random.Generator, color: Color) -> Surface:
    """Wood or painted board for furniture."""
    tone = shaded(color, rng.uniform(0.75, 1.25))
    roughness = rng.uniform(0.3, 0.65)
    if min(color) > 0.7 or max(color) < 0.06 or rng.random() < 0.15:
        return plain(tone, roughness)
    return Surface("wood", (tone,), rng.uniform(0.5, 1.1), roughness, 0.0, new_seed(rng))


def metal(rng: np.random.Generator) -> Surface:
    """Brass, steel, copper, or metal painted black or white."""
    if rng.random() < 0.35:
        return plain(
            choose(rng, ((0.03, 0.03, 0.03), (0.75, 0.75, 0.75), (0.1, 0.1, 0.11))), rng.uniform(0.3, 0.6)
        )
    return plain(shaded(choose(rng, METALS), rng.uniform(0.8, 1.1)), rng.uniform(0.2, 0.45), 1.0)


def wall(rng: np.random.Generator, scheme: Scheme, pattern: str | None = None) -> Surface:
    """Paint, wallpaper, brick, wood, concrete or tiles."""
    pattern = pattern or choose(rng, WALL_PATTERNS, WALL_WEIGHTS)
    base = paint_color(rng, scheme)
    other = shaded(base, float(choose(rng, (0.55, 0.75, 1.35))))
    third = cloth_color(rng, scheme)
    if pattern == "brick":
        brick = shaded(choose(rng, BRICKS), rng.uniform(0.8, 1.2))
        mortar = shaded((0.55, 0.52, 0.48), rng.uniform(0.35, 1.2))
        return Surface(
            "brick", (brick, shaded(brick, 0.7), mortar), rng.uniform(0.75, 1.1), 0.9, 0.0, new_seed(rng)
        )
    if pattern == "panels":
        color = scheme.second_wood if rng.random() < 0.6 else base
        return Surface(
            "panels", (shaded(color, rng.uniform(0.7, 1.2)),), rng.uniform(1.0, 1.8), 0.55, 0.0, new_seed(rng)
        )
    if pattern == "concrete":
        return Surface(
            "concrete",
            (hsv(0.1, rng.uniform(0, 0.08), rng.uniform(0.4, 0.8)),),
            2.2,
            0.85,
            0.0,
            new_seed(rng),
        )
    if pattern == "tiles":
        return Surface("tiles", (base, shaded(base, 0.85)), rng.uniform(0.4, 0.9), 0.25, 0.0, new_seed(rng))
    tile = {
        "plaster": 2.5,
        "stripes": rng.uniform(0.6, 1.4),
        "plaid": rng.uniform(0.9, 1.8),
        "motif": rng.uniform(0.7, 1.5),
    }
    return Surface(
        pattern, (base, other, third), tile.get(pattern, rng.uniform(0.7, 1.3)), 0.85, 0.0, new_seed(rng)
    )


def floor(rng: np.random.Generator, scheme: Scheme) -> Surface:
    """Boards, parquet, carpet, tiles, concrete or marble."""
    pattern = choose(rng, FLOOR_PATTERNS, FLOOR_WEIGHTS)
    seed = new_seed(rng)
    if pattern in ("planks", "parquet"):
        color = shaded(scheme.second_wood, rng.uniform(0.6, 1.3))
        tile = rng.uniform(1.0, 1.7) if pattern == "planks" else rng.uniform(1.0, 2.0)
        return Surface(
            pattern, (color, shaded(color, rng.uniform(0.6, 1.2))), tile, rng.uniform(0.25, 0.6), 0.0, seed
        )
    if pattern == "carpet":
        return Surface(pattern, (cloth_color(rng, scheme),), 1.2, 1.0, 0.0, seed)
    if pattern == "tiles":
        first = hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.3, 0.92))
        joint = shaded(first, 0.5)
        colors = (
            (first, hsv(rng.random(), 0.2, rng.uniform(0.1, 0.9)), joint)
            if rng.random() < 0.25
            else (first, joint)
        )
        return Surface(pattern, colors, rng.uniform(0.9, 1.6), rng.uniform(0.15, 0.45), 0.0, seed)
    if pattern == "marble":
        base = hsv(0.1, 0.05, rng.uniform(0.6, 0.93))
        return Surface(pattern, (base, shaded(base, 0.5)), 2.0, 0.2, 0.0, seed)
    return Surface(pattern, (hsv(0.1, 0.05, rng.uniform(0.35, 0.7)),), 2.2, 0.6, 0.0, seed)


def rug(rng: np.random.Generator, scheme: Scheme, longest_side: float) -> Surface:
    """A rug; an ornamental one shows one repeat over its whole length."""
    pattern = choose(rng, RUG_PATTERNS)
    colors = tuple(cloth_color(rng, scheme) for _ in range(3))
    tile = longest_side if pattern == "ornament" else rng.uniform(0.4, 1.0)
    return Surface(pattern, colors, tile, 1.0, 0.0, new_seed(rng))


def art(rng: np.random.Generator, scheme: Scheme) -> Surface:
    """A picture; its repeat is set to its size by the builder."""
    colors = tuple(
        cloth_color(rng, scheme) if rng.random() < 0.5 else hsv(rng.random(), rng.random(), rng.random())
        for _ in range(4)
    )
    return Surface("picture", colors, 1.0, 0.6, 0.0, new_seed(rng))
