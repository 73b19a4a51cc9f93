"""The published weights, from the Hugging Face hub: whole, checked, and resumed where an earlier try stopped.

`huggingface_hub` finds, authorises and transfers. What it does not do any more since 1.0 is to keep the part of a
file that a stopped program had received; here it stays beside its place, as `.NAME.HASH.part`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal
from urllib.parse import urlsplit

from lumiply.errors import FetchError
from lumiply.files import sync_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LUMIPLY: Final = "EthanYJ/Lumiply"
LUMINET: Final = "xyxingx/LumiNet"

#: What of `xyxingx/LumiNet` has a use here; all of it goes into `ckpt/`.
LUMINET_FILES: Final = ("LumiNet.ckpt", "new_decoder.ckpt", "last.pth.tar")

_SUFFIXES: Final = (".ckpt", ".pth", ".tar", ".safetensors")

#: Bytes that must stay free on the disk beside what is downloaded.
_SPARE: Final = 64 * 2**20

Place = Literal["ckpt", "adaptors"]


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        repo, revision, path: where it is; the revision is a commit.
        place: which of our folders it goes into.
        size: bytes.
        digest: SHA-256 of a large file, git's SHA-1 of a small one; hexadecimal.
    """

    repo: str
    revision: str
    path: str
    place: Place
    size: int
    digest: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Fetched:
    """What became of one file: `state` is "there" (it was already), "missing" (dry run) or "fetched"."""

    file: RemoteFile
    path: Path
    state: Literal["there", "missing", "fetched"]


class Hub:
    """A hub to fetch from.

    Args:
        endpoint: its address; `HF_ENDPOINT`, else huggingface.co, if None.
        token: who asks; `HF_TOKEN`, else what `hf auth login` stored, else Colab's secret, if None.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self._endpoint: str = (endpoint or constants.ENDPOINT).rstrip("/")
        self._token = token or get_token()
        self._api: HfApi = HfApi(endpoint=self._endpoint, token=self._token or False)

    def lumiply_files(self) -> list[RemoteFile]:
        """Everything in `ckpt/` and `adaptors/` of the project's repository.

        Raises:
            FetchError: it cannot be read, or holds no weights there.
        """
        found = [
            file
            for place in ("ckpt", "adaptors")
            for file in self._list(LUMIPLY, place, lambda path, place=place: path.parts[:-1] == (place,))  # type: ignore[misc]
        ]
        if not found:
            raise FetchError(
                f"{self._page(LUMIPLY)} holds no weights in ckpt/ or adaptors/ at the moment. Look there under"
                " 'Files'; whoever publishes it may have moved them."
            )
        return found

    def luminet_files(self, names: Sequence[str]) -> list[RemoteFile]:
        """These of `LUMINET_FILES`, wherever in LumiNet's repository they stand.

        Raises:
            FetchError: it cannot be read, or a file is not there.
        """
        found = {file.name: file for file in self._list(LUMINET, "ckpt", lambda path: path.name in names)}
        missing = [name for name in names if name not in found]
        if missing:
            raise FetchError(
                f"{' and '.join(missing)}: not in {self._page(LUMINET)} any more. Look there under 'Files' for its"
                " new name, download it by hand and put it into ckpt/ as the name above."
            )
        return [found[name] for name in names]

    def fetch(self, file: RemoteFile, folder: Path) -> Fetched:
        """Download one file into `folder`, going on where an earlier try stopped, and check its size and hash.

        Raises:
            FetchError: it cannot be had; the sentence says what to do. What was received stays.
        """
        path = folder / file.name
        if is_there(file, path):
            return Fetched(file, path, "there")
        url, headers = self._locate(file)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{file.name}.{file.digest[:16]}.part"
            self._transfer(file, url, headers, part)
            if digest_of(part, file) != file.digest:
                part.unlink()
                raise FetchError(
                    f"{file.name}: what arrived is not what {self._page(file.repo)} holds (the hash differs), so it"
                    " was thrown away. Run the same again."
                )
            os.replace(part, path)
            sync_folder(folder)
        except OSError as exc:
            raise self._explain_disk(exc, file, folder) from exc
        return Fetched(file, path, "fetched")

    def _list(self, repo: str, place: Place, wanted: Callable[[PurePosixPath], bool]) -> list[RemoteFile]:
        try:
            info = self._api.model_info(repo, files_metadata=True, timeout=30)
        except Exception as exc:
            raise self._explain(exc, repo) from exc
        files = []
        for entry in info.siblings or []:
            path = PurePosixPath(entry.rfilename)
            if path.name.endswith(_SUFFIXES) and wanted(path):
                digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
                files.append(RemoteFile(repo, str(info.sha), str(path), place, entry.size or 0, str(digest)))
        return files

    def _locate(self, file: RemoteFile) -> tuple[str, dict[str, str]]:
        """Address of a file's bytes, and what to send there: no token to another host."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=self._endpoint)
        try:
            found = get_hf_file_metadata(url, token=self._token or False, timeout=30)
        except Exception as exc:
            raise self._explain(exc, file.repo, file.path) from exc
        headers = build_hf_headers(token=self._token or False)
        if urlsplit(found.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)
        return found.location, headers

    def _transfer(self, file: RemoteFile, url: str, headers: dict[str, str], part: Path) -> None:
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
        from tqdm import tqdm

        disable_progress_bars()  # the client's own shows nothing in notebooks and logs
        received = part.stat().st_size if part.is_file() else 0
        if received > file.size:
            part.unlink()
            received = 0
        bar = tqdm(total=file.size, initial=received, unit="B", unit_scale=True, desc=file.name)
        with bar, part.open("ab") as stream:
            try:
                http_get(
                    url,
                    _Counted(stream, bar),  # type: ignore[arg-type]
                    resume_size=received,
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=file.name,
                )
                stream.flush()
                os.fsync(stream.fileno())
            except OSError as exc:
                if exc.errno is not None:  # the disk's own
                    raise
                raise self._explain(exc, file.repo, file.path) from exc
            except Exception as exc:
                raise self._explain(exc, file.repo, file.path) from exc

    def _page(self, repo: str) -> str:
        return f"{self._endpoint}/{repo}"

    def _explain_disk(self, error: OSError, file: RemoteFile, folder: Path) -> FetchError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return no_space(folder, file.size)
        return FetchError(
            f"{file.name}: cannot be written to {folder} ({error.strerror}). Choose another folder with"
            " LUMIPLY_CKPT_DIR or LUMIPLY_ADAPTORS_DIR."
        )

    def _explain(self, error: Exception, repo: str, path: str = "") -> FetchError:
        """The hub's refusal as a sentence that says what to click."""
        from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

        page, status = self._page(repo), _status(error)
        if isinstance(error, EntryNotFoundError):
            return FetchError(
                f"{path}: not in {page} any more. Look there under 'Files', and run the same again."
            )
        if isinstance(error, GatedRepoError) and self._token:
            return FetchError(
                f"{page} has conditions that your account has not accepted. Open it, log in, click"
                " 'Agree and access repository', then run the same again."
            )
        if status == 401 and self._token and not isinstance(error, RepositoryNotFoundError):
            return FetchError(
                f"{self._endpoint} does not know the token (HF_TOKEN, or what `hf auth login` stored). Make a new"
                f" one at {self._endpoint}/settings/tokens (type 'Read') and set it."
            )
        if status in (401, 403) and not self._token:
            return FetchError(
                f"{page} wants to know who asks, and you are not logged in. Make a token of type 'Read' at"
                f" {self._endpoint}/settings/tokens; run `hf auth login`, or set HF_TOKEN (on Colab: the key sign at"
                " the left, a secret HF_TOKEN). If the page shows conditions, accept them there too."
            )
        if isinstance(error, RepositoryNotFoundError):
            return FetchError(
                f"{page} does not exist, or is private. Open it in a browser to see which; for a private one, log in"
                " with `hf auth login` as someone who may read it."
            )
        if status is not None:
            return FetchError(
                f"{page} answered {status}. Try again later; what was received is kept and not fetched again."
            )
        return FetchError(
            f"{self._endpoint} cannot be reached, or the connection broke ({type(error).__name__}). Check the"
            " network and run the same again: it goes on where it stopped."
        )


