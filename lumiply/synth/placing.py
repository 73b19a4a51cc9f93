"""Where the lamp and the camera go: drawn together until the lamp is well in view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lumiply.synth import palette
from lumiply.synth.lamps import BLOCK, DISC, SHADES, STEMS, foot_radius, silhouette
from lumiply.synth.layout import Footprint, Layout, Support
from lumiply.synth.palette import choose
from lumiply.synth.spec import LAMP_KINDS, Camera, Lamp, LampKind, Surface, Vector

KIND_WEIGHTS = (0.42, 0.28, 0.30)
COVERAGE_RANGE = (0.004, 0.09)
"""Share of the picture that the lamp's outline may cover, by a rough estimate."""
ATTEMPTS = 60
"""Draws of lamp and camera before the best one so far is taken."""
CLEARANCE = 0.01
"""Metres between a lamp and a wall, at least."""
ASPECTS = (1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 3 / 4)
Points = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """How a camera sees the lamp.

    Attributes:
        coverage: rough share of the picture inside the frame.
        framed: share of the outline inside the frame, 0..1.
        visible: share of the outline that no furniture hides, 0..1.
    """

    coverage: float
    framed: float
    visible: float

    @property
    def is_good(self) -> bool:
        return (
            COVERAGE_RANGE[0] < self.coverage < COVERAGE_RANGE[1]
            and self.framed > 0.6
            and self.visible > 0.55
        )

    @property
    def score(self) -> float:
        return self.framed + self.visible - abs(np.log(max(self.coverage, 1e-6) / 0.02)) * 0.2


def place_lamp_and_camera(layout: Layout, rng: np.random.Generator) -> tuple[Lamp, Camera]:
    """A lamp somewhere sensible and a camera that sees it."""
    kind: LampKind = choose(rng, LAMP_KINDS, KIND_WEIGHTS)
    best: tuple[float, Lamp, Camera] | None = None
    for _ in range(ATTEMPTS):
        lamp = _sample_lamp(layout, rng, kind)
        camera = _sample_camera(layout, rng, lamp)
        view = look(camera, lamp, layout.footprints)
        clear = _is_clear(layout, lamp)
        score = view.score if clear else view.score - 10
        if best is None or score > best[0]:
            best = (score, lamp, camera)
        if view.is_good and clear:
            return lamp, camera
    assert best is not None
    return best[1], best[2]


def _is_clear(layout: Layout, lamp: Lamp) -> bool:
    """Whether every shade is inside the room and in no piece of furniture, nor a foot on the floor."""
    foot = lamp.positions[0]
    on_floor = lamp.kind != "pendant" and foot[2] <= layout.ground(foot[1])
    if on_floor and not _has_room(layout, foot, foot_radius(lamp)):
        return False
    radius, out = lamp.shade_radius, np.array([np.cos(lamp.yaw), np.sin(lamp.yaw)]) * lamp.offset
    bottom = -lamp.height if lamp.kind == "pendant" else lamp.height - lamp.shade_height
    return all(
        layout.is_free(
            Footprint(
                x + out[0] - radius, y + out[1] - radius, x + out[0] + radius, y + out[1] + radius,
                z + bottom, z + bottom + lamp.shade_height,
            ),
            margin=0.0,
        )
        for x, y, z in lamp.positions
    )  # fmt: skip


def project(camera: Camera, points: Points) -> tuple[Points, Points]:
    """Points (K, 3) to the picture (K, 2), where the frame spans -1..1 both ways, and their depths (K,)."""
    right, up, forward = camera_axes(camera)
    local = points - np.asarray(camera.position)
    depth = local @ forward
    half = np.tan(camera.horizontal_fov / 2)
    safe = np.maximum(depth, 1e-3)
    return np.stack([local @ right / (safe * half), local @ up / (safe * half / camera.aspect)], -1), depth


def camera_axes(camera: Camera) -> tuple[Points, Points, Points]:
    """Unit vectors right, up and forward of a camera; yaw 0 looks along +y, positive pitch looks up."""
    cos, sin = np.cos(camera.yaw), np.sin(camera.yaw)
    right = np.array([cos, sin, 0.0])
    level = np.array([-sin, cos, 0.0])
    forward = np.cos(camera.pitch) * level + np.array([0, 0, np.sin(camera.pitch)])
    return right, np.cross(right, forward), forward


