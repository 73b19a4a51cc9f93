"""Rendered rooms in the memory of the device that trains, growing while a renderer still writes more.

Needs the renderer's files only, not Mitsuba itself.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lumiply.errors import UserError
from lumiply.synth.compose import LayerBatch, scale_layers
from lumiply.synth.render import RoomLayers

log = logging.getLogger(__name__)

#: Channels of one stored room: two ambient layers, the lamp, the flat lamp (3 each), and its coverage.
ROOM_CHANNELS = 13
#: Files read side by side, and rooms normalised together.
READERS, READ_AT_ONCE = 8, 64
#: What half precision holds, with room to spare.
LARGEST = 6e4


class RoomPool:
    """Layers of many rooms as one half-precision tensor, (capacity, 13, size, size).

    The ambient layers are scaled to a median luminance of 1 and the lamp to its normalised strength, which half
    precision holds whatever the renderer's units; the lamp's highlights are not compressed yet.
    """

    def __init__(self, folder: Path, *, capacity: int, size: int, device: torch.device | str) -> None:
        self.folder, self.capacity, self.size = folder, capacity, size
        self.device = torch.device(device)
        self._layers = torch.empty(capacity, ROOM_CHANNELS, size, size, dtype=torch.float16, device=device)
        self._names: list[str] = []
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._names)

    def refresh(self, most: int | None = None) -> int:
        """Take in files that are new in the folder, `most` of them at the most; return how many were usable.

        A file of another size, or with numbers that are not finite, is skipped and said once.
        """
        new = [path for path in sorted(self.folder.glob("room_*.npz")) if path.name not in self._seen]
        new = new[: min(self.capacity - len(self), len(new) if most is None else most)]
        before = len(self)
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(new), READ_AT_ONCE):
                part = new[start : start + READ_AT_ONCE]
                self._take(
                    [(path, rooms) for path, rooms in zip(part, readers.map(self._read, part), strict=True)]
                )
        return len(self) - before

    def wait_for(self, count: int, *, timeout: float, poll: float = 0.5) -> None:
        """Take in files until there are `count` rooms.

        Raises:
            UserError: the folder does not have that many after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while len(self) < count:
            if self.refresh() == 0:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self.folder} holds {len(self)} usable rooms of {self.size} x {self.size}, {count} are "
                        f"needed; render more with: lumiply synth --out {self.folder} --count {count}"
                    )
                time.sleep(poll)

    def layers(self, index: Tensor) -> LayerBatch:
        """The rooms at `index` (b,) as float32 layers."""
        stored = self._layers[index.to(self.device)].float()
        ambient, without, lamp, flat, alpha = stored.split([3, 3, 3, 3, 1], dim=1)
        return LayerBatch(ambient, without, lamp, alpha, flat)

    def _read(self, path: Path) -> RoomLayers | None:
        """The file's layers, or None for another size."""
        self._seen.add(path.name)
        room = RoomLayers.load(path, half=True)  # the device widens it
        if room.ambient.shape[:2] == (self.size, self.size):
            return room
        log.warning("%s skipped: %s pixels, not %d", path.name, room.ambient.shape[:2], self.size)
        return None

    def _take(self, read: list[tuple[Path, RoomLayers | None]]) -> None:
        """Normalise rooms together and put the usable ones behind those that are there."""
        kept = [(path, room) for path, room in read if room is not None]
        if not kept:
            return
        batch = scale_layers(LayerBatch.from_rooms([room for _, room in kept], self.device), 1.0)
        parts = [batch.ambient, batch.ambient_without_lamp, batch.lamp, batch.lamp_flat, batch.lamp_alpha]
        stored = torch.cat(parts, dim=1)
        usable = torch.isfinite(stored).all(dim=(1, 2, 3)).tolist()
        for (path, _), layers, good in zip(kept, stored.clamp(0.0, LARGEST), usable, strict=True):
            if good:
                self._layers[len(self)] = layers.half()
                self._names.append(path.name)
            else:
                log.warning("%s skipped: numbers that are not finite", path.name)
