"""Meshes as numpy arrays: boxes, rounded boxes, surfaces of revolution, cushions, cloth.

Notation: N vertices, F triangles. Lengths are metres, z points up. Texture coordinates are metres too, so that a
material keeps its scale on every shape; `revolve(..., unit_uv=True)` is the exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Indices = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh: positions (N, 3), unit normals (N, 3), texcoords (N, 2), faces (F, 3)."""

    positions: Floats
    normals: Floats
    texcoords: Floats
    faces: Indices

    def moved(self, offset: ArrayLike) -> Mesh:
        """The mesh shifted by `offset` (3,)."""
        return Mesh(self.positions + np.asarray(offset, np.float32), self.normals, self.texcoords, self.faces)

    def turned(self, yaw: float) -> Mesh:
        """The mesh rotated by `yaw` radians about the z axis."""
        return self._rotated(_rotation(yaw, 0, 1))

    def tilted(self, angle: float) -> Mesh:
        """The mesh rotated by `angle` radians about the x axis (y towards z)."""
        return self._rotated(_rotation(angle, 1, 2))

    def _rotated(self, matrix: Floats) -> Mesh:
        return Mesh(self.positions @ matrix.T, self.normals @ matrix.T, self.texcoords, self.faces)


def _rotation(angle: float, source: int, target: int) -> Floats:
    matrix = np.eye(3, dtype=np.float32)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix[source, source] = matrix[target, target] = cos
    matrix[target, source], matrix[source, target] = sin, -sin
    return matrix


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several."""
    if len(meshes) == 1:
        return meshes[0]
    starts = np.cumsum([0] + [len(mesh.positions) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.positions for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.texcoords for mesh in meshes]),
        np.concatenate([mesh.faces + np.uint32(start) for mesh, start in zip(meshes, starts, strict=True)]),
    )


@lru_cache(maxsize=4)
def _cube(steps: int) -> tuple[Floats, Floats, Indices, Indices]:
    """Corner signs (N, 3), unit normals (N, 3), the face axis of every vertex (N,), faces (F, 3).

    `steps` segments round each edge; 0 gives a sharp cube of 24 vertices.
    """
    angles = np.linspace(-np.pi / 4, 0, steps + 1) if steps else np.zeros(1)
    slope = np.tan(np.concatenate([angles, -angles[::-1]]))
    sign = np.concatenate([-np.ones(len(angles)), np.ones(len(angles))])
    side = len(slope)
    grid = np.arange(side * side).reshape(side, side)
    quads = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    corners: list[Floats] = []
    normals: list[Floats] = []
    axes: list[NDArray[np.integer]] = []
    faces: list[NDArray[np.integer]] = []
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        for direction in (-1.0, 1.0):
            corner, normal = np.empty((side, side, 3)), np.empty((side, side, 3))
            corner[..., axis] = normal[..., axis] = direction
            corner[..., first], normal[..., first] = sign[:, None], slope[:, None]
            corner[..., second], normal[..., second] = sign[None], slope[None]
            start = len(corners) * side * side
            corners.append(corner.reshape(-1, 3))
            normals.append((normal / np.linalg.norm(normal, axis=-1, keepdims=True)).reshape(-1, 3))
            axes.append(np.full(side * side, axis))
            faces.append((triangles if direction > 0 else triangles[:, ::-1]) + start)
    return (
        np.concatenate(corners).astype(np.float32),
        np.concatenate(normals).astype(np.float32),
        np.concatenate(axes).astype(np.uint32),
        np.concatenate(faces).astype(np.uint32),
    )


def boxes(centers: ArrayLike, sizes: ArrayLike, radius: float = 0.0, yaw: ArrayLike | None = None) -> Mesh:
    """K boxes at once: centers (K, 3), sizes (K, 3), edges rounded by `radius`, turned by `yaw` (K,) radians."""
    centers, sizes = (
        np.atleast_2d(np.asarray(centers, np.float32)),
        np.atleast_2d(np.asarray(sizes, np.float32)),
    )
    corners, normals, axes, faces = _cube(2 if radius > 0 else 0)
    half = sizes[:, None] / 2  # k 1 3
    rounding = np.minimum(radius, half.min(axis=-1, keepdims=True) * 0.98)
    local = corners * (half - rounding) + rounding * normals  # k n 3
    columns = np.array([[1, 2], [0, 2], [0, 1]])[axes]  # the two texture axes of every vertex
    texcoords = np.take_along_axis(
        local + centers[:, None] * 0.37, columns[None].repeat(len(sizes), 0), axis=2
    )
    turned = np.broadcast_to(normals, local.shape)
    if yaw is not None:
        cos, sin = np.cos(np.asarray(yaw, np.float32))[:, None], np.sin(np.asarray(yaw, np.float32))[:, None]
        local = _spin(local, cos, sin)
        turned = _spin(turned, cos, sin)
    offsets = (np.arange(len(sizes), dtype=np.uint32) * np.uint32(len(corners)))[:, None, None]
    return Mesh(
        (local + centers[:, None]).reshape(-1, 3),
        turned.reshape(-1, 3),
        texcoords.reshape(-1, 2).astype(np.float32),
        (faces[None] + offsets).reshape(-1, 3),
    )


def _spin(points: Floats, cos: Floats, sin: Floats) -> Floats:
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def box(size: Sequence[float], center: Sequence[float] = (0, 0, 0), radius: float = 0.0) -> Mesh:
    """One box of `size` about `center`."""
    return boxes([center], [size], radius)


def quad(corner: ArrayLike, first: ArrayLike, second: ArrayLike, unit_uv: bool = False) -> Mesh:
    """A parallelogram from `corner` along two edges; it faces first x second."""
    corner, first, second = (np.asarray(value, np.float32) for value in (corner, first, second))
    positions = np.stack([corner, corner + first, corner + first + second, corner + second])
    normal = np.cross(first, second)
    normal = normal / np.linalg.norm(normal)
    lengths = (1.0, 1.0) if unit_uv else (np.linalg.norm(first), np.linalg.norm(second))
    texcoords = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32) * np.array(lengths, np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
    return Mesh(positions, np.tile(normal, (4, 1)).astype(np.float32), texcoords, faces)


def sheet(points: Floats, texcoords: Floats | None = None) -> Mesh:
    """A smooth surface through a grid of points (R, C, 3); it faces d/drow x d/dcolumn."""
    points = np.asarray(points, np.float32)
    by_row, by_column = np.gradient(points, axis=0), np.gradient(points, axis=1)
    normals = np.cross(by_row, by_column)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    rows, columns = points.shape[:2]
    if texcoords is None:
        lengths = np.linalg.norm(by_row, axis=-1), np.linalg.norm(by_column, axis=-1)
        texcoords = np.stack([np.cumsum(lengths[0], axis=0), np.cumsum(lengths[1], axis=1)], -1)
    return Mesh(
        points.reshape(-1, 3),
        normals.reshape(-1, 3).astype(np.float32),
        texcoords.reshape(-1, 2).astype(np.float32),
        _grid_faces(rows, columns),
    )


@lru_cache(maxsize=64)
def _grid_faces(rows: int, columns: int) -> Indices:
    grid = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
    both = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    return both.reshape(-1, 3).astype(np.uint32)


def revolve(
    profile: Floats | Sequence[Sequence[float]],
    segments: int = 32,
    unit_uv: bool = False,
    crease: float = 0.6,
) -> Mesh:
    """Turn a profile (K, 2) of (radius, height) about the z axis; walking upwards, the outside is on the right.

    Corners sharper than `crease` radians stay sharp. `unit_uv` runs u and v from 0 to 1 over the whole surface.
    """
    profile = np.asarray(profile, np.float32)
    steps = np.diff(profile, axis=0)
    lengths = np.linalg.norm(steps, axis=1) + 1e-9
    flat = np.stack([steps[:, 1], -steps[:, 0]], -1) / lengths[:, None]  # k-1 2: outward normal of a segment
    start, end = flat.copy(), flat.copy()
    smooth = (flat[1:] * flat[:-1]).sum(1) > np.cos(crease)
    mean = flat[1:] + flat[:-1]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True) + 1e-9
    start[1:][smooth], end[:-1][smooth] = mean[smooth], mean[smooth]
    rings = np.stack([profile[:-1], profile[1:]], 1).reshape(-1, 2)  # 2(k-1) 2
    ring_normals = np.stack([start, end], 1).reshape(-1, 2)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    v = np.stack([along[:-1], along[1:]], 1).reshape(-1)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    cos, sin = np.cos(angle)[None], np.sin(angle)[None]

    def spun(values: Floats) -> Floats:
        radial, height = values[:, :1], np.broadcast_to(values[:, 1:], (len(values), segments + 1))
        return np.stack([radial * cos, radial * sin, height], -1).reshape(-1, 3).astype(np.float32)

    u_scale, v_scale = (1 / (2 * np.pi), 1 / along[-1]) if unit_uv else (float(profile[:, 0].max()), 1.0)
    texcoords = np.stack(np.broadcast_arrays(angle[None] * u_scale, v[:, None] * v_scale), -1)
    faces = np.concatenate([_ring_faces(2 * k, segments + 1) for k in range(len(steps))])
    return Mesh(spun(rings), spun(ring_normals), texcoords.reshape(-1, 2).astype(np.float32), faces)


@lru_cache(maxsize=256)
def _ring_faces(ring: int, columns: int) -> Indices:
    return _grid_faces(2, columns)[:, ::-1] + np.uint32(ring * columns)


def cylinder(radius: float, height: float, base: Sequence[float] = (0, 0, 0), segments: int = 20) -> Mesh:
    """A closed cylinder standing on `base`."""
    return revolve([[0, 0], [radius, 0], [radius, height], [0, height]], segments).moved(base)


def rod(start: ArrayLike, end: ArrayLike, radius: float, segments: int = 8) -> Mesh:
    """A thin open tube between two points."""
    start, end = np.asarray(start, np.float32), np.asarray(end, np.float32)
    axis = end - start
    axis = axis / (np.linalg.norm(axis) + 1e-9)
    helper = np.array([1, 0, 0] if abs(axis[0]) < 0.7 else [0, 1, 0], np.float32)
    side = np.cross(axis, helper)
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    angle = np.linspace(0, 2 * np.pi, segments + 1)[:, None]
    ring = radius * (np.cos(angle) * side + np.sin(angle) * other)
    return sheet(np.stack([start + ring, end + ring], axis=1))


def cushion(width: float, depth: float, height: float, steps: int = 14, pinch: float = 0.06) -> Mesh:
    """A pillow lying flat about the origin: thick in the middle, thin at the seam, corners drawn out."""
    t = np.sin(np.linspace(-np.pi / 2, np.pi / 2, steps))
    x, y = np.meshgrid(t, t, indexing="ij")
    swell = np.sqrt(np.clip((1 - np.abs(x) ** 4) * (1 - np.abs(y) ** 4), 0, 1)) * height / 2
    across = x * width / 2 * (1 - pinch * (1 - y**2))
    along = y * depth / 2 * (1 - pinch * (1 - x**2))
    top = np.stack([across, along, swell], -1)
    bottom = np.stack([across, along, -swell], -1)[::-1]
    return merge([sheet(top), sheet(bottom)])


def drape(
    width: float, depth: float, top: float, drop: float, rng: np.random.Generator, steps: int = 36
) -> Mesh:
    """A blanket over a box of `width` x `depth` and height `top`, hanging down by `drop` with folds."""
    u = np.linspace(-width / 2 - drop, width / 2 + drop, steps)[:, None]
    v = np.linspace(-depth / 2 - drop, depth / 2 + drop, steps)[None]
    over_x, over_y = np.abs(u) - width / 2, np.abs(v) - depth / 2
    over_x, over_y = np.maximum(over_x, 0), np.maximum(over_y, 0)
    fall = np.minimum(over_x + over_y, drop)
    phase = rng.uniform(0, 2 * np.pi, 6)
    waves = rng.uniform(5, 11)
    fold = 0.05 * fall / max(drop, 1e-3) * np.sin(waves * (u + v) + phase[0] + np.sin(3 * (u - v) + phase[1]))
    puff = 0.012 * (np.sin(4 * u + phase[2]) * np.sin(5 * v + phase[3]) + np.sin(9 * u + 7 * v + phase[4]))
    swing = 0.02 + 0.08 * fall
    x = np.clip(u, -width / 2, width / 2) + np.sign(u) * np.where(over_x > 0, swing + fold, 0)
    y = np.clip(v, -depth / 2, depth / 2) + np.sign(v) * np.where(over_y > 0, swing + fold, 0)
    z = top - fall + puff + 0.015
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    return sheet(points, np.stack(np.broadcast_arrays(u, v), -1))


def curtain(width: float, height: float, folds: float, depth: float, phase: float) -> Mesh:
    """A hanging curtain in the xz plane about x = 0, from z = 0 up, waved along y; visible from both sides."""
    x = np.linspace(-width / 2, width / 2, 48)[:, None]
    z = np.linspace(0, height, 6)[None]
    gather = 1 - 0.12 * z / height
    wave = depth * np.sin(folds * 2 * np.pi * x / width + phase + 0.5 * np.sin(3 * z + phase)) * gather
    points = np.stack(np.broadcast_arrays(x * gather, wave, z), -1)
    back = points[::-1] + np.array([0, 0.004, 0])
    return merge([sheet(points), sheet(back)])
