"""Sample a synthetic room: pure and deterministic, no meshes and no renderer."""

from __future__ import annotations

import numpy as np

from lumiply.synth import palette
from lumiply.synth.decorate import make_way
from lumiply.synth.furnish import ROOM_KINDS, ROOM_WEIGHTS, furnish
from lumiply.synth.layout import Layout
from lumiply.synth.palette import choose
from lumiply.synth.placing import place_lamp_and_camera
from lumiply.synth.spec import SPLITS, AmbientLight, Color, RoomSpec, Split, Surface, Vector, Window

__all__ = ["RoomSpec", "Split", "sample_room"]

MOODS = ("day", "overcast", "evening", "night", "ceiling")
MOOD_WEIGHTS = (0.34, 0.22, 0.18, 0.1, 0.16)
BLACK: Color = (0.0, 0.0, 0.0)


def sample_room(seed: int, split: Split = "train") -> RoomSpec:
    """The room number `seed` of a split; the same arguments always give the same room, no two splits share one.

    Raises:
        ValueError: the seed is negative or the split unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"a room's seed counts from 0, got {seed}")
    rng = np.random.default_rng([SPLITS.index(split), seed])
    kind = choose(rng, ROOM_KINDS, ROOM_WEIGHTS)
    size = (float(rng.uniform(2.5, 5.6)), float(rng.uniform(3.2, 6.2)), float(rng.uniform(2.3, 3.1)))
    scheme = palette.sample_scheme(rng)
    mood = choose(rng, MOODS, MOOD_WEIGHTS)
    windows = _sample_windows(rng, size, mood)
    layout = Layout(rng, scheme, size, windows)
    furnish(layout, kind)
    light = _sample_light(rng, size, mood)
    lamp, camera = place_lamp_and_camera(layout, rng)
    make_way(layout, lamp)
    ceiling = Surface(
        "plaster",
        (palette.hsv(0.1, rng.uniform(0, 0.06), rng.uniform(0.78, 0.97)),),
        3.0,
        0.9,
        0.0,
        palette.new_seed(rng),
    )
    trim = (
        palette.plain((0.74, 0.73, 0.71), 0.5)
        if rng.random() < 0.6
        else palette.timber(rng, scheme.second_wood)
    )
    return RoomSpec(
        seed, split, size, palette.floor(rng, scheme), _sample_walls(rng, scheme), ceiling, trim, windows, light,
        tuple(layout.items), lamp, camera,
    )  # fmt: skip


def _sample_walls(
    rng: np.random.Generator, scheme: palette.Scheme
) -> tuple[Surface, Surface, Surface, Surface]:
    """Materials of the left, right, back and front wall: all the same, or one of its own."""
    common = palette.wall(rng, scheme)
    if rng.random() < 0.5:
        return (common, common, common, common)
    calm, accent = palette.wall(rng, scheme, "plaster"), palette.wall(rng, scheme)
    walls = [calm] * 4
    walls[int(rng.choice([2, 2, 0, 1]))] = accent
    return (walls[0], walls[1], walls[2], walls[3])


def _scaled(color: Color, factor: float) -> Color:
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def _daylight(rng: np.random.Generator, mood: str) -> tuple[Color, Color]:
    """Radiance of the sky and of the ground outside."""
    if mood == "day":
        sky = _scaled((rng.uniform(0.8, 1.05), 0.98, rng.uniform(0.98, 1.3)), rng.uniform(3.0, 7.0))
        ground = _scaled(
            palette.hsv(rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.5), 0.75), rng.uniform(1.2, 3.0)
        )
    elif mood == "overcast":
        sky = _scaled((0.92, 0.97, rng.uniform(1.0, 1.15)), rng.uniform(1.5, 3.5))
        ground = _scaled(palette.hsv(rng.uniform(0.1, 0.4), 0.2, 0.65), rng.uniform(0.6, 1.4))
    elif mood == "evening":
        warm = rng.random() < 0.4
        sky = _scaled((1.1, 0.7, 0.5) if warm else (0.45, 0.6, 1.1), rng.uniform(0.35, 1.0))
        ground = _scaled((0.3, 0.28, 0.3), rng.uniform(0.1, 0.4))
    else:
        sky = _scaled((0.25, 0.35, 0.7), rng.uniform(0.01, 0.08))
        ground = _scaled((0.5, 0.4, 0.3), rng.uniform(0.004, 0.04))
    return sky, ground


def _sample_windows(rng: np.random.Generator, size: Vector, mood: str) -> tuple[Window, ...]:
    """None, one or two windows; by day at least one."""
    width, length, height = size
    count = (
        int(rng.choice([0, 1, 2], p=[0.25, 0.55, 0.2]))
        if mood in ("night", "ceiling")
        else int(rng.choice([1, 2], p=[0.7, 0.3]))
    )
    walls = rng.permutation(["left", "right", "back", "front"])[:count]
    sky, ground = _daylight(rng, mood)
    frame: Color = choose(
        rng, ((0.75, 0.75, 0.74), (0.75, 0.75, 0.74), (0.06, 0.06, 0.06), (0.3, 0.18, 0.09))
    )
    windows = []
    for wall in walls:
        span = width if wall in ("back", "front") else length
        across = float(min(rng.uniform(0.8, 2.4), span - 0.5))
        french = rng.random() < 0.25
        low = rng.uniform(0.05, 0.15) if french else rng.uniform(0.75, 1.05)
        top = min(height - 0.12, rng.uniform(1.95, 2.4))
        place = float(rng.uniform(across / 2 + 0.2, span - across / 2 - 0.2))
        if wall in ("left", "right"):
            place = float(np.clip(length * rng.uniform(0.4, 0.9), across / 2 + 0.2, span - across / 2 - 0.2))
        panes = (max(1, round(across / rng.uniform(0.5, 0.9))), int(rng.choice([1, 1, 2])))
        center = (place, float((low + top) / 2))
        windows.append(Window(str(wall), center, (across, float(top - low)), panes, sky, ground, frame))
    return tuple(windows)


def _sample_light(rng: np.random.Generator, size: Vector, mood: str) -> AmbientLight:
    """Ceiling light, light from the rest of the flat, and now and then the sun."""
    width, length, _ = size
    ceiling, strength = BLACK, 0.0
    if mood in ("ceiling", "night") or rng.random() < 0.1:
        warmth = rng.uniform(0, 1)
        strength = rng.uniform(7, 22) if mood == "ceiling" else rng.uniform(0.3, 2.0)
        ceiling = _scaled((1.0, 1.0 - 0.25 * warmth, 1.0 - 0.55 * warmth), strength)
    fill_level = {"day": 0.5, "overcast": 0.35, "evening": 0.09, "night": 0.05, "ceiling": 0.15}[
        mood
    ] * rng.uniform(0.4, 1.6)
    tint = rng.uniform(-0.15, 0.15)
    fill = _scaled((1 + tint, 1.0, 1 - tint), fill_level)
    sun, direction, opening = BLACK, (0.0, 1.0, 0.0), (width / 2, 1.5, 1.0, 1.0)
    if mood == "day" and rng.random() < 0.45:
        angle, elevation = rng.uniform(-0.6, 0.6), rng.uniform(0.25, 0.8)
        sun = _scaled((1.0, 0.9, 0.72), rng.uniform(0.5, 1.6))
        flat = np.cos(elevation)
        direction = (float(np.sin(angle) * flat), float(np.cos(angle) * flat), float(-np.sin(elevation)))
        opening = (
            float(width * rng.uniform(0.3, 0.7)),
            1.6,
            float(rng.uniform(0.6, 1.4)),
            float(rng.uniform(0.8, 1.4)),
        )
    place = (float(width * rng.uniform(0.35, 0.65)), float(length * rng.uniform(0.35, 0.7)))
    panel = (float(rng.uniform(0.25, 0.7)), float(rng.uniform(0.25, 0.7)))
    return AmbientLight(mood, ceiling, place, panel, fill, sun, direction, opening)
