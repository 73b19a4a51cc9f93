"""Where the files of jobs are kept: what `JobStore` needs of a folder, or of a bucket.

Every file is whole or absent, whenever a process or a machine may die.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Protocol, runtime_checkable

from lumiply.server.record import Recipe
from lumiply.settings import Settings


@dataclass(frozen=True)
class OpenFile:
    """A file to be served. All is that of what was opened, even if it is replaced meanwhile.

    Attributes:
        stream: seekable; its reader closes it.
        size: in bytes.
        etag: another one once the bytes are others.
        is_near: whether it is read from a disk of this machine, without waiting for another one.
    """

    stream: IO[bytes]
    size: int
    etag: str
    is_near: bool = True


@dataclass(frozen=True, order=True)
class Stock:
    """What a job takes.

    Attributes:
        updated: seconds since 1970 of the last change.
        size: bytes of its files.
    """

    updated: float
    size: int
    job_id: str


class Storage(Protocol):
    """Files of jobs, thread-safe. Job ids are plain names (`require_job_id`).

    What cannot be reached, written or read is an OSError, a StorageUnavailableError or a StorageFullError.
    """

    @property
    def shared(self) -> bool:
        """Whether other servers may use it at the same time. Pictures of two recipes then never share a place."""

    def prepare(self) -> None:
        """Learn what is there, and remove what a crash left."""

    def record(self, job_id: str) -> bytes:
        """What `write_record` wrote last.

        Raises:
            FileNotFoundError: nothing.
        """

    def write_record(self, job_id: str, data: bytes) -> None:
        """Write it whole."""

    def sizes(self, job_id: str, recipe: Recipe) -> dict[str, int]:
        """Bytes by name of the public files that stand where those of `recipe` do."""

    def write(self, job_id: str, recipe: Recipe, files: Mapping[str, bytes]) -> None:
        """Write files that `recipe` made, each whole or not at all."""

    def copy(self, source: str, job_id: str, recipe: Recipe, names: Collection[str]) -> None:
        """Give a job the same files by `recipe` as the job `source` has.

        Raises:
            FileNotFoundError: one is not there.
        """

    def discard(self, job_id: str, recipe: Recipe | None, names: Collection[str]) -> None:
        """Remove files that stand where those of `recipe` do, as far as they are there."""

    def remove(self, job_id: str) -> None:
        """Remove a job, its record first, as far as it is there. Files that are not ours stay."""

    def open(self, job_id: str, name: str) -> OpenFile:
        """Open a public file.

        Raises:
            FileNotFoundError: the job has none of that name.
        """

    def stock(self) -> Iterator[Stock]:
        """All jobs of ours, in any order."""

    def remember(self, job_id: str, recipe: Recipe) -> None:
        """Note that a job has files by `recipe`."""

    def forget(self, job_id: str, recipe: Recipe) -> None:
        """Note that it no longer has."""

    def makers(self, recipe: Recipe) -> set[str]:
        """Jobs that may have files by `recipe`, as far as noted."""

    def free_bytes(self) -> int | None:
        """Space left; None if nobody knows."""


@runtime_checkable
class Signs(Protocol):
    """Signs of life of servers, in a storage that several share. Errors are as those of `Storage`."""

    def sign_life(self, server: str) -> None:
        """Write that a server lives, now."""

    def signs_of_life(self) -> Mapping[str, datetime]:
        """When each server wrote that last, by the storage's clock."""

    def forget_server(self, server: str) -> None:
        """Remove its sign, as far as it is there."""


def storage_of(settings: Settings) -> Storage:
    """Where the settings say that results live. Nothing is read or reached.

    Raises:
        SettingsError: a URL of which nothing can be made here.
    """
    if settings.results_url is not None:
        from lumiply.server.bucket import BucketStorage  # imports fsspec

        return BucketStorage(settings.results_url)
    from lumiply.server.folder import FolderStorage

    return FolderStorage(settings.results_dir)
