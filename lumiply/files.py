"""Files that others may read are whole or absent: write beside, sync, rename (DESIGN.md, rule 7)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from lumiply.waiting import waiting


@contextlib.contextmanager
def written_whole(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Give the path of an empty file beside `path`; what stands in it afterwards takes the place of `path`.

    Others see the old file, or the new one, never a part. The folder must exist. Until the file is whole, nobody
    but its owner may open it (`mkstemp`: a name that was free, mode 0600, whatever the umask).

    Args:
        mode: who may read and write it then; it has it before it takes the place of `path`.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    with _beside(path) as beside:
        yield beside
        _sync_file(beside, mode)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` as `written_whole` does.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    with written_whole(path, mode) as beside:
        beside.write_bytes(data)


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name, each as `write_whole` does. The folder is synced once: that takes as long as a file.

    Raises:
        OSError: the disk is full or the folder cannot be written; some may have been written.
    """
    for name, data in files.items():
        with _beside(folder / name) as beside:
            beside.write_bytes(data)
            _sync_file(beside)
    sync_folder(folder)


def link_all(folder: Path, source: Path, names: Collection[str]) -> None:
    """Let names in `folder` stand for the same files as in `source`, or for copies where the disk knows no links.

    Raises:
        OSError: one is not there, the disk is full, or the folder cannot be written; some may have been linked.
    """
    for name in names:
        with _beside(folder / name) as beside:
            beside.unlink()
            try:
                os.link(source / name, beside)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(source / name, beside)
                _sync_file(beside)
    sync_folder(folder)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give the path of an empty file beside `path`, and rename it to that afterwards; after an error it is gone."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        with contextlib.suppress(
            OSError
        ):  # it is still there after an error, and if both names were one file's
            beside.unlink()


def _sync_file(path: Path, mode: int = 0o644) -> None:
    """Make what was written to a file last through a power cut."""
    with path.open("rb+") as file:
        os.fchmod(file.fileno(), mode)
        with waiting():
            os.fsync(file.fileno())


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process is within this for the same folder, as far as its disk knows locks.

    Raises:
        OSError: the folder is not there or cannot be read.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError), waiting():  # such as on a mounted Drive
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with waiting():
            os.fsync(handle)
    finally:
        os.close(handle)
