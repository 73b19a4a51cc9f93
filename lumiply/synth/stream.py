"""Render many rooms: into a folder, resumable, or one after another into memory."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tqdm import tqdm

from lumiply.errors import UserError
from lumiply.files import write_whole
from lumiply.synth.render import RoomLayers
from lumiply.synth.rooms import sample_room
from lumiply.synth.spec import RoomSpec, Split

logger = logging.getLogger(__name__)

#: In a folder of rooms: whose they are.
RECORD: Final = "rooms.json"


class RendersRooms(Protocol):
    """What this module asks of a renderer."""

    def render(self, spec: RoomSpec) -> RoomLayers: ...


@dataclass(frozen=True)
class FolderReport:
    """What `render_to_folder` did: files written, files that were there already."""

    rendered: tuple[Path, ...]
    skipped: tuple[Path, ...]


def room_path(folder: str | os.PathLike[str], seed: int) -> Path:
    """Where the room of a seed lies in a folder."""
    return Path(folder) / f"room_{seed:06d}.npz"


def share(seeds: Sequence[int], worker: int, workers: int) -> Sequence[int]:
    """The seeds that fall to one of several workers.

    Raises:
        ValueError: the worker's number is not one of 0 .. workers - 1.
    """
    if workers < 1 or not 0 <= worker < workers:
        raise ValueError(f"worker {worker} of {workers} does not exist; workers count from 0")
    return seeds[worker::workers]


def stream_rooms(
    seeds: Iterable[int], split: Split, renderer: RendersRooms
) -> Iterator[tuple[int, RoomLayers]]:
    """Render rooms one after another, nothing kept: yields (seed, layers)."""
    for seed in seeds:
        yield seed, renderer.render(sample_room(seed, split))


def _claim(folder: Path, split: Split) -> None:
    """Note whose rooms a folder holds: seeds of one split are other rooms than those of another."""
    record = folder / RECORD
    former = json.loads(record.read_bytes())["split"] if record.exists() else split
    if former != split:
        raise UserError(f"{folder} holds rooms of the split {former}, not {split}; choose another folder.")
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps({"split": split}).encode())


def render_to_folder(
    folder: str | os.PathLike[str],
    seeds: Sequence[int],
    split: Split,
    renderer: RendersRooms,
    *,
    show_progress: bool = True,
) -> FolderReport:
    """Render the rooms of `seeds` into `folder`, skipping those that are there already.

    A file is there whole or not at all, so a stopped run goes on where it stopped. Use one folder for one renderer
    setting: the name holds the seed only.

    Raises:
        UserError: the folder holds rooms of another split.
    """
    _claim(Path(folder), split)
    rendered, skipped = [], []
    for seed in tqdm(seeds, desc=f"rooms ({split})", unit="room", disable=not show_progress):
        path = room_path(folder, seed)
        if path.exists():
            skipped.append(path)
            continue
        renderer.render(sample_room(seed, split)).save(path)
        rendered.append(path)
    logger.info("%s: %d rooms rendered, %d there already", folder, len(rendered), len(skipped))
    return FolderReport(tuple(rendered), tuple(skipped))
