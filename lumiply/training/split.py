"""Which scenes train and which validate: whole rooms, by a seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from lumiply.errors import UserError
from lumiply.training.photos import Scene


def choose_validation(scenes: Sequence[Scene], train_share: float, seed: int) -> set[str]:
    """Names of the scenes that validate: whole rooms, in an order drawn from the seed, up to the share.

    At least one room. The order of two rooms does not depend on the others, so that a scene added later moves few
    of them to the other side.

    Raises:
        UserError: fewer than two rooms.
    """
    rooms = rooms_of(scenes)
    if len(rooms) < 2:
        raise UserError(
            f"Photos of {len(rooms)} room cannot be split: a room either trains or validates, and both are needed."
            " Add photos of another room."
        )
    drawn = sorted(rooms, key=lambda room: hashlib.sha256(f"{seed}/{room}".encode()).digest())
    wanted = max(1, round((1 - train_share) * len(scenes)))
    chosen: set[str] = set()
    for room in drawn:
        if len(chosen) + len(rooms[room]) <= wanted:
            chosen.update(rooms[room])
    return chosen or set(rooms[min(drawn, key=lambda room: len(rooms[room]))])


def rooms_of(scenes: Sequence[Scene]) -> dict[str, list[str]]:
    """Scene names by room; scenes with the very same unlit photo share one, whatever they are called."""
    room_of = {scene.name: scene.room for scene in scenes}
    for same in _same_off_photo(scenes):
        joined = {room_of[scene.name] for scene in same}
        room_of = {name: min(joined) if room in joined else room for name, room in room_of.items()}
    rooms: dict[str, list[str]] = {}
    for name in sorted(room_of):
        rooms.setdefault(room_of[name], []).append(name)
    return rooms


def _same_off_photo(scenes: Sequence[Scene]) -> Iterator[list[Scene]]:
    """Groups of scenes whose unlit photos are equal; only files of equal length are read."""
    lengths = {scene.name: scene.off.stat().st_size for scene in scenes}
    often = Counter(lengths.values())
    by_content: dict[bytes, list[Scene]] = {}
    for scene in scenes:
        if often[lengths[scene.name]] > 1:
            digest = hashlib.sha256(scene.off.read_bytes()).digest()
            by_content.setdefault(digest, []).append(scene)
    return (group for group in by_content.values() if len(group) > 1)
