"""Smaller things of a room: shelves with books, plants, vases, rugs, pictures, curtains, screens.

Builders work in the item's own frame, as those of `furniture` do.
"""

from __future__ import annotations

import numpy as np

from lumiply.synth.shapes import Floats, Mesh, box, boxes, curtain, cylinder, merge, quad, revolve, rod, sheet
from lumiply.synth.spec import Item, Surface

Part = tuple[Mesh, Surface]


def shelf(item: Item, rng: np.random.Generator) -> list[Part]:
    """Open shelves with books, boxes and vases. Surfaces: boards, back, then the things on it."""
    width, depth, height = item.size
    board, back, *things = item.surfaces
    columns = max(1, round(width / rng.uniform(0.45, 0.9)))
    rows = max(1, round(height / rng.uniform(0.28, 0.42)))
    thick = rng.uniform(0.018, 0.04)
    xs = np.linspace(-width / 2 + thick / 2, width / 2 - thick / 2, columns + 1)
    zs = np.linspace(thick / 2, height - thick / 2, rows + 1)
    uprights = boxes([(x, 0, height / 2) for x in xs], [(thick, depth, height)] * len(xs))
    levels = boxes([(0, 0, z) for z in zs], [(width, depth * 0.98, thick)] * len(zs))
    parts: list[Part] = [(uprights, board), (levels, board)]
    parts.append((quad((-width / 2, depth / 2 - 0.01, 0), (width, 0, 0), (0, 0, height)), back))
    for column in range(columns):
        for row in range(rows):
            left, right, level = xs[column] + thick, xs[column + 1] - thick, zs[row] + thick / 2
            room = zs[row + 1] - zs[row] - thick
            parts += _filling(rng, things, left, right, level, room, depth)
    return parts


def _filling(
    rng: np.random.Generator,
    things: list[Surface],
    left: float,
    right: float,
    level: float,
    room: float,
    depth: float,
) -> list[Part]:
    """What stands in one compartment of a shelf."""
    roll = rng.random()
    if roll < 0.25 or not things:
        return []
    if roll < 0.7:
        return _books(rng, things, left, right, level, room, depth)
    if roll < 0.85:
        size = (min(right - left, 0.4) * rng.uniform(0.4, 0.9), depth * 0.7, room * rng.uniform(0.3, 0.8))
        return [
            (
                box(size, ((left + right) / 2, 0, level + size[2] / 2), 0.01),
                things[int(rng.integers(len(things)))],
            )
        ]
    jar = revolve(_vase_profile(rng, min(0.09, (right - left) * 0.3), room * rng.uniform(0.4, 0.85)), 20)
    return [(jar.moved(((left + right) / 2, 0, level)), things[int(rng.integers(len(things)))])]


def _books(
    rng: np.random.Generator,
    things: list[Surface],
    left: float,
    right: float,
    level: float,
    room: float,
    depth: float,
) -> list[Part]:
    """A row of standing books or a lying pile."""
    count = int(rng.integers(3, 12))
    thick = rng.uniform(0.016, 0.045, count)
    tall, deep = room * rng.uniform(0.6, 0.92, count), depth * rng.uniform(0.55, 0.75, count)
    if rng.random() < 0.25:
        thick = thick[: max(1, int(room / 0.06))]
        z = level + np.cumsum(thick) - thick / 2
        wide = np.minimum(rng.uniform(0.18, 0.26, len(thick)), (right - left) * 0.8)
        centers = np.stack([np.full(len(z), (left + right) / 2), np.zeros(len(z)), z], -1)
        sizes = np.stack([wide, deep[: len(z)], thick], -1)
    else:
        start = left if rng.random() < 0.7 else rng.uniform(left, (left + right) / 2)
        x = start + np.cumsum(thick) - thick / 2
        fits = x + thick / 2 < right
        x, thick, tall, deep = x[fits], thick[fits], tall[fits], deep[fits]
        centers = np.stack([x, np.zeros(len(x)), level + tall / 2], -1)
        sizes = np.stack([thick - 0.002, deep, tall], -1)
    owner = rng.integers(len(things), size=len(centers))
    return [(boxes(centers[owner == k], sizes[owner == k]), things[k]) for k in np.unique(owner)]


def _vase_profile(rng: np.random.Generator, radius: float, height: float) -> Floats:
    t = np.linspace(0, 1, 14)
    belly = 0.55 + 0.45 * np.sin(np.pi * t ** rng.uniform(0.6, 1.4)) + rng.uniform(-0.1, 0.2) * (t > 0.85)
    return np.concatenate([[[0, 0]], np.stack([radius * belly, height * t], -1)])


def vase(item: Item, rng: np.random.Generator) -> list[Part]:
    """Surfaces: clay."""
    return [(revolve(_vase_profile(rng, item.size[0] / 2, item.size[2]), 24), item.surfaces[0])]


