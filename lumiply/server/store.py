"""Results on disk: a folder a job, with the photo, one picture a colour, and a record of what made them.

A file counts once the job's record names it, and the record is written last. Before a job's files are replaced by
those of another photo, its record is rewritten to name none. So what a record names is complete and belongs
together, whenever the process or the machine may die.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from werkzeug.security import safe_join

from lumiply.colors import COLORS
from lumiply.errors import InvalidJobIdError
from lumiply.files import link_whole, write_whole
from lumiply.server.record import INTERRUPTED, Failure, JobRecord, Recipe, now_iso

log = logging.getLogger(__name__)

PHOTO_NAME: Final = "off.png"
SHEET_NAME: Final = "sheet.jpg"
RECORD_NAME: Final = ".job.json"

#: What a job id may be.
JOB_ID_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

_JOB_ID: Final = re.compile(JOB_ID_PATTERN, re.ASCII)
_LOCKS: Final = 64


def output_name(color: str) -> str:
    """File name of the result in one colour; part of the HTTP contract."""
    return f"output_{color}.jpg"


#: Names of all files of a job that are served to the public.
PUBLIC_NAMES: Final = frozenset({PHOTO_NAME, SHEET_NAME, *map(output_name, COLORS)})


def require_job_id(job_id: str) -> str:
    """Return `job_id` if it is a plain name: ASCII letters, digits, `-`, `_`, `.`; at most 128 of them.

    Raises:
        InvalidJobIdError: it is not.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidJobIdError
    return job_id


