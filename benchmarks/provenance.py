"""Which state of the code a report is about. Imports nothing heavy: servers under test import it too."""

from __future__ import annotations

import os
import subprocess


def commit() -> str:
    """Of the working tree; a machine without git may be told in the variable COMMIT."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"
