"""Results in a folder of this machine, for one server: a folder a job, which holds the record and the files."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from werkzeug.security import safe_join

from lumiply.errors import InvalidJobIdError
from lumiply.files import link_all, write_all, write_whole
from lumiply.server.names import PUBLIC_NAMES, RECORD_NAME, SHEET_NAME, is_job_id, require_job_id
from lumiply.server.record import JobRecord, Recipe
from lumiply.server.storage import OpenFile, Stock

log = logging.getLogger(__name__)


class FolderStorage:
    """Implements `Storage`. Files of all recipes have the same places: a job holds those of one at a time."""

    shared = False

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._made_by: dict[str, str] = {}  # job: fingerprint of the recipe of its files
        self._makers: dict[str, set[str]] = {}  # the other way round
        self._lock = threading.Lock()

    def folder(self, job_id: str) -> Path:
        """The folder of a job, which need not exist.

        Raises:
            InvalidJobIdError: `job_id` is no plain name, or leads out of the root.
        """
        joined = safe_join(str(self.root), require_job_id(job_id))
        if joined is None or Path(joined).parent != self.root:
            raise InvalidJobIdError
        return Path(joined)

    def prepare(self) -> None:
        """See `Storage.prepare`: unfinished files go, and those that no record names."""
        for job_id in list(self._job_ids()):
            record = self._parsed(job_id)
            try:
                self._sweep_parts(self.folder(job_id))
                if record is not None:  # else not ours, or of another version: left as it is
                    self.discard(job_id, record.recipe, PUBLIC_NAMES - set(record.files) - {SHEET_NAME})
            except OSError as exc:
                log.warning("job %s: what a crash left was not removed: %s", job_id, exc)
            if record is not None and record.recipe is not None and record.files:
                self.remember(job_id, record.recipe)

    def record(self, job_id: str) -> bytes:
        """See `Storage.record`."""
        try:
            return (self.folder(job_id) / RECORD_NAME).read_bytes()
        except NotADirectoryError as exc:
            raise FileNotFoundError(job_id) from exc

    def write_record(self, job_id: str, data: bytes) -> None:
        """See `Storage.write_record`."""
        folder = self.folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_whole(folder / RECORD_NAME, data)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it was made just now, and is empty
            raise

    def sizes(self, job_id: str, recipe: Recipe) -> dict[str, int]:
        """See `Storage.sizes`."""
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(self.folder(job_id)) as entries,
        ):
            return {e.name: e.stat().st_size for e in entries if e.name in PUBLIC_NAMES and e.is_file()}
        return {}

    def write(self, job_id: str, recipe: Recipe, files: Mapping[str, bytes]) -> None:
        """See `Storage.write`."""
        folder = self.folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_all(folder, files)

    def copy(self, source: str, job_id: str, recipe: Recipe, names: Collection[str]) -> None:
        """See `Storage.copy`. Nothing is copied where the disk knows links."""
        theirs, ours = self.folder(source), self.folder(job_id)
        ours.mkdir(parents=True, exist_ok=True)
        link_all(ours, theirs, names)

    def discard(self, job_id: str, recipe: Recipe | None, names: Collection[str]) -> None:
        """See `Storage.discard`."""
        for name in names:
            (self.folder(job_id) / name).unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """See `Storage.remove`. The folder goes unless it holds other files."""
        folder = self.folder(job_id)
        if not folder.is_dir():
            return
        (folder / RECORD_NAME).unlink(missing_ok=True)
        self.discard(job_id, None, PUBLIC_NAMES)
        with self._lock:
            self._drop_maker(job_id)
        self._sweep_parts(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()

    def open(self, job_id: str, name: str) -> OpenFile:
        """See `Storage.open`."""
        try:
            stream = (self.folder(job_id) / name).open("rb")
        except OSError as exc:
            raise FileNotFoundError(name) from exc
        status = os.fstat(stream.fileno())
        return OpenFile(stream, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def stock(self) -> Iterator[Stock]:
        """See `Storage.stock`. Of a file that several jobs link to, each takes its share."""
        for job_id in self._job_ids():
            record = self._parsed(job_id)
            if record is not None:
                updated = datetime.fromisoformat(record.updated).timestamp()
                yield Stock(updated, sum(_share(self.folder(job_id) / name) for name in record.files), job_id)

    def remember(self, job_id: str, recipe: Recipe) -> None:
        """See `Storage.remember`."""
        with self._lock:
            self._drop_maker(job_id)
            self._made_by[job_id] = recipe.fingerprint
            self._makers.setdefault(recipe.fingerprint, set()).add(job_id)

    def forget(self, job_id: str, recipe: Recipe) -> None:
        """See `Storage.forget`."""
        with self._lock:
            if self._made_by.get(job_id) == recipe.fingerprint:
                self._drop_maker(job_id)

    def makers(self, recipe: Recipe) -> set[str]:
        """See `Storage.makers`."""
        with self._lock:
            return set(self._makers.get(recipe.fingerprint, ()))

    def free_bytes(self) -> int:
        """See `Storage.free_bytes`."""
        place = self.root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _job_ids(self) -> Iterator[str]:
        """Names of all folders that may be jobs."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as entries:
            for entry in entries:
                if is_job_id(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name

    def _parsed(self, job_id: str) -> JobRecord | None:
        """A job's record, without the files that are gone; None if there is none, or none of ours."""
        try:
            record = JobRecord.from_json(self.record(job_id))
        except (OSError, ValueError):
            return None
        folder = self.folder(job_id)
        record.files = {name: size for name, size in record.files.items() if (folder / name).is_file()}
        return record

    def _drop_maker(self, job_id: str) -> None:
        """Locked."""
        fingerprint = self._made_by.pop(job_id, None)
        if fingerprint is not None:
            jobs = self._makers[fingerprint]
            jobs.discard(job_id)
            if not jobs:
                del self._makers[fingerprint]

    @staticmethod
    def _sweep_parts(folder: Path) -> None:
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)


def _share(file: Path) -> int:
    """Bytes of a file for each of its names; 0 if it is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    return status.st_size // status.st_nlink
