"""Furnish a room: a bedroom, a living room, a study, a dining room, or a plain corner."""

from __future__ import annotations

import numpy as np

from lumiply.synth import palette
from lumiply.synth.decorate import decorate
from lumiply.synth.layout import WALL_YAW, Layout, Support, directions
from lumiply.synth.palette import choose, plain
from lumiply.synth.spec import Surface, Vector

ROOM_KINDS = ("bedroom", "living", "study", "dining", "corner")
ROOM_WEIGHTS = (0.36, 0.28, 0.14, 0.12, 0.1)
GLASS_DARK = (0.015, 0.016, 0.018)


def furnish(layout: Layout, kind: str) -> None:
    """Fill a room of one of `ROOM_KINDS`, main pieces first."""
    {"bedroom": _bedroom, "living": _living, "study": _study, "dining": _dining, "corner": _corner}[kind](
        layout
    )
    decorate(layout)


def _cabinet(layout: Layout, wall: str, along: float, size: Vector) -> bool:
    body = layout.wood()
    front = (
        body
        if layout.rng.random() < 0.6
        else palette.timber(layout.rng, palette.paint_color(layout.rng, layout.scheme))
    )
    placed = layout.against(wall, along, "cabinet", size, (body, front, palette.metal(layout.rng)))
    if placed and size[2] < 1.2:
        x, y = layout.spot(wall, along, size[1])
        layout.support(x, y, size[2], min(size[0], size[1]) / 2)
    return placed


def _bedroom(layout: Layout) -> None:
    rng, length = layout.rng, layout.size[1]
    bed = (float(choose(rng, (1.0, 1.4, 1.6, 1.8, 2.0))), rng.uniform(1.95, 2.15), rng.uniform(0.38, 0.62))
    wall = choose(rng, ("back", "back", "back", "left", "right"))
    span = layout.wall_length(wall)
    if wall == "back":
        margin = min(bed[0] / 2 + 0.05, span / 2)
        along = float(np.clip(span / 2 + rng.normal(0, 0.25) * span, margin, span - margin))
    else:
        along = float(np.clip(length - bed[0] / 2 - rng.uniform(0.05, 0.8), bed[0] / 2, length - bed[0] / 2))
    if wall == "back" and rng.random() < 0.2:
        layout.step = (length - bed[1] - rng.uniform(0.3, 0.9), rng.uniform(0.14, 0.34))
        layout.add_step(layout.wood())
    head = layout.wood() if rng.random() < 0.5 else layout.cloth()
    pillows = tuple(layout.cloth() for _ in range(int(rng.integers(2, 5))))
    x, y = layout.spot(wall, along, bed[1], 0.1)
    surfaces = (layout.wood(), head, layout.cloth(), layout.cloth(patterned=False), *pillows)
    layout.add("bed", (x, y), WALL_YAW[wall], bed, surfaces, force=True)
    across, inward = directions(WALL_YAW[wall])
    middle = np.array([x, y])
    place = middle + across * rng.uniform(-0.3, 0.3) * bed[0] + inward * 0.3 * bed[1]
    layout.support(place[0], place[1], bed[2] + 0.03, 0.18)
    if wall == "back" and rng.random() < 0.3:
        _wall_shelf(layout, along, bed[0] * rng.uniform(0.9, 1.3), layout.ground(y))
    stand = (rng.uniform(0.38, 0.58), rng.uniform(0.34, 0.45), rng.uniform(0.4, 0.65))
    for side in (-1, 1):
        if rng.random() < 0.8:
            _cabinet(layout, wall, along + side * (bed[0] / 2 + stand[0] / 2 + rng.uniform(0.06, 0.2)), stand)
    if rng.random() < 0.6:
        rug = (rng.uniform(1.4, 2.6), rng.uniform(1.0, 2.0), 0.012)
        layout.add(
            "rug",
            middle + inward * 0.8,
            WALL_YAW[wall] + rng.normal(0, 0.1),
            rug,
            (palette.rug(rng, layout.scheme, max(rug)),),
            force=True,
        )
    if rng.random() < 0.4:
        bench = (min(bed[0], rng.uniform(0.8, 1.4)), 0.4, 0.45)
        layout.add("crate", middle + inward * (bed[1] / 2 + 0.3), WALL_YAW[wall], bench, (layout.cloth(),))
    _tall_pieces(layout)


def _tall_pieces(layout: Layout) -> None:
    """Wardrobes, shelves and dressers along the walls, where there is room."""
    rng = layout.rng
    for _ in range(int(rng.integers(1, 4))):
        wall = choose(rng, ("back", "left", "right"))
        span = layout.wall_length(wall)
        along = rng.uniform(0.4 * span if wall != "back" else 0.3, span - 0.3)
        roll = rng.random()
        if roll < 0.35:
            size = (
                rng.uniform(0.8, 1.8),
                rng.uniform(0.45, 0.6),
                rng.uniform(1.8, min(2.3, layout.size[2] - 0.05)),
            )
            _cabinet(layout, wall, along, size)
        elif roll < 0.7:
            size = (
                rng.uniform(0.6, 2.0),
                rng.uniform(0.24, 0.38),
                rng.uniform(0.9, min(2.4, layout.size[2] - 0.05)),
            )
            _shelf(layout, wall, along, size)
        else:
            _cabinet(
                layout, wall, along, (rng.uniform(0.7, 1.5), rng.uniform(0.38, 0.5), rng.uniform(0.6, 1.05))
            )


