"""On one machine nothing changes: Ray and fsspec are imported only if asked for, and missed in a sentence."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lumiply.errors import CancelledError, SettingsError, StorageFullError, UnknownColorError
from lumiply.settings import Settings

ROOT = Path(__file__).parents[2]

#: Importing what the extra brings fails, as where it is not installed, and is remembered.
BLOCK = """
import sys
asked = []
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "fsspec", "s3fs"):
            asked.append(name)
            raise ImportError(f"no {name} here", name=name)
sys.meta_path.insert(0, Block())
"""
SERVE = """
import lumiply, lumiply.commands.serve as command
from lumiply.cli import main
command.wait = lambda stop, slot: stop.set()
try:
    main(["serve", "--port", "0", "--model", "mini", *sys.argv[1:]])
finally:
    print("asked for:", asked)
"""


def serve(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LUMIPLY_")}
    paths = {"ckpt_dir": ROOT / "ckpt", "adaptors_dir": ROOT / "adaptors"}
    given = [word for name, path in paths.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    return subprocess.run(
        [sys.executable, "-c", BLOCK + SERVE, *given, *options],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
    )


def test_a_server_without_the_options_never_asks_for_ray_or_fsspec(tmp_path):
    ended = serve(tmp_path, "--results-dir", str(tmp_path / "results"))
    assert ended.returncode == 0, ended.stderr
    assert "Ready: lumiply-mini" in ended.stdout and "asked for: []" in ended.stdout


@pytest.mark.parametrize(
    "options", [("--engine", "ray"), ("--results-url", "s3://bucket/prefix")], ids=["ray", "fsspec"]
)
def test_with_an_option_and_without_the_extra_the_next_step_is_said(tmp_path, options):
    ended = serve(tmp_path, *options)
    assert ended.returncode == 2
    assert "pip install 'lumiply[cluster]'" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.parametrize("replicas", ["0", "4..2", "1..", "many", "-1", "1...2"])
def test_replicas_that_cannot_be_meant_are_refused(replicas):
    with pytest.raises(SettingsError, match=r"a number such as 4, or least\.\.most"):
        Settings(engine="ray", replicas=replicas)


@pytest.mark.parametrize(
    "given, hint",
    [
        ({"replicas": "2"}, "LUMIPLY_ENGINE=ray"),
        ({"ray_address": "auto"}, "LUMIPLY_ENGINE=ray"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray chooses each replica's GPU"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, hint):
    with pytest.raises(SettingsError, match=hint):
        Settings(**given)


@pytest.mark.parametrize(
    "error", [UnknownColorError("pink"), StorageFullError(2_000_000, 1), CancelledError("no longer wanted")]
)
def test_errors_come_over_the_wire_as_they_are(error):
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is type(error) and str(came) == str(error) and vars(came) == vars(error)