class JobStore:
    """The jobs under one folder. Thread-safe; a job's files have one writer at a time, readers need no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self._made_by: dict[str, str] = {}  # job: fingerprint of the recipe of its files
        self._makers: dict[str, set[str]] = {}  # the other way round
        self._makers_lock = threading.Lock()

    def open(self) -> None:
        """Learn what the folder holds, and sweep what a crash left: unfinished and unnamed files."""
        for job_id in list(self.job_ids()):
            folder = self.folder(job_id)
            with self.locked(job_id):
                for part in folder.glob(".*.part"):
                    part.unlink(missing_ok=True)
                record = self.record(job_id)
                if record is None:
                    continue  # not ours, or of another version: left as it is
                for name in PUBLIC_NAMES - set(record.files) - {SHEET_NAME}:
                    (folder / name).unlink(missing_ok=True)
                if record.recipe is not None and record.files:
                    self._remember(record.recipe, job_id)

    def folder(self, job_id: str) -> Path:
        """The folder of a job, which need not exist.

        Raises:
            InvalidJobIdError: `job_id` is no plain name, or leads out of the root.
        """
        joined = safe_join(str(self.root), require_job_id(job_id))
        if joined is None or Path(joined).parent != self.root:
            raise InvalidJobIdError
        return Path(joined)

    def job_ids(self) -> Iterator[str]:
        """Names of all folders that may be jobs."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as entries:
            for entry in entries:
                if _JOB_ID.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name

    @contextlib.contextmanager
    def locked(self, job_id: str) -> Iterator[None]:
        """Keep others from writing to a job."""
        with self._locks[hash(job_id) % _LOCKS]:
            yield

    def record(self, job_id: str) -> JobRecord | None:
        """What is written down of a job, without the files that are gone; None if nothing is."""
        folder = self.folder(job_id)
        try:
            record = JobRecord.from_json((folder / RECORD_NAME).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as exc:
            log.warning("job %s: record not readable, taken for none: %s", job_id, exc)
            return None
        record.files = {name: size for name, size in record.files.items() if (folder / name).is_file()}
        return record

    def colors_of(self, job_id: str, recipe: Recipe) -> frozenset[str]:
        """The colours that stand in a job's folder and were made by exactly this recipe."""
        record = self.record(job_id)
        if record is None or record.recipe != recipe or PHOTO_NAME not in record.files:
            return frozenset()
        return frozenset(color for color in COLORS if output_name(color) in record.files)

    def _holds(self, job_id: str, recipe: Recipe, colors: frozenset[str] | set[str]) -> bool:
        return colors <= self.colors_of(job_id, recipe)

    def begin(
        self, job_id: str, recipe: Recipe, colors: Iterable[str], wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Write down that `colors` are under way, unless they are there already or no longer `wanted`.

        Raises:
            OSError: it could not be written.
        """
        with self.locked(job_id):
            if not wanted():
                return
            record = self.record(job_id) or JobRecord.new(job_id)
            if record.asked != recipe:
                record.asked, record.pending, record.failures = recipe, (), {}
            there = self.colors_of(job_id, recipe)
            pending = {*record.pending, *colors} - there
            record.pending = tuple(color for color in COLORS if color in pending)
            record.failures = {c: why for c, why in record.failures.items() if c not in pending}
            try:
                self._save(record)
            except OSError:
                with contextlib.suppress(OSError):
                    self.folder(job_id).rmdir()  # if it was made just now, and is empty
                raise

    def publish(
        self,
        job_id: str,
        recipe: Recipe,
        files: Mapping[str, bytes | Path],
        wanted: Callable[[], bool] = lambda: True,
        still_true: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Add files that `recipe` made; files that another recipe made go.

        Args:
            files: by public name: bytes to write, or a file to link to.
            wanted: asked once the job is locked; if false, nothing is done and False returned.
            still_true: asked before the files count; if false, they do not, and False is returned.

        Returns:
            Whether the files count now. Not so either if a file to link to is gone.

        Raises:
            OSError: a file could not be written; what the job held by `recipe` is not harmed.
        """
        with self.locked(job_id):
            if not wanted():
                return False
            folder = self.folder(job_id)
            folder.mkdir(parents=True, exist_ok=True)
            record = self.record(job_id) or JobRecord.new(job_id)
            if record.recipe != recipe:
                self._forget_files(record)
            new = {name: data for name, data in files.items() if name not in record.files}
            try:
                for name, data in new.items():
                    write_whole(folder / name, data) if isinstance(data, bytes) else link_whole(
                        folder / name, data
                    )
                if not still_true():
                    raise FileNotFoundError
            except BaseException as exc:
                for name in new:
                    (folder / name).unlink(missing_ok=True)
                if isinstance(exc, FileNotFoundError):  # a file to link to is gone or has changed
                    return False
                raise
            for name in new:
                record.files[name] = (folder / name).stat().st_size
            record.recipe, record.updated = recipe, now_iso()
            if record.asked in (None, recipe):
                record.asked = recipe
                record.pending = tuple(c for c in record.pending if output_name(c) not in record.files)
                record.failures = {
                    c: why for c, why in record.failures.items() if output_name(c) not in record.files
                }
            self._save(record)
            self._remember(recipe, job_id)
            return True

    def adopt(self, job_id: str, recipe: Recipe, colors: Iterable[str]) -> bool:
        """Take over what other jobs hold of `colors` by the same recipe; whether anything came.

        Raises:
            OSError: it could not be written.
        """
        missing = set(colors) - self.colors_of(job_id, recipe)
        with self._makers_lock:
            others = self._makers.get(recipe.fingerprint, set()) - {job_id}
        came = False
        for other in sorted(others):
            found = missing & self.colors_of(other, recipe)
            if not found:
                continue
            source = self.folder(other)
            names = [PHOTO_NAME, *(output_name(color) for color in sorted(found))]
            links: dict[str, bytes | Path] = {name: source / name for name in names}
            # What was linked counts only if the other job still holds it afterwards.
            held = functools.partial(self._holds, other, recipe, found)
            if self.publish(job_id, recipe, links, still_true=held):
                came, missing = True, missing - found
            if not missing:
                break
        return came

    def fail(self, job_id: str, recipe: Recipe, colors: Iterable[str], why: Failure) -> None:
        """Write down why colours that were under way did not come, as far as the disk lets."""
        with self.locked(job_id), contextlib.suppress(OSError):
            record = self.record(job_id)
            if record is None or record.asked != recipe:
                return
            lost = set(colors) & set(record.pending)
            record.pending = tuple(color for color in record.pending if color not in lost)
            record.failures |= {color: why for color in COLORS if color in lost}
            self._save(record)

    def clear(self, job_id: str) -> None:
        """Remove the job's results, its record first. Other files in its folder stay."""
        with self.locked(job_id):
            folder = self.folder(job_id)
            if not folder.is_dir():
                return
            (folder / RECORD_NAME).unlink(missing_ok=True)
            for name in PUBLIC_NAMES:
                (folder / name).unlink(missing_ok=True)
            self._forget_maker(job_id)

    def remove(self, job_id: str, unless: Callable[[], bool] = lambda: False) -> bool:
        """Remove a job with its folder; whether it is gone. A folder with files not ours is cleared only."""
        with self.locked(job_id):
            if unless():
                return False
            self.clear(job_id)
            with contextlib.suppress(FileNotFoundError, OSError):
                folder = self.folder(job_id)
                for part in folder.glob(".*.part"):
                    part.unlink(missing_ok=True)
                folder.rmdir()
            return True

    def free_bytes(self) -> int:
        """Space left on the disk of the results."""
        place = self.root
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def _save(self, record: JobRecord) -> None:
        folder = self.folder(record.job_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECORD_NAME, record.to_json())

    def _forget_files(self, record: JobRecord) -> None:
        """Make a job hold nothing, so that files of another recipe can take the places."""
        record.files, record.recipe = {}, None
        self._save(record)
        self._forget_maker(record.job_id)
        for name in PUBLIC_NAMES:
            (self.folder(record.job_id) / name).unlink(missing_ok=True)

    def _remember(self, recipe: Recipe, job_id: str) -> None:
        with self._makers_lock:
            self._made_by[job_id] = recipe.fingerprint
            self._makers.setdefault(recipe.fingerprint, set()).add(job_id)

    def _forget_maker(self, job_id: str) -> None:
        with self._makers_lock:
            fingerprint = self._made_by.pop(job_id, None)
            if fingerprint is not None:
                jobs = self._makers[fingerprint]
                jobs.discard(job_id)
                if not jobs:
                    del self._makers[fingerprint]


def interrupted() -> Failure:
    """What is said of a colour that was under way when the server ended."""
    return Failure(INTERRUPTED, "서버가 다시 시작되어 중단되었습니다. 같은 요청을 다시 보내 주세요.")