def plant(item: Item, rng: np.random.Generator) -> list[Part]:
    """A potted plant. Surfaces: pot, leaves, soil."""
    spread, _, height = item.size
    pot, leaf, soil = item.surfaces
    rim, tall = spread * rng.uniform(0.2, 0.3), height * rng.uniform(0.2, 0.35)
    parts: list[Part] = [
        (revolve([[0, 0], [rim * 0.7, 0], [rim, tall], [rim * 0.9, tall], [rim * 0.9, tall * 0.9]], 24), pot)
    ]
    parts.append((cylinder(rim * 0.9, 0.01, (0, 0, tall * 0.88)), soil))
    slender = rng.random() < 0.5
    for _ in range(int(rng.integers(9, 22))):
        length = height * rng.uniform(0.35, 0.75)
        blade = _leaf(
            length,
            length * (0.1 if slender else rng.uniform(0.22, 0.4)),
            rng.uniform(0.2, 1.1 if slender else 1.6),
        )
        lift = tall * 0.9 + (0 if slender else rng.uniform(0, (height - tall) * 0.5))
        parts.append((blade.turned(rng.uniform(0, 2 * np.pi)).moved((0, 0, lift)), leaf))
        if not slender:
            parts.append((rod((0, 0, tall * 0.8), (0, 0, lift), 0.006, 5), leaf))
    return parts


def _leaf(length: float, width: float, bend: float) -> Mesh:
    """A bent leaf that grows outwards from the origin, seen from both sides."""
    t = np.linspace(0, 1, 7)[:, None]
    s = np.linspace(-1, 1, 3)[None]
    angle = 1.35 - bend * t
    out = length * np.cumsum(np.cos(angle), axis=0) / 7
    up = length * np.cumsum(np.sin(angle), axis=0) / 7
    half = width / 2 * np.sin(np.pi * np.clip(t, 0.03, 0.985)) ** 0.7
    points = np.stack(np.broadcast_arrays(out, s * half, up + 0.15 * width * np.abs(s)), -1)
    return merge([sheet(points), sheet(points[::-1] - np.array([0, 0, 0.002]))])


def rug(item: Item, rng: np.random.Generator) -> list[Part]:
    """Surfaces: pile."""
    width, depth, height = item.size
    top = box((width, depth, height), (0, 0, height / 2), 0.004)
    centred = Mesh(
        top.positions, top.normals, top.positions[:, :2] + np.array([width, depth], np.float32) / 2, top.faces
    )
    return [(centred, item.surfaces[0])]


def picture(item: Item, rng: np.random.Generator) -> list[Part]:
    """A framed picture; its mount is the middle. Surfaces: frame, art."""
    width, _, height = item.size
    frame, art = item.surfaces
    border = rng.uniform(0.015, 0.05)
    canvas = quad((-width / 2, -0.022, -height / 2), (width, 0, 0), (0, 0, height), unit_uv=True)
    edges = [(0, 0, height / 2), (0, 0, -height / 2), (width / 2, 0, 0), (-width / 2, 0, 0)]
    sizes = [(width + border, 0.05, border)] * 2 + [(border, 0.05, height + border)] * 2
    return [(canvas.moved((0, 0.003, 0)), art), (boxes(edges, sizes, 0.003), frame)]


def curtains(item: Item, rng: np.random.Generator) -> list[Part]:
    """A pair of curtains on a rail; its mount is the floor under the middle. Surfaces: cloth, rail."""
    width, _, height = item.size
    share = rng.uniform(0.16, 0.32)
    parts: list[Part] = []
    for side in (-1, 1):
        panel = curtain(
            width * share, height, rng.uniform(4, 8) * share * 4, rng.uniform(0.02, 0.045), rng.uniform(0, 6)
        )
        parts.append((panel.moved((side * width / 2 * (1 - share), -0.06, 0.03)), item.surfaces[0]))
    parts.append(
        (
            rod((-width * 0.54, -0.06, height + 0.03), (width * 0.54, -0.06, height + 0.03), 0.014),
            item.surfaces[1],
        )
    )
    return parts


def screen(item: Item, rng: np.random.Generator) -> list[Part]:
    """A television or monitor, switched off; its mount is the middle of its lower edge. Surfaces: glass, body."""
    width, _, height = item.size
    panel = box((width, 0.035, height), (0, 0, height / 2 + 0.06), 0.006)
    glass = quad((-width / 2 + 0.012, -0.0185, 0.072), (width - 0.024, 0, 0), (0, 0, height - 0.024))
    foot = boxes([(0, 0, 0.008), (0, 0, 0.04)], [(width * 0.35, 0.18, 0.016), (0.06, 0.03, 0.08)], 0.003)
    return [(panel, item.surfaces[1]), (glass, item.surfaces[0]), (foot, item.surfaces[1])]


def small_books(item: Item, rng: np.random.Generator) -> list[Part]:
    """A pile of books on a table. Surfaces: covers."""
    width, depth, height = item.size
    count = len(item.surfaces)
    parts: list[Part] = []
    for k, surface in enumerate(item.surfaces):
        slab = box((width * rng.uniform(0.75, 1), depth * rng.uniform(0.75, 1), height / count), radius=0.002)
        parts.append((slab.turned(rng.normal(0, 0.2)).moved((0, 0, height * (k + 0.5) / count)), surface))
    return parts
