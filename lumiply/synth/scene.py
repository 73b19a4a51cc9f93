"""From a room's specification to a Mitsuba scene.

Every scene has the same slots: so many meshes, each with one `principled` material over one bitmap, the same six
area lights, one sensor. Empty slots hold a speck far outside the room. Compiled kernels depend on that list alone,
so all rooms share them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from lumiply.synth.backend import SENSOR
from lumiply.synth.furniture import build
from lumiply.synth.lamps import BULB_RADIANCE, build_lamp, shade_radiance
from lumiply.synth.objects import Part
from lumiply.synth.placing import camera_axes
from lumiply.synth.shapes import Floats, Mesh, merge, quad
from lumiply.synth.shell import (
    SKY_SIDE,
    SUN_DISTANCE,
    facing,
    pane,
    shell,
    sky,
    sun_disc,
    window_frame,
    with_opening,
)
from lumiply.synth.spec import Camera, RoomSpec, Surface
from lumiply.synth.textures import ALBEDO_RANGE, paint

TEXTURED_SLOTS = 16
"""Meshes with a texture of their own; what goes beyond is drawn in its mean colour."""
FINISHES = ((0.9, 0.0), (0.5, 0.0), (0.25, 0.0), (0.38, 1.0), (0.22, 1.0))
"""Roughness and metallic of the slots which plain surfaces share."""
SWATCHES = 16
"""A shared slot's texture holds SWATCHES x SWATCHES plain colours."""
AMBIENT_LIGHTS = ("window", "ceiling", "fill", "sun")
LAMP_LIGHTS = ("shade", "bulb")
LAMP_MESHES = ("lamp_body", "shade", "bulb")
SAMPLING_FLOOR = 0.05
"""Smallest sampling weight of a light that shines; beyond it, weights are the roots of the lights' powers."""
SUN_RADIANCE = 6000.0
"""Radiance of the sun's disc for a sun of 1."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One mesh of the scene: its material, and its radiance (rows, columns, 3) if it is a light."""

    name: str
    mesh: Mesh
    albedo: Floats
    roughness: float
    metallic: float
    radiance: Floats | None = None


@lru_cache(maxsize=1)
def speck() -> Mesh:
    """The content of an empty slot: a triangle of a millimetre far below the room."""
    return quad((0, 0, -500), (0.001, 0, 0), (0, 0.001, 0))


def assemble(spec: RoomSpec) -> list[Slot]:
    """All slots of a room, in fixed order and number."""
    parts = shell(spec)
    for window in spec.windows:
        parts += window_frame(spec, window)
    for item in spec.items:
        parts += build(item)
    return _surface_slots(parts) + _ambient_slots(spec) + _lamp_slots(spec)


def _surface_slots(parts: Iterable[Part]) -> list[Slot]:
    """Meshes by material: one slot for each textured surface, shared slots for the plain ones."""
    grouped: dict[Surface, list[Mesh]] = {}
    for mesh, surface in parts:
        grouped.setdefault(surface, []).append(mesh)
    textured = [surface for surface in grouped if surface.pattern != "plain"]
    own, flattened = textured[:TEXTURED_SLOTS], textured[TEXTURED_SLOTS:]
    slots = []
    for index in range(TEXTURED_SLOTS):
        name = f"surface_{index:02d}"
        if index < len(own):
            surface = own[index]
            mesh = merge(grouped[surface])
            scaled = Mesh(mesh.positions, mesh.normals, mesh.texcoords / np.float32(surface.tile), mesh.faces)
            slots.append(Slot(name, scaled, paint(surface), surface.roughness, surface.metallic))
        else:
            slots.append(Slot(name, speck(), np.full((1, 1, 3), 0.5, np.float32), 0.9, 0.0))
    shared: list[list[tuple[Mesh, Surface]]] = [[] for _ in FINISHES]
    for surface, meshes in grouped.items():
        if surface.pattern == "plain" or surface in flattened:
            shared[_finish(surface)].append((merge(meshes), surface))
    return slots + [_swatch_slot(index, group) for index, group in enumerate(shared)]


def _finish(surface: Surface) -> int:
    """The shared slot whose gloss comes closest."""
    metallic = [
        abs(metal - surface.metallic) * 10 + abs(roughness - surface.roughness)
        for roughness, metal in FINISHES
    ]
    return int(np.argmin(metallic))


