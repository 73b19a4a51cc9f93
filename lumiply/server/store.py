"""Results that last: jobs, each with the photo, one picture a colour, and a record of what made them.

A file counts once the job's record names it, and the record is written last. Before a job's files are replaced by
those of another photo, its record is rewritten to name none. So what a record names is complete and belongs
together, whenever the process or the machine may die.

Where several servers share a storage, each recipe's files have a place of their own, so that no two servers can mix
their pictures; and every file there counts that stands where the record points, so that of two records written at
once neither loses pictures.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from lumiply.colors import COLORS
from lumiply.errors import CancelledError, LumiplyError, ReplacedError
from lumiply.server.folder import FolderStorage
from lumiply.server.names import PHOTO_NAME, PUBLIC_NAMES, output_name, require_job_id
from lumiply.server.presence import Presence
from lumiply.server.record import INTERRUPTED, Failure, JobRecord, Recipe, now_iso
from lumiply.server.storage import OpenFile, Signs, Stock, Storage
from lumiply.waiting import waiting

log = logging.getLogger(__name__)

_LOCKS: Final = 64


class JobStore:
    """The jobs in one storage. Thread-safe; a job has one writer at a time in a process, readers need no lock."""

    def __init__(self, files: Storage | Path, *, render_s: float = 0.0) -> None:
        """Nothing is read or reached.

        Args:
            files: where the jobs live; a path is that of a folder.
            render_s: seconds that a render on another server may take. What began longer ago has been interrupted.
        """
        self.files: Storage = FolderStorage(files) if isinstance(files, Path) else files
        self._render_s = render_s
        self._presence = Presence(self.files) if isinstance(self.files, Signs) else None
        self._locks = [threading.RLock() for _ in range(_LOCKS)]

    def open(self) -> None:
        """Learn what is there, and sweep what a crash left: unfinished and unnamed files."""
        self.files.prepare()

    def start(self) -> None:
        """From now on, let other servers see that this one lives. Safe to call twice."""
        if self._presence is not None:
            self._presence.start()

    def close(self) -> None:
        """Let others see that this server writes nothing more. Safe to call twice."""
        if self._presence is not None:
            self._presence.close()

    def stock(self) -> Iterator[Stock]:
        """What each job takes, and since when."""
        return self.files.stock()

    @contextlib.contextmanager
    def locked(self, job_id: str) -> Iterator[None]:
        """Keep others in this process from writing to a job."""
        lock = self._locks[hash(job_id) % _LOCKS]
        if not lock.acquire(blocking=False):
            with waiting():
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def record(self, job_id: str) -> JobRecord | None:
        """What is written down of a job, without the files that are gone; None if nothing is."""
        try:
            record = JobRecord.from_json(self.files.record(require_job_id(job_id)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            log.warning("job %s: record not readable, taken for none: %s", job_id, exc)
            return None
        there = self.files.sizes(job_id, record.recipe) if record.recipe is not None else {}
        record.files = {
            name: size for name, size in there.items() if self.files.shared or name in record.files
        }
        return record

    def open_file(self, job_id: str, name: str) -> OpenFile:
        """Open a public file of a job.

        Raises:
            InvalidJobIdError: `job_id` is no plain name.
            FileNotFoundError: the job has none of that name.
        """
        return self.files.open(require_job_id(job_id), name)

    def colors_of(self, job_id: str, recipe: Recipe) -> frozenset[str]:
        """The colours that a job has and that were made by exactly this recipe."""
        return _colors(self.record(job_id), recipe)

    def runs_elsewhere(self, record: JobRecord) -> bool:
        """Whether another server, which lives, has colours of a job under way, as far as its record tells."""
        presence = self._presence
        if presence is None or not record.pending or record.server == presence.server or not record.begun:
            return False
        age = datetime.now(timezone.utc) - datetime.fromisoformat(record.begun)
        return age.total_seconds() < self._render_s and presence.lives(record.server)

    def begin(
        self, job_id: str, recipe: Recipe, colors: Iterable[str], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Write down that `colors` are under way, unless they are there already or no longer `wanted`.

        Returns:
            Whether it was written.

        Raises:
            OSError, StorageUnavailableError, StorageFullError: it could not be.
        """
        with self.locked(job_id):
            if not wanted():
                return False
            record = self.record(job_id) or JobRecord.new(job_id)
            if record.asked != recipe:
                record.asked, record.pending, record.failures = recipe, (), {}
            pending = {*record.pending, *colors} - _colors(record, recipe)
            record.pending = tuple(color for color in COLORS if color in pending)
            record.failures = {c: why for c, why in record.failures.items() if c not in pending}
            record.begun = now_iso()
            if self._presence is not None:
                self._presence.require_sign()
                record.server = self._presence.server
            self._save(record)
            return True

    def settle(self, job_id: str, recipe: Recipe) -> None:
        """Write down, as far as the storage lets, that what a job has by `recipe` is what was asked for last."""
        with self.locked(job_id), contextlib.suppress(OSError, LumiplyError):
            record = self.record(job_id)
            if record is not None and record.asked != recipe:
                record.asked, record.pending, record.failures = recipe, (), {}
                self._save(record)

    def publish(
        self,
        job_id: str,
        recipe: Recipe,
        files: Mapping[str, bytes],
        wanted: Callable[[], bool] = lambda: True,
        begun: bool = False,
    ) -> bool:
        """Add files, by public name, that `recipe` made; files that another recipe made go.

        Args:
            wanted: asked once the job is locked; if false, nothing is done and False returned.
            begun: whether `begin` wrote down that they come. In a shared storage the job must still say so.

        Returns:
            Whether the files count now.

        Raises:
            ReplacedError, CancelledError: another server took the job over, or deleted it.
            OSError, StorageUnavailableError, StorageFullError: a file could not be written; what the job held by
                `recipe` is not harmed.
        """

        def write(names: Collection[str]) -> None:
            self.files.write(job_id, recipe, {name: files[name] for name in names})

        return self._publish(job_id, recipe, files.keys(), write, wanted, begun)

    def _publish(
        self,
        job_id: str,
        recipe: Recipe,
        names: Collection[str],
        bring: Callable[[Collection[str]], None],
        wanted: Callable[[], bool] = lambda: True,
        begun: bool = False,
    ) -> bool:
        """See `publish`. `bring` puts the named files there; nothing counts if it says FileNotFoundError."""
        with self.locked(job_id):
            if not wanted():
                return False
            record = self.record(job_id)
            if begun and self.files.shared:
                _require_asked(record, recipe)
            record = record or JobRecord.new(job_id)
            if record.recipe != recipe and not (self.files.shared and record.recipe is None):
                self._forget_files(record)
            new = [name for name in names if name not in record.files]
            try:
                bring(new)
            except BaseException as exc:
                if not self.files.shared:  # there another server may count on them
                    self.files.discard(job_id, recipe, new)
                if isinstance(exc, FileNotFoundError):
                    return False
                raise
            sizes = self.files.sizes(job_id, recipe)
            record.files |= {name: sizes[name] for name in new if name in sizes}
            record.recipe, record.updated = recipe, now_iso()
            if record.asked in (None, recipe):
                record.asked = recipe
                record.pending = tuple(c for c in record.pending if output_name(c) not in record.files)
                record.failures = {
                    c: why for c, why in record.failures.items() if output_name(c) not in record.files
                }
            self._save(record)
            self.files.remember(job_id, recipe)
            return True

    def adopt(self, job_id: str, recipe: Recipe, colors: Iterable[str]) -> bool:
        """Take over what other jobs hold of `colors` by the same recipe; whether anything came.

        Raises:
            OSError, StorageUnavailableError, StorageFullError: it could not be written.
        """
        missing = set(colors) - self.colors_of(job_id, recipe)
        came = False
        for other in sorted(self.files.makers(recipe) - {job_id}):
            if not missing:
                break
            held = self.colors_of(other, recipe)
            if not held:
                self.files.forget(other, recipe)
            found = missing & held
            names = [PHOTO_NAME, *(output_name(color) for color in sorted(found))]
            if found and self._publish(
                job_id, recipe, names, functools.partial(self._take, other, job_id, recipe, found)
            ):
                came, missing = True, missing - found
        return came

    def _take(
        self, other: str, job_id: str, recipe: Recipe, colors: set[str], names: Collection[str]
    ) -> None:
        """Copy from another job. It counts only if that one still holds it afterwards."""
        self.files.copy(other, job_id, recipe, names)
        if not colors <= self.colors_of(other, recipe):
            raise FileNotFoundError(other)

    def fail(self, job_id: str, recipe: Recipe, colors: Iterable[str], why: Failure) -> None:
        """Write down why colours that were under way did not come, as far as the storage lets."""
        with self.locked(job_id), contextlib.suppress(OSError, LumiplyError):
            record = self.record(job_id)
            if record is None or record.asked != recipe:
                return
            lost = set(colors) & set(record.pending)
            record.pending = tuple(color for color in record.pending if color not in lost)
            record.failures |= {color: why for color in COLORS if color in lost}
            self._save(record)

    def remove(self, job_id: str, unless: Callable[[], bool] = lambda: False) -> bool:
        """Remove a job, its record first; whether it is gone. Other files beside its own stay."""
        with self.locked(require_job_id(job_id)):
            if unless():
                return False
            self.files.remove(job_id)
            return True

    def free_bytes(self) -> int | None:
        """Space left for results; None if nobody knows."""
        return self.files.free_bytes()

    def _save(self, record: JobRecord) -> None:
        self.files.write_record(record.job_id, record.to_json())

    def _forget_files(self, record: JobRecord) -> None:
        """Make a job hold nothing, so that files of another recipe can take the places."""
        former = record.recipe
        record.files, record.recipe = {}, None
        self._save(record)
        if former is not None:
            self.files.forget(record.job_id, former)
        self.files.discard(record.job_id, former, PUBLIC_NAMES)


def _colors(record: JobRecord | None, recipe: Recipe) -> frozenset[str]:
    """The colours that a record says were made by exactly this recipe."""
    if record is None or record.recipe != recipe or PHOTO_NAME not in record.files:
        return frozenset()
    return frozenset(color for color in COLORS if output_name(color) in record.files)


def _require_asked(record: JobRecord | None, recipe: Recipe) -> None:
    """See that a job still asks for what comes for it.

    Raises:
        ReplacedError, CancelledError: it does not.
    """
    if record is None:
        raise CancelledError("작업이 삭제되어 렌더링을 취소했습니다.")
    if record.asked != recipe:
        raise ReplacedError


def interrupted() -> Failure:
    """What is said of a colour that was under way when the server ended."""
    return Failure(INTERRUPTED, "서버가 다시 시작되어 중단되었습니다. 같은 요청을 다시 보내 주세요.")
