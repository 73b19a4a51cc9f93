"""Where lamps stand: on something, inside the room, clear of furniture and of small things."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lumiply.synth.furnish import furnish
from lumiply.synth.lamps import build_lamp, foot_radius
from lumiply.synth.layout import FLAT_KINDS, Layout, directions
from lumiply.synth.palette import sample_scheme
from lumiply.synth.rooms import sample_room
from lumiply.synth.spec import Item, Lamp, RoomSpec

HAIR = 0.005
"""Metres that are let pass."""


@pytest.fixture(scope="module")
def rooms() -> list[RoomSpec]:
    return [sample_room(seed) for seed in range(300)]


def points_of(lamp: Lamp) -> NDArray[np.float32]:
    meshes = build_lamp(lamp)
    return np.concatenate([meshes.body.positions, meshes.shade.positions])


def seen_from(item: Item, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Points (K, 2) in the item's own frame."""
    across, inward = directions(item.yaw)
    return (points - np.asarray(item.position[:2])) @ np.stack([across, -inward], -1)


def holds(item: Item, points: NDArray[np.floating]) -> bool:
    """Whether an item's top reaches under all points (K, 2)."""
    own = seen_from(item, points)
    if item.kind == "round_table":
        return bool((np.hypot(*own.T) < item.size[0] / 2 + HAIR).all())
    return bool((np.abs(own) < np.asarray(item.size[:2]) / 2 + HAIR).all())


def pierced(item: Item, points: NDArray[np.floating]) -> bool:
    """Whether any of the points (K, 3) is inside an item's box."""
    level = points[:, 2] - item.position[2]
    flat = (np.abs(seen_from(item, points[:, :2])) < np.asarray(item.size[:2]) / 2 - HAIR).all(axis=1)
    return bool((flat & (level > HAIR) & (level < item.size[2] - HAIR)).any())


def table_lamps(rooms: list[RoomSpec]) -> list[RoomSpec]:
    return [room for room in rooms if room.lamp.kind == "table"]


def test_no_lamp_reaches_out_of_its_room(rooms: list[RoomSpec]) -> None:
    for room in rooms:
        points = points_of(room.lamp)
        assert points.min() > -HAIR, room.seed
        assert (points.max(axis=0) < np.asarray(room.size) + HAIR).all(), room.seed


def test_every_table_lamp_off_the_floor_has_its_whole_foot_on_an_items_top(rooms: list[RoomSpec]) -> None:
    raised = 0
    for room in table_lamps(rooms):
        level = room.lamp.positions[0][2]
        if level == 0:
            continue
        raised += 1
        body = build_lamp(room.lamp).body.positions
        foot = body[body[:, 2] < level + 0.02][:, :2]
        tops = [item for item in room.items if abs(item.position[2] + item.size[2] - level) < 0.04]
        assert any(holds(item, foot) for item in tops if item.kind not in FLAT_KINDS), room.seed
    assert raised > 80


def test_the_foot_reaches_as_far_as_it_says(rooms: list[RoomSpec]) -> None:
    for room in rooms:
        if room.lamp.kind != "pendant":
            x, y, level = room.lamp.positions[0]
            body = build_lamp(room.lamp).body.positions
            foot = body[body[:, 2] < level + 0.01][:, :2] - np.array([x, y])
            assert np.hypot(*foot.T).max() < foot_radius(room.lamp) + HAIR, (room.seed, room.lamp.stem)


def test_no_lamp_stands_in_furniture_or_in_small_things(rooms: list[RoomSpec]) -> None:
    for room in rooms:
        points = points_of(room.lamp)
        solid = [item for item in room.items if item.kind not in ("rug", "picture", "curtains", "door")]
        assert not [item.kind for item in solid if pierced(item, points)], room.seed


def test_small_things_stay_where_no_lamp_is(rooms: list[RoomSpec]) -> None:
    kinds = [item.kind for room in rooms for item in room.items]
    assert min(kinds.count(kind) for kind in ("small_books", "vase", "screen")) > 20


def test_pendants_of_a_group_hang_evenly_and_apart(rooms: list[RoomSpec]) -> None:
    several = [room for room in [*rooms, sample_room(2920)] if len(room.lamp.positions) > 1]
    assert len(several) > 20
    for room in several:
        gaps = np.linalg.norm(np.diff(np.asarray(room.lamp.positions), axis=0), axis=1)
        assert gaps.min() > 2 * room.lamp.shade_radius, room.seed
        assert np.ptp(gaps) < 1e-6, room.seed


def test_beds_along_every_wall_offer_a_place_on_the_mattress() -> None:
    turns = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        layout = Layout(rng, sample_scheme(rng), (3.4, 4.5, 2.6), ())
        furnish(layout, "bedroom")
        bed = next(item for item in layout.items if item.kind == "bed")
        turns.add(bed.yaw)
        place = layout.supports[0]
        corners = np.array([(sx, sy) for sx in (-1, 1) for sy in (-1, 1)]) * place.radius / 2**0.5
        assert holds(bed, corners + np.array([place.x, place.y])), seed
        assert seen_from(bed, np.array([[place.x, place.y]]))[0, 1] < 0, "towards the foot"
    assert len(turns) == 3
