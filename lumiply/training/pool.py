"""Rendered rooms in the memory of the device that trains, growing while a renderer still writes more.

Needs the renderer's files only, not Mitsuba itself.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from lumiply.errors import UserError
from lumiply.synth.compose import LayerBatch, scale_layers
from lumiply.synth.render import RoomLayers

log = logging.getLogger(__name__)

#: Channels of one stored room: two ambient layers, the lamp, the flat lamp (3 each), and its coverage.
ROOM_CHANNELS = 13
#: Files read side by side, rooms normalised together, and rooms that may have been read and not taken in yet.
READERS, READ_AT_ONCE, READ_AHEAD = 8, 64, 256
#: What half precision holds, with room to spare.
LARGEST = 6e4


class RoomPool:
    """Layers of many rooms as one half-precision tensor, (capacity, 13, size, size).

    The ambient layers are scaled to a median luminance of 1 and the lamp to its normalised strength, which half
    precision holds whatever the renderer's units; the lamp's highlights are not compressed yet.
    """

    def __init__(self, folder: Path, *, capacity: int, size: int, device: torch.device | str) -> None:
        """Make room for `capacity` rooms at once.

        Raises:
            UserError: the device's memory does not hold so many.
        """
        self.folder, self.capacity, self.size = folder, capacity, size
        self.device = torch.device(device)
        try:
            self._layers = torch.empty(
                capacity, ROOM_CHANNELS, size, size, dtype=torch.float16, device=device
            )
        except RuntimeError as error:  # out of memory is one, on every device
            gigabytes = capacity * ROOM_CHANNELS * size**2 * 2 / 1e9
            raise UserError(
                f"{capacity} rooms of {size} x {size} take {gigabytes:.0f} GB of memory, which {device} does not "
                "have free; hold fewer with --most-rooms"
            ) from error
        self._names: list[str] = []
        self._seen: set[str] = set()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="rooms")
        self._reading: deque[tuple[Path, Future[RoomLayers | None]]] = deque()

    def __len__(self) -> int:
        return len(self._names)

    def refresh(self, *, wait: bool = True) -> int:
        """Take in files that are new in the folder; return how many were usable.

        A file of another size, or with numbers that are not finite, is skipped and said once.

        Args:
            wait: False takes those that have been read by now, lets others be read meanwhile, and returns at once.
        """
        new = deque(path for path in sorted(self.folder.glob("room_*.npz")) if path.name not in self._seen)
        before = len(self)
        while True:
            while new and len(self._reading) < READ_AHEAD and len(self) + len(self._reading) < self.capacity:
                path = new.popleft()
                self._seen.add(path.name)
                self._reading.append((path, self._readers.submit(self._read, path)))
            read: list[tuple[Path, RoomLayers | None]] = []
            while len(read) < READ_AT_ONCE and self._reading and (wait or self._reading[0][1].done()):
                path, room = self._reading.popleft()
                read.append((path, room.result()))
            if not read:
                return len(self) - before
            self._take(read)

    def wait_for(
        self,
        count: int,
        *,
        timeout: float,
        poll: float = 0.5,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Take in files until there are `count` rooms.

        Args:
            check: asked while it waits; may raise what makes waiting vain.

        Raises:
            UserError: the folder does not have that many after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while len(self) < count:
            if self.refresh() == 0:
                if check is not None:
                    check()
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
