"""`lumiply fetch` with the real client library against a hub on localhost."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from lumiply import hub as hub_module
from lumiply import notebook
from lumiply.errors import FetchError, UserError
from lumiply.hub import LUMINET, LUMIPLY, Fetched, Hub, Place, fetch_all
from lumiply.settings import Settings
from tests.fakes import PATIENCE_S
from tests.hub import FakeHub, Repo

ROOT = Path(__file__).parents[1]
#: More than the client library hands on at once (10 MiB), twice.
BIG = random.Random(1).randbytes(24_000_000)


@pytest.fixture
def remote() -> Iterator[FakeHub]:
    repos = {
        LUMIPLY: Repo(
            {
                "README.md": b"words",
                "ckpt/trained_crossattn.ckpt": BIG,
                "ckpt/notes.txt": b"no weights",
                "adaptors/adaptor_red.pth": b"r" * 5000,
                "adaptors/tiny.safetensors": b"small file",
                "else/other.ckpt": b"o" * 50,
            }
        ),
        LUMINET: Repo(
            {
                "LumiNet.ckpt": b"L" * 900,
                "checkpoints/new_decoder.ckpt": b"D" * 800,
                "last.pth.tar": b"T" * 700,
            },
            gated=True,
            readers=("hf_good",),
        ),
    }
    with FakeHub(repos) as hub:
        yield hub


@pytest.fixture
def folders(tmp_path: Path) -> dict[Place, Path]:
    return {"ckpt": tmp_path / "ckpt", "adaptors": tmp_path / "adaptors"}


def command(remote: FakeHub, folder: Path, token: str | None = None, *words: str) -> subprocess.Popen[str]:
    """`lumiply fetch` as a program of its own, in `folder`."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LUMIPLY_"))
    }
    variables |= {"HF_ENDPOINT": remote.url, "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)}
    if token:
        variables["HF_TOKEN"] = token
    line = [sys.executable, "-m", "lumiply", "fetch", *words]
    return subprocess.Popen(
        line, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_everything_of_ckpt_and_adaptors_arrives_with_progress(remote: FakeHub, tmp_path: Path) -> None:
    out, err = (program := command(remote, tmp_path)).communicate(timeout=60)
    assert program.returncode == 0, err
    assert (tmp_path / "ckpt" / "trained_crossattn.ckpt").read_bytes() == BIG
    assert (tmp_path / "adaptors" / "adaptor_red.pth").read_bytes() == b"r" * 5000
    assert (tmp_path / "adaptors" / "tiny.safetensors").read_bytes() == b"small file"
    assert sorted(path.name for path in tmp_path.glob("*/*.*")) == [
        "adaptor_red.pth",
        "tiny.safetensors",
        "trained_crossattn.ckpt",
    ]
    assert "3 files" in out and "ckpt/trained_crossattn.ckpt: fetched (24.00 MB" in out
    assert "trained_crossattn.ckpt: 100%" in err


def test_what_is_there_is_not_fetched_again(remote: FakeHub, folders: dict[Place, Path]) -> None:
    hub = Hub(remote.url, "hf_good")
    files = hub.lumiply_files()
    assert [one.state for one in fetch_all(hub, files, folders, dry_run=True)] == ["missing"] * 3
    assert not folders["ckpt"].exists() and remote.gets == []
    fetch_all(hub, files, folders)
    assert [one.state for one in fetch_all(hub, files, folders)] == ["there"] * 3
    assert len(remote.gets) == 3
    (folders["adaptors"] / "adaptor_red.pth").write_bytes(b"x" * 5000)  # right size, wrong content
    heard: list[Fetched] = []
    fetch_all(hub, files, folders, on_file=heard.append)
    assert [one.state for one in heard] == ["there", "fetched", "there"]


def test_the_token_is_not_sent_to_the_host_of_the_bytes(remote: FakeHub, folders: dict[Place, Path]) -> None:
    hub = Hub(remote.url, "hf_good")
    fetch_all(hub, hub.luminet_files(["new_decoder.ckpt"]), folders)
    assert remote.gets == [("checkpoints/new_decoder.ckpt", None, None)]
    assert (folders["ckpt"] / "new_decoder.ckpt").read_bytes() == b"D" * 800


def test_a_killed_download_goes_on_where_it_stopped(remote: FakeHub, tmp_path: Path) -> None:
    remote.cut = 22_000_000
    program = command(remote, tmp_path)
    assert remote.half_sent.wait(PATIENCE_S * 3)
    try:
        (part,) = _wait_for_part(tmp_path / "ckpt")
    finally:
        program.kill()
        program.communicate(timeout=10)
    kept = part.stat().st_size
    assert 0 < kept < len(BIG)
    assert not (tmp_path / "ckpt" / "trained_crossattn.ckpt").exists()
    remote.cut = None
    out, err = (program := command(remote, tmp_path)).communicate(timeout=60)
    assert program.returncode == 0, err
    assert remote.gets[1][1] == f"bytes={kept}-"
    assert (tmp_path / "ckpt" / "trained_crossattn.ckpt").read_bytes() == BIG
    assert list(tmp_path.glob("*/.*.part")) == []


def _wait_for_part(folder: Path) -> list[Path]:
    """The parts of files in `folder`, once one has bytes on the disk."""
    for _ in range(int(PATIENCE_S / 0.02)):
        found = [path for path in folder.glob(".*.part") if path.stat().st_size > 0]
        if found:
            return found
        threading.Event().wait(0.02)
    raise TimeoutError("no part of a file")


def test_wrong_bytes_are_thrown_away(remote: FakeHub, folders: dict[Place, Path]) -> None:
    remote.forge["adaptors/adaptor_red.pth"] = b"x" * 5000
    hub = Hub(remote.url, "hf_good")
    files = [file for file in hub.lumiply_files() if file.name == "adaptor_red.pth"]
    with pytest.raises(FetchError, match=r"adaptor_red.pth: .*the hash differs.* Run the same again"):
        fetch_all(hub, files, folders)
    assert list(folders["adaptors"].iterdir()) == []
    remote.forge.clear()
    assert fetch_all(hub, files, folders)[0].state == "fetched"


@pytest.mark.parametrize(
    ("token", "parts"),
    [
        (None, ["not logged in", "/settings/tokens", "hf auth login", "HF_TOKEN"]),
        ("hf_other", ["conditions", "xyxingx/LumiNet", "'Agree and access repository'"]),
        ("hf_forged", ["does not know the token", "/settings/tokens"]),
    ],
)
def test_a_refusal_says_what_to_click(
    remote: FakeHub, tmp_path: Path, token: str | None, parts: list[str]
) -> None:
    words = ("--no-lumiply", "--luminet", "all")
    out, err = (program := command(remote, tmp_path, token, *words)).communicate(timeout=60)
    assert program.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("lumiply: error: ") and all(part in last for part in parts)
    assert token is None or token not in out + err


def test_a_file_that_is_gone_is_named(remote: FakeHub, folders: dict[Place, Path]) -> None:
    hub = Hub(remote.url, "hf_good")
    files = hub.luminet_files(["last.pth.tar"])
    del remote.repos[LUMINET].files["last.pth.tar"]
    with pytest.raises(FetchError, match=r"last.pth.tar: not in .*/xyxingx/LumiNet any more"):
        hub.luminet_files(["last.pth.tar"])
    with pytest.raises(FetchError, match="last.pth.tar: not in"):  # gone between look-up and download
        fetch_all(hub, files, folders)
    remote.repos[LUMIPLY].files = {"README.md": b"words"}
    with pytest.raises(FetchError, match="EthanYJ/Lumiply holds no weights"):
        hub.lumiply_files()
    del remote.repos[LUMIPLY]
    with pytest.raises(FetchError, match="does not exist, or is private"):
        hub.lumiply_files()


def test_no_space_is_said_before_anything_is_fetched(
    remote: FakeHub, folders: dict[Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9e9, 8e9, 1_000_000))
    hub = Hub(remote.url, "hf_good")
    with pytest.raises(FetchError, match=r"No space: .* needs 0.1 GB and has 0.0 GB free.*LUMIPLY_CKPT_DIR"):
        fetch_all(hub, hub.lumiply_files(), folders)
    assert remote.gets == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_meanwhile_is_the_same_sentence(
    remote: FakeHub, folders: dict[Place, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(remote.url, "hf_good")
    files = [file for file in hub.lumiply_files() if file.place == "ckpt"]
    folders["ckpt"].mkdir()
    part = folders["ckpt"] / f".{files[0].name}.{files[0].digest[:16]}.part"
    part.symlink_to("/dev/full")  # every write to it fails as on a full disk
    with pytest.raises(FetchError, match="No space"):
        fetch_all(hub, files, folders)


def test_a_hub_that_is_not_there_is_said(folders: dict[Place, Path]) -> None:
    with pytest.raises(FetchError, match="cannot be reached.*goes on where it stopped"):
        Hub("http://127.0.0.1:9", "hf_good").lumiply_files()


def test_json_for_scripts_and_a_wish_for_nothing(remote: FakeHub, tmp_path: Path) -> None:
    out, err = (program := command(remote, tmp_path, None, "--dry-run", "--json")).communicate(timeout=60)
    assert program.returncode == 0, err
    assert [(Path(one["path"]).name, one["state"]) for one in json.loads(out)] == [
        ("trained_crossattn.ckpt", "missing"),
        ("adaptor_red.pth", "missing"),
        ("tiny.safetensors", "missing"),
    ]
    program = command(remote, tmp_path, None, "--no-lumiply")
    assert "Nothing is asked for" in program.communicate(timeout=60)[1]
    assert program.returncode == 2


def test_lumiplys_own_file_wins_over_luminets(remote: FakeHub, tmp_path: Path) -> None:
    remote.repos[LUMIPLY].files["ckpt/new_decoder.ckpt"] = b"own" * 100
    words = ("--luminet", "new_decoder.ckpt", "--json")
    out, err = (program := command(remote, tmp_path, "hf_good", *words)).communicate(timeout=60)
    assert program.returncode == 0, err
    assert (tmp_path / "ckpt" / "new_decoder.ckpt").read_bytes() == b"own" * 100
    assert {one["repo"] for one in json.loads(out)} == {LUMIPLY}


def test_the_notebook_fetches_the_same_and_says_it_in_words(
    remote: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "Hub", functools.partial(Hub, remote.url))
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    settings = Settings(ckpt_dir=tmp_path / "ckpt", adaptors_dir=tmp_path / "adaptors")
    for state in ("fetched", "is there"):
        notebook.fetch_weights(settings, "yes", "new_decoder.ckpt")
        told = capsys.readouterr().out
        assert f"{tmp_path}/ckpt/new_decoder.ckpt: {state} (0.00 MB, from {LUMINET})" in told
        assert f"{tmp_path}/adaptors/adaptor_red.pth: {state} (0.01 MB, from {LUMIPLY})" in told
        assert "hf_good" not in told
    assert (tmp_path / "ckpt" / "trained_crossattn.ckpt").read_bytes() == BIG
    with pytest.raises(UserError, match="There is no new_decoder.pth"):
        notebook.fetch_weights(settings, "yes", ("new_decoder.pth",))


def test_the_client_librarys_part_that_resumes_is_there() -> None:
    import inspect

    from huggingface_hub.file_download import http_get

    taken = inspect.signature(http_get).parameters
    assert {"resume_size", "headers", "expected_size", "displayed_filename"} <= set(taken)
    assert hub_module.LUMINET_FILES == ("LumiNet.ckpt", "new_decoder.ckpt", "last.pth.tar")