def look(camera: Camera, lamp: Lamp, footprints: list[Footprint]) -> View:
    """How much of the lamp the camera sees, estimated from the outlines of its shades."""
    points = silhouette(lamp).astype(float)
    image, depth = project(camera, points)
    inside = (np.abs(image) < 0.97).all(axis=1) & (depth > 0.2)
    coverage = 0.0
    for group in image.reshape(len(lamp.positions), -1, 2):
        clipped = np.clip(group, -1, 1)
        width, height = clipped.max(axis=0) - clipped.min(axis=0)
        coverage += 0.75 * width * height / 4
    if (depth < 0.2).any():
        coverage = 1.0
    hidden = _hidden(np.asarray(camera.position), points, footprints)
    return View(float(coverage), float(inside.mean()), float((~hidden).mean()))


def _hidden(eye: Points, points: Points, footprints: list[Footprint]) -> NDArray[np.bool_]:
    """(K,) whether furniture's bounding boxes block the segment from the eye to each point."""
    if not footprints:
        return np.zeros(len(points), bool)
    table = np.array(footprints)  # f 6
    low, high = table[:, [0, 1, 4]], table[:, [2, 3, 5]]
    way = points - eye
    way = np.where(np.abs(way) < 1e-6, 1e-6, way)[:, None]  # k 1 3
    first, second = (low - eye) / way, (high - eye) / way
    enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
    return ((enter < leave) & (leave > 0) & (enter < 0.97)).any(axis=1)


def _sample_camera(layout: Layout, rng: np.random.Generator, lamp: Lamp) -> Camera:
    """A camera in the front part of the room, aimed between the middle of the room and the lamp."""
    width, length, height = layout.size
    for _ in range(12):
        position = (
            float(rng.uniform(0.25, width - 0.25)),
            float(rng.uniform(0.15, 0.45) * length if rng.random() < 0.5 else rng.uniform(0.1, 0.5)),
            float(np.clip(rng.normal(1.4, 0.25), 0.7, height - 0.4)),
        )
        if not any(
            place.left - 0.25 < position[0] < place.right + 0.25
            and place.front - 0.25 < position[1] < place.back + 0.25
            and position[2] < place.top + 0.3
            for place in layout.footprints
        ):
            break
    target = silhouette(lamp).mean(axis=0)
    middle = np.array(
        [width * rng.uniform(0.3, 0.7), length * rng.uniform(0.75, 1.0), height * rng.uniform(0.3, 0.45)]
    )
    aim = middle + (target - middle) * rng.uniform(0.0, 0.8)
    way = aim - np.asarray(position)
    yaw = float(np.arctan2(-way[0], way[1]))
    pitch = float(np.clip(np.arctan2(way[2], np.hypot(way[0], way[1])), -0.4, 0.3)) * float(
        rng.uniform(0.4, 1.0)
    )
    aspect = float(choose(rng, ASPECTS))
    fov = np.radians(rng.uniform(52, 88) if aspect >= 1 else rng.uniform(42, 65))
    return Camera(position, yaw, pitch, float(fov), aspect)


def _shade_surface(rng: np.random.Generator, layout: Layout, opaque: bool) -> Surface:
    if opaque and rng.random() < 0.6:
        metal = palette.metal(rng)
        return replace(metal, roughness=max(metal.roughness, 0.4))  # smoother ones throw noisy caustics
    if opaque:
        return palette.plain(palette.cloth_color(rng, layout.scheme), 0.4)
    roll = rng.random()
    if roll < 0.62:
        value = rng.uniform(0.68, 0.97)
        return palette.plain(
            palette.hsv(rng.uniform(0.08, 0.14), rng.uniform(0, 0.22), value), rng.uniform(0.5, 0.95)
        )
    if roll < 0.85:
        return palette.plain(palette.hsv(rng.random(), rng.uniform(0.25, 0.85), rng.uniform(0.4, 0.9)), 0.9)
    return palette.cloth(rng, layout.scheme)


