"""What is known of a job, and how it is written down: `.job.json` in the job's folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any, Final

#: Counts up when the same inputs would make other files than before.
FORMAT: Final = 2

#: The code of a colour that was under way when the server ended.
INTERRUPTED: Final = "interrupted"


@dataclass(frozen=True)
class Recipe:
    """All that makes a picture what it is, except its colour.

    Attributes:
        photo: SHA-256 of the upload, hexadecimal.
        seed, steps, jpeg_quality: as rendered and saved.
        preset: name of the engine's preset; empty for its own way.
        engine: fingerprint of the engine and its weights.
    """

    photo: str
    seed: int
    steps: int
    preset: str
    jpeg_quality: int
    engine: str

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything, hexadecimal."""
        parts = [FORMAT, self.photo, self.seed, self.steps, self.preset, self.jpeg_quality, self.engine]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Failure:
    """Why a colour did not come: a stable code and a sentence for a person."""

    code: str
    error: str


@dataclass
class JobRecord:
    """A job as it stands on disk.

    Attributes:
        created, updated: ISO 8601, UTC.
        recipe: what made the stored files; None while there are none.
        files: the stored public files by name, with their sizes in bytes.
        asked: the last recipe asked for;
        pending: its colours that have neither come nor failed, and
        failures: its colours that failed, with the reasons.
        begun: ISO 8601, UTC: when colours were last put under way, and
        server: by which server.
    """

    job_id: str
    created: str
    updated: str
    recipe: Recipe | None = None
    files: dict[str, int] = field(default_factory=dict)
    asked: Recipe | None = None
    pending: tuple[str, ...] = ()
    failures: dict[str, Failure] = field(default_factory=dict)
    begun: str = ""
    server: str = ""

    @classmethod
    def new(cls, job_id: str) -> JobRecord:
        """A job that was asked for just now."""
        now = now_iso()
        return cls(job_id, now, now)

    def to_json(self) -> bytes:
        """As written to disk."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> JobRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else, or of another format.
        """
        try:
            raw = json.loads(data)
            if raw.pop("format") != FORMAT:
                raise ValueError("written by another version")
            raw["recipe"], raw["asked"] = _recipe(raw["recipe"]), _recipe(raw["asked"])
            raw["pending"] = tuple(map(str, raw["pending"]))
            raw["files"] = {str(name): int(size) for name, size in raw["files"].items()}
            raw["failures"] = {str(color): Failure(**why) for color, why in raw["failures"].items()}
            return cls(**raw)
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not a job's record: {exc!r}") from exc


def _recipe(raw: Mapping[str, Any] | None) -> Recipe | None:
    return None if raw is None else Recipe(**raw)


def now_iso() -> str:
    """Now, ISO 8601, UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
