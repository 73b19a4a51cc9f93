"""Which scenes train and which validate: whole rooms, by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lumiply.errors import UserError
from lumiply.training.scenes import Scene, rooms_of


def choose_validation(scenes: Sequence[Scene], train_share: float, seed: int) -> set[str]:
    """Names of the scenes that validate: whole rooms, in an order drawn from the seed, up to the share.

    At least one room. The order of two rooms does not depend on the others, so that a scene added later moves few
    of them to the other side.

    Raises:
        UserError: fewer than two rooms.
    """
    rooms = {min(scene.room for scene in room): [scene.name for scene in room] for room in rooms_of(scenes)}
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
