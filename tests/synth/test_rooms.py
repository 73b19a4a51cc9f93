"""Sampling rooms: deterministic, apart between splits, varied, the lamp in view."""

from collections import Counter

import numpy as np
import pytest

from lumiply.synth.furniture import FURNITURE, build
from lumiply.synth.lamps import SHADES, STEMS, build_lamp
from lumiply.synth.placing import look
from lumiply.synth.rooms import sample_room
from lumiply.synth.shapes import Mesh
from lumiply.synth.spec import LAMP_KINDS, SPLITS, RoomSpec, Surface
from lumiply.synth.textures import PATTERNS, SIDE, paint


@pytest.fixture(scope="module")
def rooms() -> list[RoomSpec]:
    return [sample_room(seed) for seed in range(300)]


def assert_sound(mesh: Mesh) -> None:
    assert len(mesh.positions) == len(mesh.normals) == len(mesh.texcoords)
    assert mesh.faces.max() < len(mesh.positions)
    assert all(array.dtype == np.float32 for array in (mesh.positions, mesh.normals, mesh.texcoords))
    assert all(np.isfinite(array).all() for array in (mesh.positions, mesh.normals, mesh.texcoords))
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-3)


def test_the_same_seed_gives_the_same_room() -> None:
    assert sample_room(7) == sample_room(7)


def test_splits_share_no_room() -> None:
    assert len({hash(sample_room(seed, split)) for seed in range(20) for split in SPLITS}) == 60


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        sample_room(0, "holdout")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0"):
        sample_room(-1)


def test_every_lamp_shade_stem_and_furniture_kind_turns_up(rooms: list[RoomSpec]) -> None:
    assert {room.lamp.kind for room in rooms} == set(LAMP_KINDS)
    assert {room.lamp.shade for room in rooms} == set(SHADES)
    assert {room.lamp.stem for room in rooms} == set(STEMS)
    assert {item.kind for room in rooms for item in room.items} == set(FURNITURE)


def test_every_item_and_lamp_builds_sound_meshes(rooms: list[RoomSpec]) -> None:
    seen: Counter[str] = Counter()
    for room in rooms:
        for item in room.items:
            seen[item.kind] += 1
            if seen[item.kind] <= 4:
                for mesh, surface in build(item):
                    assert_sound(mesh)
                    assert isinstance(surface, Surface)
        if room.seed % 4 == 0:
            parts = build_lamp(room.lamp)
            for mesh in (parts.body, parts.shade, parts.bulb):
                assert_sound(mesh)


def test_most_lamps_are_well_in_view_and_no_camera_stands_outside(rooms: list[RoomSpec]) -> None:
    seen = [look(room.camera, room.lamp, []) for room in rooms]
    assert np.mean([view.framed > 0.5 and 0.003 < view.coverage < 0.12 for view in seen]) > 0.92
    for room in rooms:
        assert all(0 < value < limit for value, limit in zip(room.camera.position, room.size, strict=True))


@pytest.mark.parametrize("pattern", ["plain", *PATTERNS])
def test_every_pattern_paints_plausible_albedo(pattern: str) -> None:
    surface = Surface(pattern, ((0.4, 0.2, 0.1), (0.1, 0.2, 0.5), (0.6, 0.6, 0.5)), seed=3)
    image = paint(surface)
    assert image.shape == ((1, 1, 3) if pattern == "plain" else (SIDE, SIDE, 3)) and image.dtype == np.float32
    assert image.min() > 0 and image.max() < 1
    np.testing.assert_array_equal(image, paint(surface))


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="plaster"):
        paint(Surface("velvet", ((0.5, 0.5, 0.5),)))
