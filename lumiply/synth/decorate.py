"""What makes a furnished room look lived in: plants, books, pictures, curtains, a door."""

from __future__ import annotations

import numpy as np

from lumiply.synth import palette
from lumiply.synth.lamps import foot_radius
from lumiply.synth.layout import WALL_YAW, Layout, directions
from lumiply.synth.palette import choose, plain
from lumiply.synth.spec import Item, Lamp

SOIL = (0.03, 0.02, 0.015)
SMALL_KINDS = ("small_books", "vase", "screen")
"""What is taken away where a lamp is put down."""


def decorate(layout: Layout) -> None:
    """Add small things, where the furniture leaves room."""
    _extras(layout)
    _decorate_supports(layout)
    _decorate_walls(layout)


def make_way(layout: Layout, lamp: Lamp) -> None:
    """Take away the small things that a table lamp would stand in or reach into."""
    if lamp.kind == "table":
        layout.items = [
            item for item in layout.items if item.kind not in SMALL_KINDS or not _touches(item, lamp)
        ]


def _touches(item: Item, lamp: Lamp) -> bool:
    """Whether a small thing is where the lamp's foot, body or shade is."""
    away = np.array(item.position) - np.array(lamp.positions[0])
    bottom, top = away[2], away[2] + item.size[2]
    if bottom >= lamp.height or top <= 0:
        return False
    reach = max(foot_radius(lamp), lamp.stem_radius)
    if top > lamp.height - lamp.shade_height:
        reach = max(reach, lamp.shade_radius)
    across, inward = directions(item.yaw)
    gaps = np.abs([across @ away[:2], inward @ away[:2]]) - np.array(item.size[:2]) / 2
    return bool(np.hypot(*np.maximum(gaps, 0)) < reach)


def _extras(layout: Layout) -> None:
    """Plants, a pillar, an armchair or a chair somewhere."""
    rng, (width, length, height) = layout.rng, layout.size
    for _ in range(int(rng.integers(0, 3))):
        spread = rng.uniform(0.35, 0.8)
        spot = (
            choose(rng, (spread / 2 + 0.1, width - spread / 2 - 0.1)),
            rng.uniform(length * 0.35, length - 0.4),
        )
        pot = plain(
            palette.hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.15, 0.95)), rng.uniform(0.3, 0.8)
        )
        leaf = plain(palette.hsv(rng.uniform(0.22, 0.38), rng.uniform(0.4, 0.85), rng.uniform(0.2, 0.6)), 0.5)
        size = (spread, spread, rng.uniform(0.5, 1.7))
        layout.add("plant", spot, 0.0, size, (pot, leaf, plain(SOIL, 1.0)))
    if rng.random() < 0.15:
        size = (rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.6), height)
        side = choose(rng, (size[0] / 2, width - size[0] / 2))
        layout.add(
            "column",
            (side, rng.uniform(length * 0.45, length - 0.3)),
            0.0,
            size,
            (palette.wall(rng, layout.scheme),),
        )
    if rng.random() < 0.3:
        spot = (rng.uniform(0.5, width - 0.5), rng.uniform(length * 0.4, length - 0.6))
        layout.add(
            "chair", spot, rng.uniform(-np.pi, np.pi), (0.46, 0.46, 0.9), (layout.cloth(), layout.wood())
        )


def _decorate_supports(layout: Layout) -> None:
    """Books and vases on some of the tables, off their middles."""
    rng = layout.rng
    for support in list(layout.supports):
        if support.radius < 0.17 or rng.random() < 0.5:
            continue
        angle = rng.uniform(0, 2 * np.pi)
        spot = (
            support.x + np.cos(angle) * support.radius * 0.8,
            support.y + np.sin(angle) * support.radius * 0.55,
        )
        if rng.random() < 0.5:
            layout.add(
                "small_books",
                spot,
                rng.uniform(-1, 1),
                (0.22, 0.16, rng.uniform(0.03, 0.12)),
                layout.things(3),
                support.z,
                True,
            )
        else:
            layout.add(
                "vase",
                spot,
                0.0,
                (width := rng.uniform(0.07, 0.14), width, rng.uniform(0.12, 0.3)),
                layout.things(1),
                support.z,
                True,
            )


def _decorate_walls(layout: Layout) -> None:
    """Pictures, a door, curtains at the windows."""
    rng, height = layout.rng, layout.size[2]
    for window in layout.windows:
        if window.wall != "front" and rng.random() < 0.6:
            x, y = layout.spot(window.wall, window.center[0], 0.0, 0.05)
            size = (
                window.size[0] * rng.uniform(1.2, 1.5),
                0.1,
                min(height - 0.06, window.center[1] + window.size[1] / 2 + 0.2),
            )
            layout.add(
                "curtains",
                (x, y),
                WALL_YAW[window.wall],
                size,
                (layout.cloth(), palette.metal(rng)),
                force=True,
            )
    for _ in range(int(rng.integers(0, 5))):
        wall = choose(rng, ("back", "back", "left", "right"))
        size = (rng.uniform(0.25, 1.1), 0.03, rng.uniform(0.25, 0.9))
        along, level = rng.uniform(0.4, layout.wall_length(wall) - 0.4), rng.uniform(1.3, 1.8)
        x, y = layout.spot(wall, along, 0.0, 0.0)
        place = layout.footprint(x, y, WALL_YAW[wall], (size[0], 0.03, size[2]), level - size[2] / 2)
        if layout.is_free(place) and not layout.covers_window(
            wall, along - size[0] / 2, along + size[0] / 2, level + 0.3
        ):
            frame = layout.wood() if rng.random() < 0.5 else palette.metal(rng)
            layout.add(
                "picture",
                (x, y),
                WALL_YAW[wall],
                size,
                (frame, palette.art(rng, layout.scheme)),
                level,
                force=True,
            )
            layout.footprints.append(place)
    if rng.random() < 0.25:
        wall = choose(rng, ("left", "right", "back"))
        surfaces = (
            plain(palette.paint_color(rng, layout.scheme), 0.5),
            plain((0.7, 0.69, 0.66), 0.5),
            palette.metal(rng),
        )
        along = rng.uniform(0.7, layout.wall_length(wall) - 0.7)
        if (
            not layout.covers_window(wall, along - 0.5, along + 0.5, 2.1)
            and height > 2.2
            and layout.step is None
        ):
            x, y = layout.spot(wall, along, 0.0, 0.015)
            if layout.is_free(layout.footprint(x, y, WALL_YAW[wall], (0.95, 0.02, 2.1))):
                layout.add("door", (x, y), WALL_YAW[wall], (0.85, 0.06, 2.03), surfaces, force=True)
