"""Results on disk: a folder a job, with the photo, one picture a colour, and a manifest that says what made them.

The manifest is removed first and written last, so results that have one are complete and belong together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from werkzeug.security import safe_join

from lumiply.colors import COLORS
from lumiply.errors import InvalidJobIdError
from lumiply.files import sync_folder, write_whole
from lumiply.images import encode_jpeg

log = logging.getLogger(__name__)

PHOTO_NAME: Final = "off.png"
SHEET_NAME: Final = "sheet.jpg"
MANIFEST_NAME: Final = ".job.json"

#: Counts up when the same inputs would make other files than before.
_FORMAT: Final = 1

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


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


@dataclass(frozen=True)
class Recipe:
    """All that makes a result what it is.

    Attributes:
        photo: SHA-256 of the upload, hexadecimal.
        colors: what is rendered.
        seed, steps, jpeg_quality: as rendered and saved.
        engine: fingerprint of the engine and its weights.
    """

    photo: str
    colors: tuple[str, ...]
    seed: int
    steps: int
    jpeg_quality: int
    engine: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything, hexadecimal."""
        parts = [_FORMAT, self.photo, self.colors, self.seed, self.steps, self.jpeg_quality, self.engine]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Encoded:
    """The files of one finished render, by public name."""

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, photo_file: bytes, pictures: Mapping[str, Image.Image], jpeg_quality: int) -> Encoded:
        """The photo, a PNG file already, and its pictures by colour."""
        files = {PHOTO_NAME: photo_file}
        files.update({output_name(color): encode_jpeg(pic, jpeg_quality) for color, pic in pictures.items()})
        return cls(files)


class JobStore:
    """The results under one folder. One writer at a time; readers need no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def folder(self, job_id: str) -> Path:
        """The folder of a job, which need not exist.

        Raises:
            InvalidJobIdError: `job_id` is no plain name, or leads out of the root.
        """
        joined = safe_join(str(self.root), require_job_id(job_id))
        if joined is None or Path(joined).parent != self.root:
            raise InvalidJobIdError
        return Path(joined)

    def holds(self, job_id: str, fingerprint: str) -> bool:
        """Whether all results of exactly this recipe are there."""
        folder = self.folder(job_id)
        try:
            manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
            return bool(manifest["fingerprint"] == fingerprint) and all(
                (folder / name).is_file() for name in manifest["files"]
            )
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError) as exc:
            log.warning("job %s: manifest not readable, rendering again: %s", job_id, exc)
            return False

    def write(self, job_id: str, recipe: Recipe, encoded: Encoded) -> None:
        """Replace whatever the job holds by these results.

        Raises:
            OSError: a file could not be written; the job then holds nothing that counts.
        """
        folder = self.folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        self.clear(job_id)
        for name, data in encoded.files.items():
            write_whole(folder / name, data)
        manifest = {
            "fingerprint": recipe.fingerprint,
            "files": sorted(encoded.files),
            "photo": recipe.photo,
            "seed": recipe.seed,
            "steps": recipe.steps,
            "jpeg_quality": recipe.jpeg_quality,
            "engine": recipe.engine,
        }
        write_whole(folder / MANIFEST_NAME, json.dumps(manifest, indent=1).encode())

    def clear(self, job_id: str) -> None:
        """Remove the job's results, its manifest first. Other files in its folder stay."""
        folder = self.folder(job_id)
        if not folder.is_dir():
            return
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        sync_folder(folder)
        for name in PUBLIC_NAMES:
            (folder / name).unlink(missing_ok=True)
