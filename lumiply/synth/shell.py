"""The shell of a room: floor, walls, windows, the view outside, the sun."""

from __future__ import annotations

from typing import Any

import numpy as np

from lumiply.synth.objects import Part
from lumiply.synth.palette import plain
from lumiply.synth.shapes import Floats, Mesh, box, boxes, merge, quad, revolve
from lumiply.synth.spec import RoomSpec, Window
from lumiply.synth.textures import SIDE, noise

SUN_DISTANCE, SUN_RADIUS = 12.0, 0.25
"""Where the sun's disc stands outside, and how large it is, metres."""
SKY_SIDE = 32
"""Texels along each side of the view out of a window, and of every light's radiance picture but the shade's."""


def _wall_frame(spec: RoomSpec, wall: str) -> tuple[Floats, Floats, Floats, float]:
    """Lower left corner of a wall seen from inside, the directions along it and out of it, and its length."""
    width, length, _ = spec.size
    frames = {
        "back": ((0, length, 0), (1, 0, 0), (0, -1, 0), width),
        "front": ((width, 0, 0), (-1, 0, 0), (0, 1, 0), width),
        "left": ((0, 0, 0), (0, 1, 0), (1, 0, 0), length),
        "right": ((width, length, 0), (0, -1, 0), (-1, 0, 0), length),
    }
    corner, along, out, span = frames[wall]
    return np.array(corner, np.float32), np.array(along, np.float32), np.array(out, np.float32), float(span)


def shell(spec: RoomSpec) -> list[Part]:
    """Floor, ceiling, four walls and the skirting boards."""
    width, length, height = spec.size
    parts: list[Part] = [
        (quad((0, 0, 0), (width, 0, 0), (0, length, 0)), spec.floor),
        (quad((0, length, height), (width, 0, 0), (0, -length, 0)), spec.ceiling),
    ]
    for wall, surface in zip(("left", "right", "back", "front"), spec.walls, strict=True):
        corner, along, out, span = _wall_frame(spec, wall)
        if wall == "front" and max(spec.light.sun) > 0:
            parts += [(mesh, surface) for mesh in with_opening(spec, 0.0)]
        else:
            parts.append((facing(corner, along * span, (0, 0, height), out), surface))
    boards = [
        (width / 2, length - 0.008, 0.045),
        (0.008, length / 2, 0.045),
        (width - 0.008, length / 2, 0.045),
    ]
    sizes = [(width, 0.016, 0.09), (0.016, length, 0.09), (0.016, length, 0.09)]
    parts.append((boxes(boards, sizes, 0.004), spec.trim))
    return parts


def facing(corner: Floats, first: Any, second: Any, out: Floats) -> Mesh:
    """A parallelogram that faces `out`."""
    mesh = quad(corner, first, second)
    if float(mesh.normals[0] @ out) > 0:
        return mesh
    return Mesh(mesh.positions, -mesh.normals, mesh.texcoords, mesh.faces[:, ::-1].copy())


def with_opening(spec: RoomSpec, inset: float) -> list[Mesh]:
    """The front wall in four pieces round the sun's opening, `inset` metres into the room."""
    width, _, height = spec.size
    x, z, wide, tall = spec.light.sun_opening
    left, right = max(x - wide / 2, 0.05), min(x + wide / 2, width - 0.05)
    low, high = max(z - tall / 2, 0.05), min(z + tall / 2, height - 0.05)
    pieces = [
        (0, left, 0, height),
        (right, width, 0, height),
        (left, right, 0, low),
        (left, right, high, height),
    ]
    out = np.array([0, 1, 0], np.float32)
    return [
        facing(np.array([a, inset, c], np.float32), (b - a, 0, 0), (0, 0, d - c), out)
        for a, b, c, d in pieces
    ]


def window_frame(spec: RoomSpec, window: Window) -> list[Part]:
    """Bars and sill in front of the glass."""
    corner, along, out, span = _wall_frame(spec, window.wall)
    wide, tall = window.size
    start = _along(window, span) - wide / 2
    low = window.center[1] - tall / 2
    columns, rows = window.panes
    bars = [
        (start + wide * k / columns, low + tall / 2, 0.05 if k in (0, columns) else 0.035, tall + 0.05)
        for k in range(columns + 1)
    ]
    bars += [
        (start + wide / 2, low + tall * k / rows, wide, 0.05 if k in (0, rows) else 0.03)
        for k in range(rows + 1)
    ]
    centers = np.array([corner + along * x + out * 0.025 + np.array([0, 0, z]) for x, z, _, _ in bars])
    sizes = np.array([np.abs(along) * w + np.abs(out) * 0.05 + np.array([0, 0, h]) for _, _, w, h in bars])
    sill = corner + along * (start + wide / 2) + out * 0.08 + np.array([0, 0, low - 0.03])
    sill_size = np.abs(along) * (wide + 0.16) + np.abs(out) * 0.16 + np.array([0, 0, 0.03])
    return [(merge([boxes(centers, sizes, 0.004), box(sill_size, sill, 0.004)]), plain(window.frame, 0.45))]


def _along(window: Window, span: float) -> float:
    """Where the middle of a window lies along its wall's own direction."""
    return span - window.center[0] if window.wall in ("front", "right") else window.center[0]


def pane(spec: RoomSpec, window: Window) -> Mesh:
    corner, along, out, span = _wall_frame(spec, window.wall)
    wide, tall = window.size
    start = corner + along * (_along(window, span) - wide / 2) + out * 0.012
    start = start + np.array([0, 0, window.center[1] - tall / 2], np.float32)
    mesh = facing(start, along * wide, (0, 0, tall), out)
    return Mesh(
        mesh.positions, mesh.normals, np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32), mesh.faces
    )


def sky(window: Window, seed: int) -> Floats:
    """(SKY_SIDE, SKY_SIDE, 3) blurred view out of a window: sky, clouds, land."""
    rng = np.random.default_rng([seed, 77])
    step = SIDE // SKY_SIDE
    v = ((np.arange(SKY_SIDE) + 0.5) / SKY_SIDE)[:, None]
    clouds = noise(rng, 1.8)[::step, ::step]
    skyline = rng.uniform(0.2, 0.5) + 0.08 * noise(rng, 1.5)[0][None, ::step]
    land = 1 / (1 + np.exp((v - skyline) * 60))
    sky = np.asarray(window.sky) * (0.75 + 0.4 * v + 0.1 * clouds)[..., None]
    ground = (
        np.asarray(window.ground) * np.clip(0.8 + 0.3 * noise(rng, 1.2)[::step, ::step], 0.2, 2)[..., None]
    )
    return np.clip(sky * (1 - land[..., None]) + ground * land[..., None], 0, None).astype(np.float32)


def sun_disc(spec: RoomSpec) -> Mesh:
    """A disc outside that faces the opening."""
    direction = np.asarray(spec.light.sun_direction, np.float32)
    x, z, _, _ = spec.light.sun_opening
    disc = revolve([[SUN_RADIUS, 0], [0, 0]], 12, unit_uv=True).tilted(-np.pi / 2)  # faces +z, then +y
    if float(disc.normals[0, 1]) < 0:
        disc = disc.tilted(np.pi)
    elevation = float(np.arcsin(np.clip(direction[2], -1, 1)))
    turned = disc.tilted(elevation).turned(float(np.arctan2(-direction[0], direction[1])))
    return turned.moved(np.array([x, 0, z], np.float32) - direction * SUN_DISTANCE)
