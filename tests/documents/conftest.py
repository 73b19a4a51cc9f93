"""A reader's folder, where the project's models are of milliseconds, and what is given there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench import photo_of
from lumiply import config
from lumiply.api import build_engine
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.engine.protocol import Engine
from lumiply.hub import LUMINET, LUMIPLY, Hub
from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.server.tunnel import NoTunnel
from lumiply.settings import Settings
from lumiply.weights import save_adaptor
from tests.documents.shell import Shell, as_it_was
from tests.fakes import FakeEngine, photo_bytes
from tests.hub import FakeHub, Repo
from tests.nano import nano_adaptor
from tests.photos import make_scene, make_scenes
from tests.training.nano_files import write_own_nano, write_published_nano

#: Files that documents speak of as the reader's own.
PHOTOS = ("room.jpg", "photo.jpg", "a.jpg", "b.jpg", "images/sample_room.png")
OTHERS = [color for color in COLORS if color != BASE_COLOR]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files, by path, of a model of milliseconds."""
    folder = tmp_path_factory.mktemp("published")
    write_published_nano(folder / "ckpt")
    (folder / "adaptors").mkdir()
    for color in OTHERS:
        save_adaptor(folder / "adaptors" / f"adaptor_{color}.pth", nano_adaptor(color))
    return folder


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder, before anything is done in it."""
    folder = tmp_path_factory.mktemp("furnished")
    for photo in PHOTOS:
        (folder / photo).parent.mkdir(exist_ok=True)
        (folder / photo).write_bytes(photo_bytes(format="PNG" if photo.endswith("png") else "JPEG"))
    for photos in ("photos", "SOURCE"):
        make_scenes(folder / photos, 4, "off", "on", "red", "blue")
    scene = make_scene(folder / "photos" / "lamp_01", "off", "on", "red", seed=9)
    (scene / "off.jpg").write_bytes(photo_bytes(size=(24, 16), format="JPEG"))
    (scene / "off.png").unlink()
    (scene / "output_red.png").write_bytes(photo_bytes(size=(24, 16)))
    write_own_nano(folder / "ckpt" / "mini")
    for color in OTHERS:
        save_adaptor(folder / "ckpt" / "mini" / f"adaptor_{color}.safetensors", nano_adaptor(color))
    return folder


def bytes_of(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, furnished: Path, published: Path
) -> Iterator[Path]:
    """A reader's folder, with what the documents take for granted; returns it.

    Both configurations of the project are those of the nano model, and its weights are the embedded ones.
    """
    for name in list(os.environ):
        if name.startswith(("LUMIPLY_", "HF_")) or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(furnished, tmp_path, dirs_exist_ok=True)
    nano = str(tmp_path / "ckpt" / "mini" / "nano.yaml")
    monkeypatch.setattr(config, "FILES", dict.fromkeys(config.FILES, nano))

    def engine(settings: Settings) -> Engine:  # Ray itself is started in tests/cluster
        return FakeEngine() if settings.engine == "ray" else build_engine(settings)

    monkeypatch.setattr("lumiply.api.build_engine", engine)
    monkeypatch.setattr("benchmarks.bench.photo_of", lambda width, height: photo_of(64, 48))
    monkeypatch.setattr("lumiply.commands.serve.wait", lambda stop, *rest: stop.set())
    monkeypatch.setattr("lumiply.commands.serve.choose_tunnel", lambda settings: NoTunnel("a test"))
    ours = bytes_of(published, "ckpt/trained_crossattn.ckpt", "adaptors/*")
    theirs = bytes_of(published / "ckpt", "new_decoder.ckpt")
    repos = {
        LUMIPLY: Repo(ours),
        LUMINET: Repo({**theirs, "last.pth.tar": b"l" * 100}, True, ("hf_good",)),
    }
    with FakeHub(repos) as hub, as_it_was():
        monkeypatch.setattr("lumiply.commands.fetch.Hub", lambda: Hub(hub.url, "hf_good"))
        yield tmp_path


@pytest.fixture
def shell(reader: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    app = create_app(Settings(results_dir=reader / "served"), FakeEngine())
    yield Shell(app.test_client(), monkeypatch)
    site_of(app).close()