class _Counted:
    """A file that is written to, whose growth a progress bar shows."""

    def __init__(self, stream: BinaryIO, bar: Any) -> None:
        self._stream = stream
        self._bar = bar

    def write(self, data: bytes) -> int:
        count = self._stream.write(data)
        self._bar.update(count)
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def fetch_all(
    hub: Hub,
    files: Sequence[RemoteFile],
    folders: dict[Place, Path],
    *,
    dry_run: bool = False,
    on_file: Callable[[Fetched], Any] = lambda fetched: None,
) -> list[Fetched]:
    """Fetch what is not there yet; `on_file` hears of each file as it is done.

    Raises:
        FetchError: there is no space for all of it, and nothing was begun; or a file cannot be had.
    """
    wanted: dict[Path, int] = {}
    for file in files:
        folder = folders[file.place]
        if not (folder / file.name).is_file():
            wanted[folder] = wanted.get(folder, 0) + file.size - _received(file, folder)
    if not dry_run:
        _require_space(wanted)
    done = []
    for file in files:
        path = folders[file.place] / file.name
        if dry_run:
            done.append(Fetched(file, path, "there" if is_there(file, path) else "missing"))
        else:
            done.append(hub.fetch(file, folders[file.place]))
        on_file(done[-1])
    return done


def is_there(file: RemoteFile, path: Path) -> bool:
    """Whether `path` is exactly this file."""
    return path.is_file() and path.stat().st_size == file.size and digest_of(path, file) == file.digest


def digest_of(path: Path, file: RemoteFile) -> str:
    """The digest of what stands at `path`, of the kind that `file` has."""
    if len(file.digest) == 64:
        digest = hashlib.sha256()
    else:  # a git blob
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def no_space(folder: Path, needed: int) -> FetchError:
    """Says that the disk of `folder` is too full for `needed` bytes more."""
    free = shutil.disk_usage(_nearest(folder)).free
    return FetchError(
        f"No space: {folder} needs {needed / 1e9:.1f} GB and has {free / 1e9:.1f} GB free. Delete something there, or"
        " choose another disk with LUMIPLY_CKPT_DIR and LUMIPLY_ADAPTORS_DIR. What was received is kept."
    )


def _require_space(wanted: dict[Path, int]) -> None:
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, size in wanted.items():
        disk = _nearest(folder).stat().st_dev
        by_disk[disk] = (folder, by_disk.get(disk, (folder, 0))[1] + size)
    for folder, size in by_disk.values():
        if size and shutil.disk_usage(_nearest(folder)).free < size + _SPARE:
            raise no_space(folder, size + _SPARE)


def _received(file: RemoteFile, folder: Path) -> int:
    part = folder / f".{file.name}.{file.digest[:16]}.part"
    return min(file.size, part.stat().st_size) if part.is_file() else 0


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    status: int | None = getattr(response, "status_code", None)
    return status
