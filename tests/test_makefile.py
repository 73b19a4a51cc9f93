"""The Makefile's first step, which meets whatever Python a machine has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("version", [(3, 9, 2), (3, 14, 0)])
def test_a_python_that_will_not_do_is_refused_before_anything_is_made(
    version: tuple[int, int, int], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    pretend = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}" "$2"\n')
    python.chmod(0o755)
    made = tmp_path / "venv"
    ended = subprocess.run(
        ["make", "demo", f"PYTHON={python}", f"VENV={made}"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 2 and not made.exists()
    said = f"Python 3.10 to 3.13 is needed, and {python} is {version[0]}.{version[1]}. Install one"
    assert said in ended.stderr