def _shelf(layout: Layout, wall: str, along: float, size: Vector) -> bool:
    rng = layout.rng
    back = palette.wall(rng, layout.scheme, "brick") if rng.random() < 0.25 else layout.wood()
    things = layout.things(int(rng.integers(4, 9)))
    return layout.against(wall, along, "shelf", size, (layout.wood(), back, *things))


def _wall_shelf(layout: Layout, along: float, width: float, ground: float) -> None:
    """Compartments on the wall over a bed."""
    rng = layout.rng
    low = ground + rng.uniform(1.05, 1.35)
    size = (
        min(width, layout.size[0] - 0.05),
        rng.uniform(0.2, 0.3),
        min(layout.size[2] - low - 0.05, rng.uniform(0.7, 1.4)),
    )
    half = size[0] / 2 + 0.02
    x, y = layout.spot("back", float(np.clip(along, half, layout.size[0] - half)), size[1])
    if size[2] > 0.4 and not layout.covers_window("back", x - half, x + half, low + size[2]):
        back = palette.wall(rng, layout.scheme, "brick") if rng.random() < 0.5 else layout.wood()
        layout.add("shelf", (x, y), 0.0, size, (layout.wood(), back, *layout.things(7)), low)


def _living(layout: Layout) -> None:
    rng = layout.rng
    wall = choose(rng, ("back", "back", "left", "right"))
    span = layout.wall_length(wall)
    sofa = (rng.uniform(1.5, min(2.5, span - 0.2)), rng.uniform(0.8, 1.0), rng.uniform(0.7, 0.95))
    along = float(np.clip(span * rng.uniform(0.4, 0.7), sofa[0] / 2, span - sofa[0] / 2))
    cloth = layout.cloth(patterned=rng.random() < 0.4)
    legs = palette.metal(rng) if rng.random() < 0.5 else layout.wood()
    cushions = tuple(layout.cloth() for _ in range(int(rng.integers(0, 4))))
    x, y = layout.spot(wall, along, sofa[1], rng.uniform(0.02, 0.15))
    layout.add("sofa", (x, y), WALL_YAW[wall], sofa, (cloth, legs, *cushions), force=True)
    toward = {"back": (0, -1), "left": (1, 0), "right": (-1, 0)}[wall]
    middle = (x + toward[0] * 1.15, y + toward[1] * 1.15)
    rug = (rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.0), 0.012)
    if rng.random() < 0.75:
        pile = (palette.rug(rng, layout.scheme, max(rug)),)
        layout.add("rug", (middle[0], middle[1]), WALL_YAW[wall] + rng.normal(0, 0.05), rug, pile, force=True)
    if rng.random() < 0.75:
        _low_table(layout, *middle, WALL_YAW[wall])
    side = float(choose(rng, (-1, 1)))
    end = (rng.uniform(0.38, 0.55), rng.uniform(0.36, 0.5), rng.uniform(0.42, 0.65))
    for sign in (side, -side):
        if rng.random() < 0.75:
            _cabinet(layout, wall, along + sign * (sofa[0] / 2 + end[0] / 2 + 0.08), end)
    if rng.random() < 0.55:
        chair = (rng.uniform(0.75, 0.95), rng.uniform(0.75, 0.9), rng.uniform(0.7, 0.95))
        place = (middle[0] + side * rng.uniform(1.2, 1.7), middle[1] + rng.uniform(-0.2, 0.6))
        surfaces = (layout.cloth(patterned=False), legs, layout.cloth())
        layout.add("sofa", place, WALL_YAW[wall] + side * -1.2, chair, surfaces)
    _tall_pieces(layout)


def _low_table(layout: Layout, x: float, y: float, yaw: float) -> None:
    rng = layout.rng
    height = rng.uniform(0.32, 0.48)
    legs = palette.metal(rng) if rng.random() < 0.5 else layout.wood()
    size = (rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.7), height)
    kind = "table"
    if rng.random() < 0.4:
        kind, size = "round_table", (0.8, 0.8, height)
    if layout.add(kind, (x, y), yaw, size, (layout.wood(), legs)):
        layout.support(x, y, height, 0.25)
        layout.tables.append(Support(x, y, height, 0.3))


