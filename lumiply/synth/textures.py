"""Procedural albedo textures, painted with numpy: wood, brick, tiles, plaster, wallpaper, carpet, pictures.

Every pattern tiles. A painter takes the colours (K, 3) and a random generator and returns (SIDE, SIDE, 3) linear
albedo; u runs along the second axis, v up along the first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lumiply.synth.spec import Surface

SIDE = 192
"""Texels along each side of a texture."""
ALBEDO_RANGE = (0.012, 0.92)
"""Darkest and brightest albedo: outside of it nothing real is found."""

Image = NDArray[np.floating]
Painter = Callable[[Image, np.random.Generator], Image]
PATTERNS: dict[str, Painter] = {}


def _pattern(painter: Painter) -> Painter:
    PATTERNS[painter.__name__.lstrip("_")] = painter
    return painter


def paint(surface: Surface) -> Image:
    """The albedo of a surface, (SIDE, SIDE, 3) linear; a plain surface gives (1, 1, 3)."""
    colors = np.asarray(surface.colors, np.float32)
    if surface.pattern == "plain":
        image = colors[:1, None]
    else:
        try:
            painter = PATTERNS[surface.pattern]
        except KeyError:
            raise ValueError(
                f"unknown pattern {surface.pattern!r}; known: plain, {', '.join(PATTERNS)}"
            ) from None
        image = painter(colors, np.random.default_rng(surface.seed))
    return np.clip(image, *ALBEDO_RANGE).astype(np.float32)


@lru_cache(maxsize=32)
def _noise_tile(decay: float, stretch: float, variant: int) -> Image:
    """Tileable noise with unit variance, spectrum 1 / f**decay, features `stretch` times longer along u."""
    rng = np.random.default_rng([int(decay * 100), int(stretch * 100), variant])
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
    along_v = np.fft.fftfreq(SIDE)[:, None] * SIDE
    along_u = np.fft.rfftfreq(SIDE)[None] * SIDE * stretch
    frequency = np.sqrt(along_u**2 + along_v**2)
    frequency[0, 0] = np.inf
    image = np.fft.irfft2(spectrum / frequency**decay, s=(SIDE, SIDE))
    return (image / image.std()).astype(np.float32)


def noise(rng: np.random.Generator, decay: float = 1.5, stretch: float = 1.0) -> Image:
    """(SIDE, SIDE) tileable noise, a random shift of one of a few stored tiles."""
    tile = _noise_tile(decay, stretch, int(rng.integers(3)))
    if rng.random() < 0.5:
        tile = tile[::-1]
    return np.roll(tile, tuple(rng.integers(0, SIDE, 2)), axis=(0, 1))


def _grid() -> tuple[Image, Image]:
    """u and v in [0, 1), (SIDE, SIDE) each."""
    t = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)
    u, v = np.meshgrid(t, t)
    return u, v


def _tint(color: Image, shade: Image) -> Image:
    """color (3,) times shade (SIDE, SIDE)."""
    return color * shade.astype(np.float32, copy=False)[..., None]


def _mix(first: Image, second: Image, weight: Image) -> Image:
    weight = np.clip(weight, 0, 1).astype(np.float32, copy=False)[..., None]
    return first + (second - first) * weight


def _edge(position: Image, width: float) -> Image:
    """1 within `width` of the border of a cell, where `position` runs 0..1 through the cell."""
    return (np.minimum(position, 1 - position) < width).astype(np.float32)


def _grain(rng: np.random.Generator, along: str = "u") -> Image:
    image = 0.55 * noise(rng, 1.0, 12.0) + 0.45 * np.sin(3 * noise(rng, 1.6, 7.0))
    return image if along == "u" else image.T


@_pattern
def planks(colors: Image, rng: np.random.Generator) -> Image:
    """Floor boards along u, every board in its own tone and with its own joint."""
    rows = int(rng.integers(5, 10))
    u, v = _grid()
    row = np.floor(v * rows).astype(int)
    shift = rng.random(rows)[row]
    along = (u * 1.0 + shift) % 1.0
    board = row * 2 + (along > 0.5)
    tone = rng.normal(1.0, rng.uniform(0.04, 0.2), rows * 2)[board]
    image = _tint(colors[0], tone * (1 + 0.13 * _grain(rng)))
    if len(colors) > 1:
        image = _mix(image, colors[1] * np.ones_like(image), rng.random(rows * 2)[board] * 0.5)
    seam = np.maximum(_edge(v * rows % 1.0, 0.035), _edge(along * 2 % 1.0, 0.008))
    return image * (1 - rng.uniform(0.25, 0.65) * seam)[..., None]


@_pattern
def parquet(colors: Image, rng: np.random.Generator) -> Image:
    """Basket-weave parquet: squares of boards, turned by turns."""
    cells, strips = 4, int(rng.integers(3, 6))
    u, v = _grid()
    column, row = np.floor(u * cells).astype(int), np.floor(v * cells).astype(int)
    across = np.where((column + row) % 2 == 0, u * cells % 1.0, v * cells % 1.0)
    strip = np.floor(across * strips).astype(int)
    tone = rng.normal(1, 0.12, (cells, cells, strips))[row, column, strip]
    grain = np.where((column + row) % 2 == 0, _grain(rng, "v"), _grain(rng, "u"))
    seam = np.maximum(
        _edge(across * strips % 1.0, 0.05),
        np.maximum(_edge(u * cells % 1, 0.012), _edge(v * cells % 1, 0.012)),
    )
    return _tint(colors[0], tone * (1 + 0.1 * grain) * (1 - 0.4 * seam))


@_pattern
def wood(colors: Image, rng: np.random.Generator) -> Image:
    """One piece of wood, grain along u."""
    return _tint(colors[0], 1 + rng.uniform(0.06, 0.2) * _grain(rng))


@_pattern
def panels(colors: Image, rng: np.random.Generator) -> Image:
    """Upright boards on a wall, with grain and dark gaps."""
    columns = int(rng.integers(4, 12))
    u, _ = _grid()
    tone = rng.normal(1, 0.1, columns)[np.floor(u * columns).astype(int)]
    return _tint(colors[0], tone * (1 + 0.1 * _grain(rng, "v")) * (1 - 0.6 * _edge(u * columns % 1.0, 0.06)))


@_pattern
def brick(colors: Image, rng: np.random.Generator) -> Image:
    """A running bond; the last colour is the mortar."""
    rows, columns = 12, 4
    u, v = _grid()
    row = np.floor(v * rows).astype(int)
    along = (u * columns + 0.5 * (row % 2)) % columns
    tone = rng.normal(1, rng.uniform(0.08, 0.22), (rows, columns))[row, np.floor(along).astype(int)]
    wobble = 0.02 * noise(rng, 1.4)
    joint = np.maximum(_edge((v * rows % 1.0) + wobble, 0.09), _edge((along % 1.0) + wobble, 0.035))
    face = _tint(colors[0], tone * (1 + 0.12 * noise(rng, 1.0)))
    if len(colors) > 2:
        face = _mix(face, colors[1], (rng.random((rows, columns)) ** 2)[row, np.floor(along).astype(int)])
    return _mix(face, _tint(colors[-1], 1 + 0.1 * noise(rng, 0.7)), joint)


@_pattern
def tiles(colors: Image, rng: np.random.Generator) -> Image:
    """Square or long tiles with joints; two colours make a checkerboard, the last is the joint."""
    columns = int(rng.choice([2, 4]))
    rows = columns * int(rng.choice([1, 1, 2]))
    u, v = _grid()
    row, column = np.floor(v * rows).astype(int), np.floor(u * columns).astype(int)
    tone = rng.normal(1, 0.05, (rows, columns))[row, column] + 0.05 * noise(rng, 1.8)
    image = _tint(colors[0], tone)
    if len(colors) > 2:
        image = np.where(((row + column) % 2 == 0)[..., None], image, _tint(colors[1], tone))
    width = 0.004 * columns
    return _mix(
        image,
        colors[-1],
        np.maximum(_edge(u * columns % 1, width), _edge(v * rows % 1, width * rows / columns)),
    )


@_pattern
def plaster(colors: Image, rng: np.random.Generator) -> Image:
    """Painted wall, slightly cloudy."""
    return _tint(colors[0], 1 + rng.uniform(0.01, 0.07) * noise(rng, 1.7) + 0.015 * noise(rng, 0.5))


@_pattern
def concrete(colors: Image, rng: np.random.Generator) -> Image:
    """Blotchy grey with pores."""
    pores = (noise(rng, 0.6) > 2.6) * 0.3
    return _tint(colors[0], 1 + 0.11 * noise(rng, 1.8) + 0.05 * noise(rng, 0.9) - pores)


@_pattern
def marble(colors: Image, rng: np.random.Generator) -> Image:
    """Veins of the second colour through the first."""
    vein = np.exp(-np.abs(noise(rng, 1.9) + 0.15 * noise(rng, 1.2)) * rng.uniform(6, 14))
    return _mix(_tint(colors[0], 1 + 0.05 * noise(rng, 1.6)), colors[-1], 0.7 * vein)


@_pattern
def stripes(colors: Image, rng: np.random.Generator) -> Image:
    """Upright stripes of two or three colours."""
    count = int(rng.integers(3, 10))
    u, _ = _grid()
    place = u * count % 1.0
    image = np.where((place < rng.uniform(0.3, 0.7))[..., None], colors[0], colors[1 % len(colors)])
    if len(colors) > 2:
        image = np.where((np.abs(place - 0.85) < 0.04)[..., None], colors[2], image)
    return image * (1 + 0.02 * noise(rng, 0.8))[..., None]


@_pattern
def plaid(colors: Image, rng: np.random.Generator) -> Image:
    """Crossing translucent bands, as on wool or wallpaper."""
    u, v = _grid()
    image = colors[0] * np.ones((SIDE, SIDE, 1), np.float32)
    for k in range(int(rng.integers(2, 5))):
        color, width, start = colors[min(1 + k % 2, len(colors) - 1)], rng.uniform(0.01, 0.12), rng.random()
        across, along = ((axis * 2 - start) % 1.0 < width for axis in (u, v))
        image = _mix(image, color, 0.5 * across + 0.5 * along)
    return image * (1 + 0.03 * noise(rng, 0.4))[..., None]


@_pattern
def motif(colors: Image, rng: np.random.Generator) -> Image:
    """Wallpaper: a repeated flower-like figure in staggered rows."""
    count = int(rng.integers(4, 9))
    u, v = _grid()
    row = np.floor(v * count)
    x, y = (u * count + 0.5 * (row % 2 if count % 2 == 0 else 0)) % 1 - 0.5, v * count % 1 - 0.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = int(rng.integers(3, 8))
    outline = rng.uniform(0.18, 0.32) * (
        1 + rng.uniform(0.2, 0.8) * np.cos(petals * angle + rng.uniform(0, 3))
    )
    figure = np.clip((outline - radius) * 30, 0, 1)
    heart = np.clip((0.07 - radius) * 40, 0, 1)
    return _mix(
        _mix(colors[0] * np.ones((SIDE, SIDE, 1), np.float32), colors[1 % len(colors)], 0.8 * figure),
        colors[-1],
        heart,
    )


@_pattern
def damask(colors: Image, rng: np.random.Generator) -> Image:
    """Soft ornamental blobs with mirror symmetry."""
    field = noise(rng, 2.2)
    field = field + field[:, ::-1] + 0.6 * (field[::-1] + field[::-1, ::-1])
    level = 1 / (1 + np.exp(-np.clip(8 * np.sin(2.5 * field), -30, 30)))
    return _mix(colors[0] * np.ones((SIDE, SIDE, 1), np.float32), colors[1 % len(colors)], 0.7 * level)


@_pattern
def carpet(colors: Image, rng: np.random.Generator) -> Image:
    """Pile: strong fine noise."""
    return _tint(colors[0], 1 + 0.22 * noise(rng, 0.3) + 0.06 * noise(rng, 1.6))


@_pattern
def fabric(colors: Image, rng: np.random.Generator) -> Image:
    """Woven cloth, nearly plain."""
    u, v = _grid()
    weave = np.sin(u * 2 * np.pi * 64) * np.sin(v * 2 * np.pi * 64)
    return _tint(colors[0], 1 + 0.06 * weave + 0.05 * noise(rng, 1.5) + 0.05 * noise(rng, 0.3))


@_pattern
def checks(colors: Image, rng: np.random.Generator) -> Image:
    """A checkerboard of two colours."""
    count = 2 * int(rng.integers(1, 4))
    u, v = _grid()
    odd = (np.floor(u * count) + np.floor(v * count)) % 2 == 1
    return (
        np.where(odd[..., None], colors[0], colors[1 % len(colors)]) * (1 + 0.04 * noise(rng, 1.4))[..., None]
    )


@_pattern
def chevron(colors: Image, rng: np.random.Generator) -> Image:
    """Zigzag bands."""
    count = int(rng.integers(2, 6))
    u, v = _grid()
    place = (v * count * 2 + np.abs(u * count % 1.0 - 0.5) * rng.uniform(0.8, 2.0)) % 1.0
    image = np.where((place < 0.5)[..., None], colors[0], colors[1 % len(colors)])
    return image * (1 + 0.04 * noise(rng, 0.5))[..., None]


@_pattern
def ornament(colors: Image, rng: np.random.Generator) -> Image:
    """A rug for one repeat: borders round a mirrored middle field."""
    u, v = _grid()
    rim = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    field = noise(rng, 1.9)
    field = field + field[::-1] + field[:, ::-1] + field[::-1, ::-1]
    index = np.digitize(np.sin(1.7 * field), [-0.4, 0.5])
    image = colors[index % len(colors)]
    band = np.digitize(rim, np.sort(rng.uniform(0.02, 0.16, 3)))
    image = np.where((band < 3)[..., None], colors[band % len(colors)], image)
    return image * (1 + 0.12 * noise(rng, 0.3))[..., None]


@_pattern
def picture(colors: Image, rng: np.random.Generator) -> Image:
    """An abstract painting or a landscape for a frame on the wall."""
    u, v = _grid()
    if rng.random() < 0.4:
        horizon = rng.uniform(0.3, 0.6) + 0.07 * noise(rng, 2.0)[0][None]
        image = _mix(colors[0] * np.ones((SIDE, SIDE, 1), np.float32), colors[1 % len(colors)], v)
        image = np.where((v < horizon)[..., None], colors[-1] * (0.6 + v[..., None]), image)
    else:
        image = colors[0] * np.ones((SIDE, SIDE, 1), np.float32)
        for k in range(int(rng.integers(3, 9))):
            x, y, size = rng.uniform(0.1, 0.9, 2).tolist() + [rng.uniform(0.08, 0.35)]
            shape = (
                np.hypot(u - x, v - y)
                if rng.random() < 0.5
                else np.maximum(abs(u - x) * rng.uniform(0.4, 2), abs(v - y))
            )
            image = np.where((shape < size)[..., None], colors[(k + 1) % len(colors)], image)
    return image * (1 + 0.1 * noise(rng, 1.2))[..., None]


@_pattern
def books(colors: Image, rng: np.random.Generator) -> Image:
    """A row of coloured stripes of uneven width, for piles that are seen from far away."""
    cuts = np.sort(rng.random(int(rng.integers(10, 22))))
    u, _ = _grid()
    return colors[np.digitize(u, cuts) % len(colors)] * (1 + 0.05 * noise(rng, 1.0))[..., None]
