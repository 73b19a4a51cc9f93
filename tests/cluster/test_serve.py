"""`lumiply serve --engine ray` as a program: it starts Ray, answers, and ends in order when it is told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from lumiply.client import Client
from lumiply.colors import COLORS
from lumiply.settings import Settings
from tests.fakes import photo_bytes

ROOT = Path(__file__).parents[2]
#: As docs/scaling.md has it.
LINE = "lumiply serve --engine ray --replicas 2"


def test_it_answers_and_ends_in_order(cluster: Settings, tmp_path: Path) -> None:
    photo = tmp_path / "room.png"
    photo.write_bytes(photo_bytes(size=(300, 300)))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LUMIPLY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", *LINE.split(), "--model", "mini", "--device", "cpu", "--port", "0",
         "--results-dir", str(tmp_path / "results")],
        cwd=ROOT, env=clean | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = ""
        while "Ready" not in told:
            line = process.stdout.readline()
            assert line, told
            told += line
        url = re.search(r"serves at (\S+)", told)
        assert url is not None
        assert tuple(Client(url[1]).relight(photo).images) == COLORS
        process.send_signal(signal.SIGTERM)
        assert "Stopped." in process.communicate(timeout=60)[0]
        assert process.returncode == 0
    finally:
        process.kill()