def _study(layout: Layout) -> None:
    rng = layout.rng
    wall = choose(rng, ("back", "back", "left", "right"))
    span = layout.wall_length(wall)
    desk = (rng.uniform(1.0, 1.7), rng.uniform(0.5, 0.75), rng.uniform(0.7, 0.78))
    along = float(np.clip(span * rng.uniform(0.35, 0.75), desk[0] / 2, span - desk[0] / 2))
    legs = palette.metal(rng) if rng.random() < 0.5 else layout.wood()
    x, y = layout.spot(wall, along, desk[1], 0.03)
    yaw = WALL_YAW[wall]
    layout.add("table", (x, y), yaw, desk, (layout.wood(), legs), force=True)
    across, inward = directions(yaw)
    side = float(choose(rng, (-1, 1)))
    aside = desk[0] * rng.uniform(0.25, 0.38)
    place = np.array([x, y]) + across * side * aside
    layout.support(place[0], place[1], desk[2], min(0.2, desk[0] / 2 - aside))
    if rng.random() < 0.6:
        screen = (rng.uniform(0.4, 0.75), 0.2, rng.uniform(0.28, 0.42))
        spot = np.array([x, y]) - across * side * desk[0] * 0.1 - inward * 0.08
        layout.add(
            "screen",
            spot,
            yaw,
            screen,
            (plain(GLASS_DARK, 0.12), plain((0.05, 0.05, 0.05), 0.4)),
            desk[2],
            force=True,
        )
    chair = (rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.5), rng.uniform(0.8, 1.0))
    seat = np.array([x, y]) + inward * (desk[1] / 2 + 0.3)
    layout.add("chair", seat, yaw + np.pi + rng.normal(0, 0.4), chair, (layout.cloth(), legs))
    if rng.random() < 0.7:
        _shelf(
            layout,
            wall,
            along - side * (desk[0] / 2 + 0.6),
            (rng.uniform(0.6, 1.0), 0.3, rng.uniform(1.4, 2.2)),
        )
    if rng.random() < 0.5:
        rug = (rng.uniform(1.2, 2.2), rng.uniform(1.0, 1.7), 0.012)
        layout.add(
            "rug", seat + inward * 0.4, yaw, rug, (palette.rug(rng, layout.scheme, max(rug)),), force=True
        )
    _tall_pieces(layout)


def _dining(layout: Layout) -> None:
    rng, (width, length, _) = layout.rng, layout.size
    table = (rng.uniform(1.1, 1.9), rng.uniform(0.75, 0.95), rng.uniform(0.72, 0.78))
    x, y = width * rng.uniform(0.35, 0.65), length - rng.uniform(1.2, 2.0)
    yaw = rng.normal(0, 0.08) + float(choose(rng, (0.0, 0.0, np.pi / 2)))
    kind = "table"
    if rng.random() < 0.3:
        kind, table = "round_table", (1.1, 1.1, table[2])
    layout.add(kind, (x, y), yaw, table, (layout.wood(), layout.wood()), force=True)
    layout.support(x, y, table[2], 0.3)
    layout.tables.append(Support(x, y, table[2], 0.4))
    seat, legs = layout.cloth(), layout.wood()
    across, inward = directions(yaw)
    for sign in (-1, 1):
        for k in (-0.28, 0.28):
            if rng.random() < 0.85:
                spot = np.array([x, y]) + inward * sign * (table[1] / 2 + 0.18) + across * k * table[0]
                turn = yaw + (np.pi if sign > 0 else 0) + np.pi * 0
                layout.add(
                    "chair", spot, turn + rng.normal(0, 0.12), (0.45, 0.46, 0.92), (seat, legs), force=True
                )
    if rng.random() < 0.5:
        rug = (table[0] + 1.0, table[1] + 1.2, 0.012)
        layout.add("rug", (x, y), yaw, rug, (palette.rug(rng, layout.scheme, max(rug)),), force=True)
    _cabinet(
        layout,
        "back",
        width * rng.uniform(0.25, 0.75),
        (rng.uniform(1.0, 1.7), 0.42, rng.uniform(0.75, 0.95)),
    )
    _tall_pieces(layout)


def _corner(layout: Layout) -> None:
    rng, (width, length, _) = layout.rng, layout.size
    for _ in range(int(rng.integers(1, 4))):
        size = (rng.uniform(0.4, 1.4), rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.95))
        _cabinet(layout, choose(rng, ("back", "left", "right")), rng.uniform(0.5, width - 0.4), size)
    if rng.random() < 0.6:
        _low_table(
            layout, width * rng.uniform(0.3, 0.7), length * rng.uniform(0.5, 0.75), rng.uniform(-0.4, 0.4)
        )
    for _ in range(int(rng.integers(0, 4))):
        crate = tuple(rng.uniform(0.2, 0.6, 3))
        spot = (rng.uniform(0.3, width - 0.3), rng.uniform(length * 0.5, length - 0.3))
        if layout.add("crate", spot, rng.uniform(-1, 1), crate, _block_surface(layout)):
            layout.support(*spot, crate[2], min(crate[:2]) / 2)
    _tall_pieces(layout)


def _block_surface(layout: Layout) -> tuple[Surface, ...]:
    """Wood, paint or cloth for a plain block."""
    return (choose(layout.rng, (layout.wood(), layout.cloth(), layout.things(1)[0])),)