def _swatch_slot(index: int, group: list[tuple[Mesh, Surface]]) -> Slot:
    """One mesh of many plain colours: each takes one texel of the shared texture."""
    roughness, metallic = FINISHES[index]
    swatches = np.full((SWATCHES * SWATCHES, 3), 0.5, np.float32)
    meshes = []
    for k, (mesh, surface) in enumerate(group[: len(swatches)]):
        swatches[k] = np.clip(surface.colors[0], *ALBEDO_RANGE)
        place = np.array([(k % SWATCHES + 0.5) / SWATCHES, (k // SWATCHES + 0.5) / SWATCHES], np.float32)
        meshes.append(
            Mesh(mesh.positions, mesh.normals, np.tile(place, (len(mesh.positions), 1)), mesh.faces)
        )
    merged = merge(meshes) if meshes else speck()
    return Slot(f"plain_{index}", merged, swatches.reshape(SWATCHES, SWATCHES, 3), roughness, metallic)


def _ambient_slots(spec: RoomSpec) -> list[Slot]:
    """Window glass, ceiling light, the rest of the flat behind the camera, and the sun."""
    width, length, height = spec.size
    light = spec.light
    panes = [pane(spec, window) for window in spec.windows]
    view = sky(spec.windows[0], spec.seed) if panes else None
    lit = max(light.ceiling) > 0
    wide, deep = light.ceiling_size
    panel = quad(
        (light.ceiling_place[0] - wide / 2, light.ceiling_place[1] + deep / 2, height - 0.02),
        (wide, 0, 0),
        (0, -deep, 0),
    )
    sunny = max(light.sun) > 0
    out = np.array([0, 1, 0], np.float32)
    fill = (
        with_opening(spec, 0.01)
        if sunny
        else [facing(np.array([0, 0.01, 0], np.float32), (width, 0, 0), (0, 0, height), out)]
    )
    return [
        _light("window", merge(panes) if panes else None, view, 0.05),
        _light("ceiling", panel if lit else None, light.ceiling if lit else None, 0.8),
        _light("fill", merge(fill), light.fill, 0.4),
        _light(
            "sun",
            sun_disc(spec) if sunny else None,
            tuple(SUN_RADIANCE * c for c in light.sun) if sunny else None,
            0.1,
        ),
    ]


def _light(name: str, mesh: Mesh | None, radiance: Any, albedo: float) -> Slot:
    """A light's slot; without a mesh it is dark."""
    picture = np.zeros((SKY_SIDE, SKY_SIDE, 3), np.float32)
    if mesh is not None and radiance is not None:
        picture = picture + np.asarray(radiance, np.float32)
    return Slot(name, mesh or speck(), np.full((1, 1, 3), albedo, np.float32), 0.5, 0.0, picture)


def _lamp_slots(spec: RoomSpec) -> list[Slot]:
    lamp = spec.lamp
    meshes = build_lamp(lamp)
    body = Mesh(
        meshes.body.positions,
        meshes.body.normals,
        meshes.body.texcoords / np.float32(lamp.body_surface.tile),
        meshes.body.faces,
    )
    closed = lamp.shade == "globe"
    bulb = np.full((SKY_SIDE, SKY_SIDE, 3), 0.0 if closed else BULB_RADIANCE, np.float32)
    shade, base = lamp.shade_surface, lamp.body_surface
    return [
        Slot("lamp_body", body, paint(base), base.roughness, base.metallic),
        Slot("shade", meshes.shade, paint(shade), shade.roughness, shade.metallic, shade_radiance(lamp)),
        Slot("bulb", meshes.bulb, np.full((1, 1, 3), 0.85, np.float32), 0.3, 0.0, bulb),
    ]


def sampling_weight(slot: Slot) -> float:
    """How often a light is sampled: the root of its power, since small strong lights need more; 0 for a dark one."""
    if slot.radiance is None or float(slot.radiance.max()) <= 0:
        return 0.0
    edges = slot.mesh.positions[slot.mesh.faces]  # f 3 3
    area = 0.5 * np.linalg.norm(np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0]), axis=1).sum()
    if slot.name == "sun":
        area /= 2 * np.pi * SUN_DISTANCE**2  # all of its light goes one way, little of it into the room
    return SAMPLING_FLOOR + float(area * slot.radiance.mean()) ** 0.5


def to_mitsuba(
    mi: ModuleType, slots: list[Slot], camera: Camera, size: int, samples: int, max_depth: int
) -> Any:
    """Build the Mitsuba scene of a room in memory."""
    scene: dict[str, Any] = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": max_depth},
        "sensor": _sensor(mi, camera, size, samples),
    }
    for slot in slots:
        scene[slot.name] = _mesh(mi, slot)
    return mi.load_dict(scene)


def _sensor(mi: Any, camera: Camera, size: int, samples: int) -> dict[str, Any]:
    right, up, forward = camera_axes(camera)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = -right, up, forward, camera.position
    half = float(np.tan(camera.horizontal_fov / 2))
    film = {
        "type": "hdrfilm",
        "width": size,
        "height": size,
        "pixel_format": "rgb",
        "component_format": "float32",
    }
    return {
        "type": SENSOR,
        "to_world": mi.ScalarTransform4f(matrix.tolist()),
        "half_width": half,
        "half_height": half / camera.aspect,
        "film": {**film, "rfilter": {"type": "box"}},
        "sampler": {"type": "multijitter", "sample_count": samples},
    }


def _mesh(mi: Any, slot: Slot) -> Any:
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(
        {
            "type": "principled",
            "base_color": {
                "type": "bitmap", "data": mi.TensorXf(slot.albedo), "raw": True,
                "filter_type": "nearest" if slot.name.startswith("plain") else "bilinear",
            },
            "roughness": float(slot.roughness),
            "metallic": float(slot.metallic),
            "specular": 0.5,
        }
    )  # fmt: skip
    if slot.radiance is not None:
        properties["emitter"] = mi.load_dict(
            {
                "type": "area",
                "radiance": {"type": "bitmap", "data": mi.TensorXf(slot.radiance), "raw": True},
                "sampling_weight": sampling_weight(slot),
            }
        )
    source = slot.mesh
    mesh = mi.Mesh(slot.name, len(source.positions), len(source.faces), properties, True, True)
    buffers = mi.traverse(mesh)
    buffers["vertex_positions"] = source.positions.ravel()
    buffers["vertex_normals"] = source.normals.ravel()
    buffers["vertex_texcoords"] = source.texcoords.ravel()
    buffers["faces"] = source.faces.ravel()
    buffers.update()
    return mesh
