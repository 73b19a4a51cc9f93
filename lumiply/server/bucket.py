"""Results behind an fsspec URL, such as a bucket's, for any number of servers at the same time.

Under the URL stand, for a job, `<job_id>/.job.json` (its record) and `<job_id>/<place>/<name>` (its files, where each
recipe has a place of its own), `.recipes/<recipe>/<job_id>` (empty: the job has files by that recipe), and
`.servers/<server>` (empty: that server lived when it was written).

An object store shows an object once all of it has come, and not before. Where nothing of the kind is known, a file is
written under another name and then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Final

from lumiply.errors import LumiplyError, SettingsError, StorageFullError, StorageUnavailableError
from lumiply.files import write_whole
from lumiply.server.names import PUBLIC_NAMES, RECORD_NAME, is_job_id
from lumiply.server.record import JobRecord, Recipe
from lumiply.server.storage import OpenFile, Stock
from lumiply.waiting import waiting

try:
    import fsspec
    from fsspec.asyn import sync
    from fsspec.exceptions import FSTimeoutError
    from fsspec.implementations.local import LocalFileSystem
except ImportError as exc:
    raise SettingsError(
        "results_url needs fsspec, which is not installed. Run `pip install 'lumiply[cluster]'`, or unset"
        " LUMIPLY_RESULTS_URL."
    ) from exc

#: Protocols of stores whose objects appear whole or not at all.
WHOLE: Final = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})

#: Seconds that an operation may take in all.
LIMIT_S: Final = 60.0
#: Seconds that an S3 server is given to take a connection and to answer; and how often botocore, and then s3fs, try.
_S3_LIMITS: Final = {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 1}}
_S3_TRIES: Final = 2
#: Bytes that are fetched at once while a file is served.
_BLOCK: Final = 4 * 2**20

#: Folder of the notes on which job has files by which recipe.
_NOTES: Final = ".recipes"
#: Folder of the signs of life.
_SERVERS: Final = ".servers"
#: Codes by which S3 servers say that there is no space, or no bucket.
_FULL: Final = frozenset({"507", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"})
_NO_BUCKET: Final = frozenset({"NoSuchBucket"})


class BucketStorage:
    """Implements `Storage` and `Signs`."""

    shared = True

    def __init__(self, url: str) -> None:
        """Choose how to talk to it; nothing is reached. Credentials are found as the protocol's package finds them.

        Raises:
            SettingsError: an unknown protocol, or its package is not installed.
        """
        self._url = url
        protocol = url.partition("://")[0]
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol in ("s3", "s3a"):
            options |= {"max_concurrency": 1}  # else each file's size is asked for before it is read
            if "config_kwargs" not in fsspec.config.conf.get("s3", {}):
                options["config_kwargs"] = _S3_LIMITS
        try:
            self._fs, self._root = fsspec.url_to_fs(url, **options)
        except (ImportError, ValueError) as exc:
            raise SettingsError(
                f"results_url={url} cannot be used: {exc}. Install what its protocol needs"
                " (`pip install 'lumiply[cluster]'` brings s3), or set LUMIPLY_RESULTS_URL to another URL."
            ) from exc
        if protocol in ("s3", "s3a"):
            self._fs.retries = _S3_TRIES
        self._root = self._root.rstrip("/")
        self._whole = protocol in WHOLE

    # Storage

    def prepare(self) -> None:
        """See `Storage.prepare`: what has no name is never served, and others may be writing it now."""

    def record(self, job_id: str) -> bytes:
        """See `Storage.record`."""
        with self._reading():
            data: bytes = self._call("cat_file", self._key(job_id, RECORD_NAME))
        return data

    def write_record(self, job_id: str, data: bytes) -> None:
        """See `Storage.write_record`."""
        self._put({self._key(job_id, RECORD_NAME): data})

    def sizes(self, job_id: str, recipe: Recipe) -> dict[str, int]:
        """See `Storage.sizes`."""
        found = self._find(self._key(job_id, _place(recipe)))
        return {name: info["size"] for key, info in found.items() if (name := _last(key)) in PUBLIC_NAMES}

    def write(self, job_id: str, recipe: Recipe, files: Mapping[str, bytes]) -> None:
        """See `Storage.write`."""
        self._put({self._key(job_id, _place(recipe), name): data for name, data in files.items()})

    def copy(self, source: str, job_id: str, recipe: Recipe, names: Collection[str]) -> None:
        """See `Storage.copy`. The store copies by itself where it can."""
        place = _place(recipe)
        pairs = {self._key(source, place, name): self._key(job_id, place, name) for name in names}
        if not self._whole:
            with self._reading():
                files = {target: self._call("cat_file", key) for key, target in pairs.items()}
            self._put(files)
            return
        with self._reading():
            self._call("copy", list(pairs), list(pairs.values()))

    def discard(self, job_id: str, recipe: Recipe | None, names: Collection[str]) -> None:
        """See `Storage.discard`."""
        if recipe is not None:
            there = self.sizes(job_id, recipe)
            self._remove([self._key(job_id, _place(recipe), name) for name in names if name in there])

    def remove(self, job_id: str) -> None:
        """See `Storage.remove`."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            recipe = JobRecord.from_json(self.record(job_id)).recipe
            if recipe is not None:
                self.forget(job_id, recipe)
        keys = [key for key in self._find(self._key(job_id)) if self._job_of(key) == job_id]
        record = self._key(job_id, RECORD_NAME)
        self._remove([key for key in keys if key == record])
        self._remove([key for key in keys if key != record])

    def open(self, job_id: str, name: str) -> OpenFile:
        """See `Storage.open`. The bytes are fetched as they are read."""
        try:
            recipe = JobRecord.from_json(self.record(job_id)).recipe
        except ValueError:
            recipe = None
        if recipe is None:
            raise FileNotFoundError(name)
        key = self._key(job_id, _place(recipe), name)
        with self._reading():
            stream: IO[bytes] = self._fs.open(key, "rb", block_size=_BLOCK)
            info = getattr(stream, "details", None) or self._fs.info(key)
        modified, size = _modified(info), int(info["size"])
        etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
        etag = etag or f"{modified.timestamp() * 1e6:.0f}-{size:x}"
        return OpenFile(stream, size, etag, is_near=False)

    def stock(self) -> Iterator[Stock]:
        """See `Storage.stock`: from a listing alone, with what replaced or half-removed jobs left."""
        jobs: dict[str, Stock] = {}
        for key, info in self._find(self._root).items():
            job_id = self._job_of(key)
            if job_id is not None:
                former = jobs.get(job_id, Stock(0.0, 0, job_id))
                updated = max(former.updated, _modified(info).timestamp())
                jobs[job_id] = Stock(updated, former.size + int(info["size"]), job_id)
        yield from jobs.values()

    def remember(self, job_id: str, recipe: Recipe) -> None:
        """See `Storage.remember`."""
        self._put({self._key(_NOTES, recipe.fingerprint, job_id): b""})

    def forget(self, job_id: str, recipe: Recipe) -> None:
        """See `Storage.forget`."""
        self._remove([self._key(_NOTES, recipe.fingerprint, job_id)])

    def makers(self, recipe: Recipe) -> set[str]:
        """See `Storage.makers`."""
        notes = self._find(self._key(_NOTES, recipe.fingerprint))
        return {name for key in notes if is_job_id(name := _last(key))}

    def free_bytes(self) -> None:
        """See `Storage.free_bytes`: nobody knows."""

    # Signs

    def sign_life(self, server: str) -> None:
        """See `Signs.sign_life`."""
        self._put({self._key(_SERVERS, server): b""})

    def signs_of_life(self) -> dict[str, datetime]:
        """See `Signs.signs_of_life`."""
        found = self._find(self._key(_SERVERS))
        return {name: _modified(info) for key, info in found.items() if is_job_id(name := _last(key))}

    def forget_server(self, server: str) -> None:
        """See `Signs.forget_server`."""
        self._remove([self._key(_SERVERS, server)])

    # By key

    def try_out(self) -> None:
        """Write something, read it and remove it.

        Raises:
            StorageUnavailableError, StorageFullError: that cannot be done.
        """
        key = self._key(f".try-{uuid.uuid4().hex}")
        self._put({key: b"lumiply"})
        with self._reading():
            self._call("cat_file", key)
        self._remove([key])

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the file system, within the time limit where it knows of one."""
        if self._fs.async_impl:
            return sync(self._fs.loop, getattr(self._fs, f"_{name}"), *args, timeout=LIMIT_S, **kwargs)
        return getattr(self._fs, name)(*args, **kwargs)

    def _key(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _job_of(self, key: str) -> str | None:
        """The job that a file is of; None for what is not ours."""
        parts = key.removeprefix(self._root).strip("/").split("/")
        ours = parts[1:] == [RECORD_NAME] or len(parts) == 3 and parts[2] in PUBLIC_NAMES
        return parts[0] if ours and is_job_id(parts[0]) else None

    def _put(self, files: Mapping[str, bytes]) -> None:
        with self._writing():
            if self._whole:
                self._call("pipe", dict(files))
                return
            for key, data in files.items():
                self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)
                if isinstance(self._fs, LocalFileSystem):
                    write_whole(Path(key), data)
                    continue
                beside = f"{key}.{uuid.uuid4().hex}.part"
                self._call("pipe_file", beside, data)
                self._fs.mv(beside, key)

    def _find(self, key: str) -> dict[str, dict[str, Any]]:
        """All files below, by key."""
        with self._reading():
            try:
                found: dict[str, dict[str, Any]] = self._call("find", key, detail=True)
            except FileNotFoundError:
                return {}
        return found

    def _remove(self, keys: list[str]) -> None:
        with self._reading(), contextlib.suppress(FileNotFoundError):
            if self._whole and keys:
                self._call("rm", keys)
                return
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    self._call("rm_file", key)

    # Errors

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What the packages of the protocols raise, in the project's words; FileNotFoundError stays."""
        try:
            with waiting():
                yield
        except FileNotFoundError as exc:
            if _code(exc) in _NO_BUCKET:
                raise self._named(exc) from exc
            raise
        except LumiplyError:
            raise
        except Exception as exc:
            raise self._named(exc) from exc

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """The same, where nothing has to be there but the bucket."""
        try:
            with self._reading():
                yield
        except FileNotFoundError as exc:
            raise self._named(exc) from exc

    def _named(self, exc: BaseException) -> LumiplyError:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT) or _code(exc) in _FULL:
            return StorageFullError()
        if isinstance(exc, FileNotFoundError):
            next_step = "Make that bucket, or name another in LUMIPLY_RESULTS_URL."
        elif isinstance(exc, PermissionError) or "Credentials" in type(exc).__name__:
            next_step = (
                "Give the server credentials that may list, read, write and delete there"
                " (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role)."
            )
        else:
            next_step = (
                "See that it can be reached from here (for S3 servers of your own: AWS_ENDPOINT_URL_S3)."
            )
        text = " ".join(str(exc).split())[:300] or type(exc).__name__
        if isinstance(exc, FSTimeoutError):
            text = f"no answer within {LIMIT_S:g} s"
        return StorageUnavailableError(f"results_url={self._url} cannot be used: {text}. {next_step}")


def _place(recipe: Recipe) -> str:
    return recipe.fingerprint[:32]


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _modified(info: Mapping[str, Any]) -> datetime:
    """When a file was written last, by whatever name its protocol gives that."""
    names = ("LastModified", "last_modified", "mtime", "updated", "created")
    when = next((info[name] for name in names if info.get(name) is not None), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    if isinstance(when, datetime):
        return when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return datetime.fromtimestamp(float(when), tz=timezone.utc)


def _code(exc: BaseException | None) -> str:
    """The code by which an S3 server refused, if that is at the root of it."""
    while exc is not None:
        answer = getattr(exc, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
        exc = exc.__cause__
    return ""
