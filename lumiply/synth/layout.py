"""A room being furnished: what stands where, what is still free, and where a lamp could stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumiply.synth import palette
from lumiply.synth.palette import Scheme, new_seed, plain
from lumiply.synth.shapes import Floats
from lumiply.synth.spec import Item, Surface, Vector, Window

WALL_YAW = {"back": 0.0, "left": np.pi / 2, "right": -np.pi / 2, "front": np.pi}
"""Rotation of an item whose back is to a wall."""
FLAT_KINDS = ("rug", "picture", "curtains", "small_books", "vase", "door")
"""What takes no room on the floor."""


def directions(yaw: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors (x, y) across an item, to its right, and inward, from its back to its front."""
    return np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])


class Footprint(NamedTuple):
    """A rectangle on the floor and the height of what stands on it."""

    left: float
    front: float
    right: float
    back: float
    bottom: float
    top: float


class Support(NamedTuple):
    """A flat place for a table lamp: middle, room round it, height."""

    x: float
    y: float
    z: float
    radius: float


@dataclass
class Layout:
    """A room being furnished: what stands where so far, and where lamps could go."""

    rng: np.random.Generator
    scheme: Scheme
    size: Vector
    windows: tuple[Window, ...]
    items: list[Item] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)
    tables: list[Support] = field(default_factory=list)
    step: tuple[float, float] | None = None

    def wall_length(self, wall: str) -> float:
        return self.size[0] if wall in ("back", "front") else self.size[1]

    def spot(self, wall: str, along: float, depth: float, gap: float = 0.02) -> tuple[float, float]:
        """x, y of something `depth` deep whose back is `gap` away from a wall."""
        width, length, _ = self.size
        inset = depth / 2 + gap
        places = {
            "back": (along, length - inset),
            "front": (along, inset),
            "left": (inset, along),
            "right": (width - inset, along),
        }
        return places[wall]

    def footprint(self, x: float, y: float, yaw: float, size: Vector, bottom: float = 0.0) -> Footprint:
        cos, sin = abs(np.cos(yaw)), abs(np.sin(yaw))
        half_x, half_y = (size[0] * cos + size[1] * sin) / 2, (size[0] * sin + size[1] * cos) / 2
        return Footprint(x - half_x, y - half_y, x + half_x, y + half_y, bottom, bottom + size[2])

    def is_free(self, place: Footprint, margin: float = 0.03) -> bool:
        """Whether a footprint lies inside the room and clear of what stands there."""
        width, length, _ = self.size
        inside = (
            place.left > -0.02
            and place.front > -0.02
            and place.right < width + 0.02
            and place.back < length + 0.02
        )
        return inside and not any(
            place.left < other.right + margin
            and place.right > other.left - margin
            and place.front < other.back + margin
            and place.back > other.front - margin
            and place.bottom < other.top
            and place.top > other.bottom
            for other in self.footprints
        )

    def ground(self, y: float) -> float:
        """Height of the floor at a depth of the room: more than 0 on a step."""
        return self.step[1] if self.step and y > self.step[0] else 0.0

    def add_step(self, surface: Surface) -> None:
        """Raise the floor behind `step`."""
        assert self.step is not None
        start, height = self.step
        depth = self.size[1] - start
        place = (self.size[0] / 2, start + depth / 2, 0.0)
        self.items.append(Item("column", place, 0.0, (self.size[0], depth, height), (surface,), 0))

    def add(
        self,
        kind: str,
        spot: Sequence[float] | Floats,
        yaw: float,
        size: Vector,
        surfaces: tuple[Surface, ...],
        z: float | None = None,
        force: bool = False,
    ) -> bool:
        """Put an item down at `spot` (x, y) if its place is free, or anyway with `force`; answers whether it was.

        It stands on the floor unless `z` says otherwise.
        """
        x, y = float(spot[0]), float(spot[1])
        level = self.ground(y) if z is None else z
        place = self.footprint(x, y, yaw, size, level)
        if not force and not (self.is_free(place) and self.is_level(place)):
            return False
        self.items.append(Item(kind, (x, y, float(level)), float(yaw), size, surfaces, new_seed(self.rng)))
        if kind not in FLAT_KINDS:
            self.footprints.append(place)
        return True

    def is_level(self, place: Footprint) -> bool:
        """Whether what would stand here does not straddle the edge of the step."""
        return self.step is None or not place.front < self.step[0] < place.back

    def against(
        self,
        wall: str,
        along: float,
        kind: str,
        size: Vector,
        surfaces: tuple[Surface, ...],
        gap: float = 0.02,
    ) -> bool:
        """Put an item with its back to a wall."""
        x, y = self.spot(wall, along, size[1], gap)
        if size[2] > 0.9 and self.covers_window(wall, along - size[0] / 2, along + size[0] / 2, size[2]):
            return False
        return self.add(kind, (x, y), WALL_YAW[wall], size, surfaces)

    def covers_window(self, wall: str, start: float, end: float, height: float) -> bool:
        return any(
            window.wall == wall
            and start < window.center[0] + window.size[0] / 2
            and end > window.center[0] - window.size[0] / 2
            and height > window.center[1] - window.size[1] / 2
            for window in self.windows
        )

    def support(self, x: float, y: float, z: float, radius: float) -> None:
        """Remember a flat place `z` above the floor."""
        self.supports.append(Support(x, y, z + self.ground(y), radius))

    def wood(self) -> Surface:
        return palette.timber(self.rng, self.scheme.wood)

    def cloth(self, patterned: bool = True) -> Surface:
        return palette.cloth(self.rng, self.scheme, patterned)

    def things(self, count: int) -> tuple[Surface, ...]:
        """Materials of small things: books, vases, boxes."""
        colors = [
            palette.hsv(self.rng.random(), self.rng.uniform(0, 0.85), self.rng.uniform(0.1, 0.95))
            for _ in range(count)
        ]
        return tuple(plain(color, self.rng.uniform(0.3, 0.8)) for color in colors)
