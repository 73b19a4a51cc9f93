"""Files that others may read are whole or absent: write beside, sync, rename (DESIGN.md, rule 7)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


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
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` as `written_whole` does.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    with written_whole(path, mode) as beside:
        beside.write_bytes(data)


def link_whole(path: Path, source: Path) -> None:
    """Let `path` name the same file as `source`, or a copy of it where the disk knows no links.

    Raises:
        OSError: `source` is not there, the disk is full, or the folder cannot be written.
    """
    with written_whole(path) as beside:
        beside.unlink()
        try:
            os.link(source, beside)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source, beside)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process is within this for the same folder, as far as its disk knows locks.

    Raises:
        OSError: the folder is not there or cannot be read.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # such as on a mounted Drive
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