def _body_surface(rng: np.random.Generator, layout: Layout) -> Surface:
    roll = rng.random()
    if roll < 0.5:
        return palette.metal(rng)
    if roll < 0.7:
        return palette.timber(rng, layout.scheme.second_wood)
    return palette.plain(
        palette.hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.2, 0.95)), rng.uniform(0.15, 0.6)
    )


def _sample_lamp(layout: Layout, rng: np.random.Generator, kind: LampKind) -> Lamp:
    sampler = {"table": _table_lamp, "pendant": _pendant, "floor": _floor_lamp}[kind]
    return sampler(layout, rng)


def _glow(rng: np.random.Generator, opaque: bool) -> float:
    return 0.0 if opaque else float(rng.uniform(0.35, 0.95))


def _table_lamp(layout: Layout, rng: np.random.Generator) -> Lamp:
    """On a table or cabinet; now and then on the floor or the edge of a bed."""
    spots = [spot for spot in layout.supports if spot.z < 1.2]
    if spots and rng.random() < 0.85:
        support = choose(rng, spots)
        slack = max(support.radius - 0.12, 0.0)
        position: Vector = (
            support.x + rng.uniform(-1, 1) * slack,
            support.y + rng.uniform(-1, 1) * slack * 0.6,
            support.z,
        )
    else:
        position = _free_floor(layout, rng, 0.2)
        support = Support(*position, 0.25)
    wall = _wall_distance(layout, support.x, support.y) - CLEARANCE
    opaque = rng.random() < 0.12
    shade = choose(rng, ("cone", "cone", "drum", "drum", "cylinder", "dome", "bell", "globe"))
    radius = min(float(rng.uniform(0.09, 0.21)), wall, support.radius / DISC)
    tall = radius * 2 * float(rng.uniform(0.85, 1.0) if shade == "globe" else rng.uniform(0.55, 1.15))
    body = float(rng.uniform(0.12, 0.36))
    stem = choose(rng, ("rod", "rod", *STEMS))
    bulge = min(float(rng.uniform(0.35, 0.75)) * radius, support.radius * 2**0.5 / BLOCK)
    surfaces = _shade_surface(rng, layout, opaque), _body_surface(rng, layout)
    lamp = Lamp(
        "table", (position,), shade, radius, tall, body + tall, _glow(rng, opaque and shade != "globe"), stem, bulge,
        0.0, float(rng.uniform(0, 6.28)), *surfaces,
    )  # fmt: skip
    return _settled(layout, lamp, support, min(support.radius, wall))


def _wall_distance(layout: Layout, x: float, y: float) -> float:
    """From a place to the nearest wall."""
    width, length, _ = layout.size
    return float(min(x, width - x, y, length - y))


def _has_room(layout: Layout, position: Vector, foot: float) -> bool:
    """Whether a foot on the floor meets neither a wall nor furniture."""
    x, y, z = position
    place = Footprint(x - foot, y - foot, x + foot, y + foot, z, z + 0.3)
    return _wall_distance(layout, x, y) > foot + CLEARANCE and layout.is_free(place, margin=0.0)


def _settled(layout: Layout, lamp: Lamp, support: Support, room: float) -> Lamp:
    """A table lamp with its whole foot on a support that leaves `room` round its middle, and clear of the walls."""
    if lamp.stem == "tripod" and foot_radius(lamp) > room:
        lamp = replace(lamp, stem="rod")
    foot = foot_radius(lamp)
    spare, reach = max(support.radius - foot, 0.0), max(lamp.shade_radius, foot) + CLEARANCE
    x, y = (
        float(np.clip(place, max(middle - spare, reach), min(middle + spare, size - reach)))
        for place, middle, size in zip(lamp.positions[0][:2], support[:2], layout.size[:2], strict=True)
    )
    return replace(lamp, positions=((x, y, support.z),))


