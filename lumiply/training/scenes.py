"""Scenes of your own photos, and which of them show the same room."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Between the name of a room and that of one of its scenes.
ROOM_MARK: Final = "__"


@dataclass(frozen=True)
class Scene:
    """One view of a room.

    Attributes:
        name: of its folder.
        split: one of `SPLITS`, or None where the folder is not split yet.
        off: the photo with the lamp off.
        lit: the photos with the lamp on by colour, in the order of `COLORS`; at least one.
    """

    name: str
    split: str | None
    off: Path
    lit: Mapping[str, Path]

    @property
    def room(self) -> str:
        """Of the room, the same however a system writes its letters."""
        name = self.name.partition(ROOM_MARK)[0] or self.name
        return unicodedata.normalize("NFC", name).casefold()


def rooms_of(scenes: Sequence[Scene]) -> list[list[Scene]]:
    """Scenes by room; those with the very same unlit photo share one, whatever they are called."""
    rooms: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda scene: (scene.name, scene.split or "")):
        rooms.setdefault(scene.room, []).append(scene)
    for same in _same_off_photo(scenes):
        names = sorted({name for name, found in rooms.items() if any(scene in found for scene in same)})
        for name in names[1:]:
            rooms[names[0]] += rooms.pop(name)
    return [rooms[name] for name in sorted(rooms)]


def _same_off_photo(scenes: Sequence[Scene]) -> Iterator[list[Scene]]:
    """Groups of scenes whose unlit photos are equal; only files of equal length are read."""
    lengths = {scene.off: scene.off.stat().st_size for scene in scenes}
    often = Counter(lengths.values())
    by_content: dict[bytes, list[Scene]] = {}
    for scene in scenes:
        if often[lengths[scene.off]] > 1:
            digest = hashlib.sha256(scene.off.read_bytes()).digest()
            by_content.setdefault(digest, []).append(scene)
    return (group for group in by_content.values() if len(group) > 1)
