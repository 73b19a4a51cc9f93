"""Furniture: an `Item` becomes meshes, each with its material.

Builders work in the item's own frame: origin at the middle of the footprint on the floor (or of the mount on the
wall), x to the right, the back towards +y, z up. `size` is width, depth, height.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lumiply.synth import objects
from lumiply.synth.objects import Part
from lumiply.synth.shapes import Mesh, box, boxes, cushion, drape, revolve, rod
from lumiply.synth.spec import Item

Builder = Callable[[Item, np.random.Generator], list[Part]]


def build(item: Item) -> list[Part]:
    """The meshes of an item at its place in the room.

    Raises:
        ValueError: its kind is unknown.
    """
    try:
        builder = FURNITURE[item.kind]
    except KeyError:
        raise ValueError(f"unknown furniture {item.kind!r}; known: {', '.join(FURNITURE)}") from None
    parts = builder(item, np.random.default_rng(item.seed))
    return [(mesh.turned(item.yaw).moved(item.position), surface) for mesh, surface in parts]


def _legs(width: float, depth: float, height: float, thickness: float, inset: float = 0.0) -> Mesh:
    x, y = width / 2 - thickness / 2 - inset, depth / 2 - thickness / 2 - inset
    centers = [(sx * x, sy * y, height / 2) for sx in (-1, 1) for sy in (-1, 1)]
    return boxes(centers, [(thickness, thickness, height)] * 4, 0.004)


def _pillow(
    width: float, height: float, thickness: float, place: tuple[float, float, float], lean: float, yaw: float
) -> Mesh:
    """A pillow leaning against something behind it; `place` is the middle of its lower edge."""
    upright = cushion(width, height, thickness).moved((0, height / 2, 0)).tilted(lean)
    return upright.turned(yaw).moved(place)


def bed(item: Item, rng: np.random.Generator) -> list[Part]:
    """Surfaces: frame, headboard, blanket, sheet, then pillows."""
    width, depth, height = item.size
    frame, head, blanket, linen, *pillows = item.surfaces
    base = height * rng.uniform(0.4, 0.6)
    parts: list[Part] = [(box((width, depth, base), (0, 0, base / 2 + 0.03), 0.02), frame)]
    mattress = height - base
    parts.append((box((width * 0.97, depth * 0.97, mattress), (0, 0, base + mattress / 2), 0.06), linen))
    head_height = height + rng.uniform(0.25, 0.75)
    if rng.random() < 0.85:
        parts.append(
            (
                box(
                    (width * rng.uniform(1.0, 1.15), 0.09, head_height), (0, depth / 2, head_height / 2), 0.03
                ),
                head,
            )
        )
    reach = rng.uniform(0.55, 0.97)
    drop = min(rng.uniform(0.15, 0.5), height - 0.05)
    cover = drape(width * 0.98, depth * reach, height, drop, rng)
    parts.append((cover.moved((0, -depth * (1 - reach) / 2 - 0.01, 0.01)), blanket))
    back = depth / 2 - 0.1
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        count = int(rng.integers(1, 4)) if width > 1.2 else 1
        span = width * rng.uniform(0.75, 0.95) / count
        side = min(span * 0.95, rng.uniform(0.4, 0.7)) * (1 - 0.15 * row)
        for k in range(count):
            x = (k - (count - 1) / 2) * span
            place = (x, back - 0.1 - 0.2 * row, height + 0.01)
            surface = pillows[(row * 3 + k) % len(pillows)] if pillows else linen
            parts.append(
                (
                    _pillow(
                        side,
                        side * rng.uniform(0.7, 1.0),
                        0.18,
                        place,
                        rng.uniform(0.9, 1.25),
                        rng.normal(0, 0.06),
                    ),
                    surface,
                )
            )
    if pillows and rng.random() < 0.4:
        lying = cushion(0.5, 0.38, 0.16).turned(rng.uniform(-1, 1))
        parts.append(
            (
                lying.moved((rng.uniform(-0.3, 0.3) * width, rng.uniform(-0.1, 0.15) * depth, height + 0.1)),
                pillows[0],
            )
        )
    return parts


def cabinet(item: Item, rng: np.random.Generator) -> list[Part]:
    """Nightstand, dresser, sideboard or wardrobe by its size. Surfaces: body, front, handle."""
    width, depth, height = item.size
    body, front, handle = item.surfaces
    foot = float(rng.choice([0.0, 0.05, 0.14])) if height < 1.2 else 0.04
    parts: list[Part] = [
        (box((width, depth, height - foot), (0, 0, foot + (height - foot) / 2), 0.008), body)
    ]
    if foot:
        parts.append((_legs(width, depth, foot, 0.04, 0.02), handle if rng.random() < 0.5 else body))
    tall = height > 1.2
    columns = max(1, round(width / rng.uniform(0.4, 0.65)))
    rows = 1 if tall else max(1, round((height - foot) / rng.uniform(0.2, 0.35)))
    inner_w, inner_h = width - 0.04, height - foot - 0.04
    x = (np.arange(columns) - (columns - 1) / 2) * inner_w / columns
    z = foot + 0.02 + (np.arange(rows) + 0.5) * inner_h / rows
    centers = np.stack(np.broadcast_arrays(x[:, None], -depth / 2 - 0.006, z[None]), -1).reshape(-1, 3)
    door = (inner_w / columns - 0.008, 0.018, inner_h / rows - 0.008)
    parts.append((boxes(centers, [door] * len(centers), 0.004), front))
    knob = (0.02, 0.03, 0.3) if tall else (0.12, 0.025, 0.012)
    shift = (inner_w / columns * 0.42 if tall else 0.0, -0.025, 0.0 if tall else inner_h / rows * 0.2)
    parts.append((boxes(centers + np.array(shift), [knob] * len(centers), 0.004), handle))
    return parts


def table(item: Item, rng: np.random.Generator) -> list[Part]:
    """Any table with a rectangular top. Surfaces: top, legs."""
    width, depth, height = item.size
    top, legs = item.surfaces
    thick = rng.uniform(0.02, 0.05)
    parts: list[Part] = [(box((width, depth, thick), (0, 0, height - thick / 2), 0.006), top)]
    if rng.random() < 0.7:
        parts.append((_legs(width, depth, height - thick, rng.uniform(0.03, 0.08), 0.02), legs))
    else:
        sides = [(sx * (width / 2 - 0.03), 0, (height - thick) / 2) for sx in (-1, 1)]
        parts.append((boxes(sides, [(0.03, depth * 0.9, height - thick)] * 2, 0.003), legs))
    if rng.random() < 0.4 and height > 0.4:
        parts.append((box((width * 0.9, depth * 0.85, 0.1), (0, 0, height - thick - 0.05), 0.004), legs))
    return parts


def round_table(item: Item, rng: np.random.Generator) -> list[Part]:
    """A round table on one foot or three legs. Surfaces: top, legs."""
    radius, height = item.size[0] / 2, item.size[2]
    top, legs = item.surfaces
    rim: list[list[float]] = [
        [0, -0.03],
        [radius * 0.98, -0.03],
        [radius, -0.02],
        [radius, -0.005],
        [radius * 0.99, 0],
        [0, 0],
    ]
    parts: list[Part] = [(revolve(rim, 40).moved((0, 0, height)), top)]
    if rng.random() < 0.5:
        foot: list[list[float]] = [
            [0, 0],
            [radius * 0.6, 0],
            [radius * 0.58, 0.02],
            [0.05, 0.05],
            [0.035, height - 0.03],
        ]
        parts.append((revolve(foot, 28), legs))
    else:
        for angle in np.arange(3) * 2 * np.pi / 3 + rng.uniform(0, 2):
            out = np.array([np.cos(angle), np.sin(angle), 0])
            parts.append((rod(out * radius * 0.85, out * radius * 0.5 + [0, 0, height - 0.03], 0.02), legs))
    return parts


def chair(item: Item, rng: np.random.Generator) -> list[Part]:
    """Surfaces: seat, legs."""
    width, depth, height = item.size
    seat, legs = item.surfaces
    level = min(0.46, height * 0.55)
    parts: list[Part] = [(box((width, depth, 0.06), (0, 0, level), 0.02), seat)]
    parts.append((_legs(width, depth, level - 0.02, 0.035, 0.01), legs))
    back = box((width * 0.95, 0.04, (height - level) * rng.uniform(0.45, 0.9)), radius=0.015)
    parts.append((back.tilted(-0.12).moved((0, depth / 2 + 0.01, level + (height - level) * 0.55)), seat))
    posts = [(sx * width * 0.43, depth / 2 - 0.005, level + (height - level) / 2 - 0.05) for sx in (-1, 1)]
    parts.append((boxes(posts, [(0.03, 0.03, height - level)] * 2, 0.004), legs))
    return parts


def sofa(item: Item, rng: np.random.Generator) -> list[Part]:
    """Sofa or armchair by its width. Surfaces: cloth, legs, then cushions."""
    width, depth, height = item.size
    covering, legs, *cushions = item.surfaces
    arm, back = rng.uniform(0.12, 0.24), rng.uniform(0.16, 0.26)
    level, soft = rng.uniform(0.38, 0.46), rng.uniform(0.03, 0.07)
    inner = width - 2 * arm
    foot = 0.1
    parts: list[Part] = [
        (box((width, depth, level - foot - 0.12), (0, 0, foot + (level - foot - 0.12) / 2), 0.03), covering)
    ]
    arm_height = min(height, level + rng.uniform(0.1, 0.25))
    sides = [(sx * (width / 2 - arm / 2), -0.01, foot + (arm_height - foot) / 2) for sx in (-1, 1)]
    parts.append((boxes(sides, [(arm, depth, arm_height - foot)] * 2, soft), covering))
    parts.append(
        (
            box((width, back, height - foot), (0, depth / 2 - back / 2, foot + (height - foot) / 2), soft),
            covering,
        )
    )
    count = max(1, round(inner / 0.7))
    x = (np.arange(count) - (count - 1) / 2) * inner / count
    seat_depth = depth - back
    seats = [(xi, -back / 2, level - 0.06) for xi in x]
    parts.append((boxes(seats, [(inner / count - 0.01, seat_depth, 0.17)] * count, 0.05), covering))
    lean = boxes([(0, 0, 0)], [(inner / count - 0.02, 0.15, height - level - 0.02)], 0.05).tilted(-0.15)
    for xi in x:
        parts.append(
            (lean.moved((xi, depth / 2 - back - 0.05, level + (height - level) / 2 + 0.02)), covering)
        )
    for k, surface in enumerate(cushions):
        side = rng.uniform(0.36, 0.48)
        xk = inner / 2 * (-0.85 if k % 2 == 0 else 0.85) * rng.uniform(0.6, 1.0) if count > 1 else 0.0
        place = (xk, depth / 2 - back - 0.28, level + 0.03)
        parts.append((_pillow(side, side, 0.16, place, rng.uniform(1.0, 1.25), rng.normal(0, 0.25)), surface))
    parts.append((_legs(width, depth, foot, 0.05, 0.04), legs))
    return parts


def crate(item: Item, rng: np.random.Generator) -> list[Part]:
    """A box, a pouf or a plinth. Surfaces: body."""
    width, depth, height = item.size
    return [
        (
            box((width, depth, height), (0, 0, height / 2), float(rng.choice([0.003, 0.03, 0.09]))),
            item.surfaces[0],
        )
    ]


def column(item: Item, rng: np.random.Generator) -> list[Part]:
    """A pillar, a chimney breast or a door leaf: a plain upright block. Surfaces: body."""
    width, depth, height = item.size
    return [(box((width, depth, height), (0, 0, height / 2)), item.surfaces[0])]


def door(item: Item, rng: np.random.Generator) -> list[Part]:
    """A closed door in its frame; its mount is the floor. Surfaces: leaf, frame, handle."""
    width, _, height = item.size
    leaf, frame, handle = item.surfaces
    parts: list[Part] = [(box((width, 0.03, height), (0, 0, height / 2)), leaf)]
    posts = [(-width / 2 - 0.03, 0, height / 2), (width / 2 + 0.03, 0, height / 2), (0, 0, height + 0.03)]
    parts.append((boxes(posts, [(0.07, 0.06, height)] * 2 + [(width + 0.13, 0.06, 0.07)], 0.004), frame))
    fields = [(0, -0.018, height * z) for z in (0.27, 0.72)]
    parts.append((boxes(fields, [(width * 0.66, 0.016, height * 0.36)] * 2, 0.006), leaf))
    parts.append((box((0.12, 0.05, 0.02), (width * 0.38, -0.045, 1.0), 0.006), handle))
    return parts


FURNITURE: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        bed,
        cabinet,
        table,
        round_table,
        chair,
        sofa,
        crate,
        column,
        door,
        objects.shelf,
        objects.vase,
        objects.plant,
        objects.rug,
        objects.picture,
        objects.curtains,
        objects.screen,
        objects.small_books,
    )
}
"""Every kind of item and its builder."""