def _floor_lamp(layout: Layout, rng: np.random.Generator) -> Lamp:
    """On free floor, straight, on a tripod, or with an arm."""
    position = _free_floor(layout, rng, 0.24)
    opaque = rng.random() < 0.2
    shade = choose(rng, SHADES)
    radius = float(rng.uniform(0.13, 0.27))
    tall = radius * 2 * float(rng.uniform(0.85, 1.0) if shade == "globe" else rng.uniform(0.5, 1.1))
    offset = float(rng.uniform(0.2, 0.6)) if rng.random() < 0.22 and shade != "globe" else 0.0
    inward = np.arctan2(layout.size[1] / 2 - position[1], layout.size[0] / 2 - position[0])
    stem = "tripod" if rng.random() < 0.25 and not offset else "rod"
    surfaces = _shade_surface(rng, layout, opaque), _body_surface(rng, layout)
    lamp = Lamp(
        "floor", (position,), shade, radius, tall, float(rng.uniform(1.1, 1.75)),
        _glow(rng, opaque and shade != "globe"), stem, float(rng.uniform(0.009, 0.02)), offset,
        float(inward + rng.normal(0, 0.4)), *surfaces,
    )  # fmt: skip
    if stem == "tripod" and not _has_room(layout, position, foot_radius(lamp)):
        return replace(lamp, stem="rod")
    shade_x, shade_y = position[0] + offset * np.cos(lamp.yaw), position[1] + offset * np.sin(lamp.yaw)
    if _wall_distance(layout, shade_x, shade_y) < radius + CLEARANCE:
        return replace(lamp, yaw=float(inward))
    return lamp


def _pendant(layout: Layout, rng: np.random.Generator) -> Lamp:
    """One to three of them from the ceiling, over a table where there is one."""
    width, length, height = layout.size
    count = int(choose(rng, (1, 1, 2, 3)))
    opaque = rng.random() < 0.3
    shade = choose(rng, SHADES)
    radius = float(rng.uniform(0.08, 0.26 if count == 1 else 0.17))
    tall = radius * 2 * float(rng.uniform(0.85, 1.0) if shade == "globe" else rng.uniform(0.5, 1.3))
    lowest, x, y = (
        rng.uniform(1.35, height - 0.35),
        rng.uniform(0.2, 0.8) * width,
        rng.uniform(0.5, 0.9) * length,
    )
    if layout.tables and rng.random() < 0.6:
        table: Support = choose(rng, layout.tables)
        x, y, lowest = table.x, table.y, max(table.z + rng.uniform(0.6, 0.9), 1.2)
    drop = float(np.clip(height - lowest, tall + 0.08, height - 0.9))
    step = max(float(rng.uniform(0.32, 0.7)), radius * 2.4)
    direction = float(choose(rng, (0.0, 0.0, 0.0, np.pi / 2)))
    places = [(k - (count - 1) / 2) * step for k in range(count)]
    rim = radius + 0.06
    aside, along = np.cos(direction), np.sin(direction)
    reach_x, reach_y = rim + places[-1] * aside, rim + places[-1] * along
    x, y = np.clip(x, reach_x, width - reach_x), np.clip(y, reach_y, length - reach_y)
    positions = tuple((float(x + k * aside), float(y + k * along), height) for k in places)
    surfaces = _shade_surface(rng, layout, opaque), _body_surface(rng, layout)
    glow = _glow(rng, opaque and shade != "globe")
    return Lamp("pendant", positions, shade, radius, tall, drop, glow, "rod", 0.01, 0.0, 0.0, *surfaces)


def _free_floor(layout: Layout, rng: np.random.Generator, radius: float) -> Vector:
    """A free spot on the floor, towards the walls and the back of the room."""
    width, length, _ = layout.size
    spot = (width / 2, length / 2)
    for _ in range(30):
        spot = (
            float(rng.uniform(radius + 0.05, width - radius - 0.05)),
            float(rng.uniform(0.4 * length, length - radius - 0.05)),
        )
        place = Footprint(spot[0] - radius, spot[1] - radius, spot[0] + radius, spot[1] + radius, 0.0, 1.7)
        if layout.is_free(place) and layout.is_level(place):
            break
    return (*spot, layout.ground(spot[1]))
