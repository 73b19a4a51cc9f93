"""What jobs and their files may be called."""

from __future__ import annotations

import re
from typing import Final

from lumiply.colors import COLORS
from lumiply.errors import InvalidJobIdError

PHOTO_NAME: Final = "off.png"
SHEET_NAME: Final = "sheet.jpg"
RECORD_NAME: Final = ".job.json"

#: What a job id may be.
JOB_ID_PATTERN: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

_JOB_ID: Final = re.compile(JOB_ID_PATTERN, re.ASCII)


def output_name(color: str) -> str:
    """File name of the result in one colour; part of the HTTP contract."""
    return f"output_{color}.jpg"


#: Names of all files of a job that are served to the public.
PUBLIC_NAMES: Final = frozenset({PHOTO_NAME, SHEET_NAME, *map(output_name, COLORS)})


def is_job_id(text: str) -> bool:
    """Whether `text` is a plain name: ASCII letters, digits, `-`, `_`, `.`; at most 128 of them."""
    return _JOB_ID.fullmatch(text) is not None


def require_job_id(job_id: str) -> str:
    """Return `job_id` if it is a plain name.

    Raises:
        InvalidJobIdError: it is not.
    """
    if not is_job_id(job_id):
        raise InvalidJobIdError
    return job_id
