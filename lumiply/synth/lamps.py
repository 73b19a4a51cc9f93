"""Lamps as meshes: body, shade and bulbs.

The shade's texture coordinates run over its profile, the outside in v 0..0.5 and the inside in v 0.5..1, so that
one small radiance picture (`shade_radiance`) makes its outside glow less than its inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lumiply.synth.shapes import Floats, Mesh, box, cylinder, merge, revolve, rod
from lumiply.synth.spec import Lamp

SHADES = ("cone", "drum", "cylinder", "dome", "bell", "globe")
STEMS = ("rod", "vase", "ball", "block", "cone", "tripod")
RADIANCE_ROWS = 32
"""Texels along the shade's profile, outside and inside together."""
BULB_RADIANCE = 3.0
"""Radiance of the bulb; the inside of a shade has about 1."""
DISC = 0.62
"""Radius of the disc that a rod stands on, as a share of the shade's."""
BLOCK = 1.7
"""Side of a block, as a multiple of the stem's radius."""
TRIPOD_SPREAD = {"table": 0.4, "floor": 0.28}
"""How far a tripod's feet stand from its middle, as a share of the stem's height."""
WALL = 0.004
"""Thickness of a shade, metres."""


@dataclass(frozen=True, eq=False)
class LampMeshes:
    """The parts of one lamp (or of all pendants of a group) in room coordinates."""

    body: Mesh
    shade: Mesh
    bulb: Mesh


def shade_profile(kind: str, radius: float, height: float) -> Floats:
    """(K, 2) radius and height of a shade's outside, from its lower rim (height 0) upwards."""
    t = np.linspace(0, 1, 15)
    widths = {
        "cone": 1 - 0.58 * t,
        "drum": 1 - 0.12 * t,
        "cylinder": np.ones_like(t),
        "dome": np.sqrt(np.clip(1 - (0.985 * t) ** 2.6, 0, 1)),
        "bell": 0.28 + 0.72 * (1 - t) ** 2.2,
        "globe": np.sin(np.pi * (0.06 + 0.88 * t)),
    }
    if kind not in widths:
        raise ValueError(f"unknown shade {kind!r}; known: {', '.join(SHADES)}")
    if kind == "globe":
        return np.stack([radius * widths[kind], height * 0.5 * (1 - np.cos(np.pi * (0.06 + 0.88 * t)))], -1)
    return np.stack([radius * np.maximum(widths[kind], 0.03), height * t], -1)


def _shade(lamp: Lamp) -> Mesh:
    """Outside and inside of a shade, its lower rim at z = 0."""
    profile = shade_profile(lamp.shade, lamp.shade_radius, lamp.shade_height)
    outside = revolve(profile, 36, unit_uv=True, crease=1.2)
    if lamp.shade == "globe":
        low, high = profile[0], profile[-1]
        closed = np.concatenate([[[0, low[1]]], profile, [[0, high[1]]]])
        outside = revolve(closed, 36, unit_uv=True, crease=1.2)
        return _with_rows(outside, 0.02, 0.46)
    if lamp.shade in ("dome", "bell"):
        profile = np.concatenate([profile, [[0, lamp.shade_height]]])
        outside = revolve(profile, 36, unit_uv=True, crease=1.2)
    inner = profile.copy()
    inner[:, 0] = np.maximum(inner[:, 0] - WALL, 0)
    if lamp.shade in ("dome", "bell"):
        inner[-1, 1] -= WALL
        inner[:-1, 1] = np.minimum(inner[:-1, 1], lamp.shade_height - WALL)
    inside = revolve(inner[::-1], 36, unit_uv=True, crease=1.2)
    rim = revolve([[profile[0, 0] - WALL, 0], [profile[0, 0], 0]], 36, unit_uv=True)
    flipped = Mesh(
        inside.positions,
        inside.normals,
        inside.texcoords * np.array([1, -1], np.float32) + np.array([0, 1], np.float32),
        inside.faces,
    )
    return merge(
        [_with_rows(outside, 0.03, 0.45), _with_rows(flipped, 0.55, 0.97), _with_rows(rim, 0.03, 0.04)]
    )


def _with_rows(mesh: Mesh, low: float, high: float) -> Mesh:
    """The mesh with v squeezed from 0..1 to low..high."""
    texcoords = mesh.texcoords * np.array([1, high - low], np.float32) + np.array([0, low], np.float32)
    return Mesh(mesh.positions, mesh.normals, texcoords.astype(np.float32), mesh.faces)


def shade_radiance(lamp: Lamp) -> Floats:
    """(RADIANCE_ROWS, 2, 3) white radiance over v: the outside's glow with a hot spot, then the inside."""
    half = RADIANCE_ROWS // 2
    t = (np.arange(half) + 0.5) / half
    hot = {"globe": 0.5, "dome": 0.35, "bell": 0.25}.get(lamp.shade, 0.45)
    outside = lamp.glow * (0.55 + 0.45 * np.exp(-(((t - hot) / 0.33) ** 2)))
    inside = 0.6 + 0.7 * np.exp(-(((t - hot) / 0.35) ** 2))
    rows = np.concatenate([outside, inside * (1.0 if lamp.glow > 0.05 else 0.8)])
    return np.broadcast_to(rows[:, None, None], (RADIANCE_ROWS, 2, 3)).astype(np.float32)


def _ball(radius: float) -> Mesh:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 9)
    return revolve(np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1), 16, unit_uv=True)


def foot_radius(lamp: Lamp) -> float:
    """How far a standing lamp's foot reaches from its middle."""
    if lamp.stem == "tripod":
        return TRIPOD_SPREAD[lamp.kind] * _stem_height(lamp) + 0.015
    if lamp.stem == "rod":
        return DISC * lamp.shade_radius
    return lamp.stem_radius * {"block": BLOCK * np.sqrt(0.5), "vase": 0.5, "ball": 0.25}.get(lamp.stem, 1.0)


def _stem_height(lamp: Lamp) -> float:
    """From the foot to where the stem ends: inside the shade, or at the arm that carries it."""
    return lamp.height if lamp.offset > 0 else lamp.height - lamp.shade_height * 0.55


def _stem(lamp: Lamp, height: float) -> list[Mesh]:
    """The body of a standing lamp from the foot up to `height`."""
    radius = lamp.stem_radius
    thin = 0.008 if lamp.kind == "table" else 0.012
    neck = rod((0, 0, 0), (0, 0, height), thin)
    if lamp.stem == "tripod":
        reach = height * TRIPOD_SPREAD[lamp.kind]
        angles = np.arange(3) * 2 * np.pi / 3 + lamp.yaw
        feet = [(reach * np.cos(a), reach * np.sin(a), 0.0) for a in angles]
        return [rod(foot, (0, 0, height * 0.92), thin * 1.2) for foot in feet] + [
            rod((0, 0, height * 0.85), (0, 0, height), thin)
        ]
    if lamp.stem == "rod":
        foot = lamp.shade_radius * DISC
        disc: list[list[float]] = [[0, 0], [foot, 0], [foot, 0.012], [foot * 0.95, 0.018], [thin, 0.022]]
        return [revolve(disc, 28), rod((0, 0, 0), (0, 0, height), radius if lamp.kind == "floor" else thin)]
    body = height * 0.86
    if lamp.stem == "block":
        return [box((radius * BLOCK, radius * BLOCK, body), (0, 0, body / 2), 0.01), neck]
    t = np.linspace(0, 1, 20)
    widths = {
        "vase": 0.45 + 0.55 * np.sin(np.pi * np.clip(t, 0, 1) ** 0.8) ** 1.3,
        "ball": np.maximum(np.sqrt(np.clip(1 - (2.1 * (t - 0.5)) ** 2, 0, 1)), 0.2),
        "cone": 1 - 0.75 * t,
    }
    profile = np.stack([radius * widths[lamp.stem], body * t], -1)
    return [revolve(np.concatenate([[[0, 0]], profile, [[0, body]]]), 28), neck]


def _standing(lamp: Lamp) -> LampMeshes:
    """A table or floor lamp standing at the origin."""
    out = np.array([lamp.offset * np.cos(lamp.yaw), lamp.offset * np.sin(lamp.yaw), 0.0])
    rim = lamp.height - lamp.shade_height
    top_of_stem = _stem_height(lamp)
    if lamp.offset > 0:
        mast = _stem(lamp, top_of_stem)
        arm = [
            rod((0, 0, top_of_stem), out + (0, 0, top_of_stem), 0.012),
            rod(out + (0, 0, top_of_stem), out + (0, 0, rim + lamp.shade_height * 0.6), 0.008),
        ]
        body = merge(mast + arm)
    else:
        body = merge(_stem(lamp, top_of_stem))
    bulb = _ball(min(0.035, lamp.shade_radius * 0.3)).moved(out + (0, 0, rim + lamp.shade_height * 0.5))
    return LampMeshes(body, _shade(lamp).moved(out + (0, 0, rim)), bulb)


def _hanging(lamp: Lamp) -> LampMeshes:
    """One pendant below the origin, which is the point on the ceiling."""
    top = -lamp.height + lamp.shade_height
    rose = cylinder(0.05, 0.025, (0, 0, -0.025))
    cord = rod((0, 0, -0.02), (0, 0, top), 0.005)
    socket = cylinder(0.022, 0.07, (0, 0, top - 0.02))
    bulb_height = top - lamp.shade_height * 0.6
    return LampMeshes(
        merge([rose, cord, socket]),
        _shade(lamp).moved((0, 0, top - lamp.shade_height)),
        _ball(min(0.04, lamp.shade_radius * 0.35)).moved((0, 0, bulb_height)),
    )


def build_lamp(lamp: Lamp) -> LampMeshes:
    """All meshes of a lamp in room coordinates."""
    if lamp.stem not in STEMS:
        raise ValueError(f"unknown lamp body {lamp.stem!r}; known: {', '.join(STEMS)}")
    one = _hanging(lamp) if lamp.kind == "pendant" else _standing(lamp)
    copies = [LampMeshes(one.body.moved(p), one.shade.moved(p), one.bulb.moved(p)) for p in lamp.positions]
    return LampMeshes(
        merge([copy.body for copy in copies]),
        merge([copy.shade for copy in copies]),
        merge([copy.bulb for copy in copies]),
    )


def silhouette(lamp: Lamp) -> Floats:
    """(K, 3) points that outline the lamp, for placing it in view; rough and fast."""
    single = replace(lamp, positions=((0.0, 0.0, 0.0),))
    out = np.array([single.offset * np.cos(single.yaw), single.offset * np.sin(single.yaw), 0.0])
    top = single.height if single.kind != "pendant" else -single.height + single.shade_height
    angles = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(8)], -1) * single.shade_radius
    shade = np.concatenate([ring + (0, 0, top), ring + (0, 0, top - single.shade_height)]) + out
    return np.concatenate([shade + np.asarray(p) for p in lamp.positions]).astype(np.float32)
