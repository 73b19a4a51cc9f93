"""Other adaptors in a running engine: between two renders, all or nothing."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lumiply.commands.reload import reload_adaptors, reload_on_hangup
from lumiply.config import config_path, load_config
from lumiply.engine.local import Light, LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import EngineInfo
from lumiply.engine.start import initialize_engine
from lumiply.errors import EngineClosedError, RenderError, UserError, WeightsError
from lumiply.server.slot import EngineSlot
from lumiply.settings import Settings
from lumiply.weights import read_adaptor, save_adaptor
from tests.nano import nano_adaptor, nano_model

WAIT = 60.0
INFO = EngineInfo("nano", "red", "nano-0", "cpu", "float32", 64, 3, ("white", "red"))
PHOTO = Image.new("RGB", (50, 40), (90, 80, 70))
MINI = Path(__file__).parents[2] / "ckpt" / "mini"


class Shelf:
    """Adaptors to be read, and how often they were."""

    def __init__(self) -> None:
        self.adaptors = {"red": nano_adaptor("red")}
        self.reads = 0

    def read(self) -> Light:
        self.reads += 1
        return Light(
            dict(self.adaptors), replace(INFO, weights=" ".join(self.adaptors), fingerprint="nano-1")
        )


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def engine(shelf: Shelf) -> Iterator[LocalEngine]:
    pipeline = Pipeline(nano_model(), shelf.adaptors)
    engine = LocalEngine(pipeline, INFO, queue_size=2, read_light=shelf.read)
    yield engine
    engine.close(WAIT)


def picture(engine: LocalEngine, color: str) -> bytes:
    return engine.submit(PHOTO, [color]).result(WAIT)[color].tobytes()


def test_a_new_colour_and_a_new_light_are_used_and_white_stays(engine: LocalEngine, shelf: Shelf) -> None:
    white, red = picture(engine, "white"), picture(engine, "red")
    with pytest.raises(UserError, match="reload"):
        engine.submit(PHOTO, ["blue"])
    shelf.adaptors = {"red": nano_adaptor("purple"), "blue": nano_adaptor("blue")}
    info = engine.reload_adaptors()
    assert info is engine.info
    assert (info.colors, info.fingerprint, info.weights) == (("white", "red", "blue"), "nano-1", "red blue")
    fresh = Pipeline(nano_model(), shelf.adaptors)
    for color, former in (("red", red), ("blue", b"")):
        expected = fresh.relight(PHOTO, [color], seed=42, steps=3)[color].tobytes()
        assert picture(engine, color) == expected != former
    assert picture(engine, "white") == white


def test_a_colour_can_go(engine: LocalEngine, shelf: Shelf) -> None:
    shelf.adaptors = {}
    assert engine.reload_adaptors().colors == ("white",)
    with pytest.raises(UserError):
        engine.submit(PHOTO, ["red"])


def test_renders_that_were_asked_for_before_keep_the_old_light(engine: LocalEngine, shelf: Shelf) -> None:
    red = picture(engine, "red")
    entered, opened = threading.Event(), threading.Event()

    def hold(progress: object) -> None:
        entered.set()
        assert opened.wait(WAIT)

    running = engine.submit(PHOTO, ["red"], progress=hold)
    assert entered.wait(WAIT)
    waiting = engine.submit(PHOTO, ["red"])
    shelf.adaptors = {"red": nano_adaptor("purple")}
    reloading = threading.Thread(target=engine.reload_adaptors)
    reloading.start()
    opened.set()
    reloading.join(WAIT)
    assert [future.result(WAIT)["red"].tobytes() for future in (running, waiting)] == [red, red]
    assert picture(engine, "red") != red


def test_adaptors_that_cannot_be_used_change_nothing(engine: LocalEngine, shelf: Shelf) -> None:
    red = picture(engine, "red")
    broken = nano_adaptor("red")
    shelf.adaptors = {"red": replace(broken, light_encoder={})}
    with pytest.raises(RenderError, match="not reloaded"):
        engine.reload_adaptors()
    assert engine.info is INFO and picture(engine, "red") == red


def test_a_reload_that_fails_half_way_changes_nothing(
    engine: LocalEngine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    red = picture(engine, "red")
    shelf.adaptors = {name: nano_adaptor("purple") for name in ("red", "blue")}

    def full(context: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline.network, "keys_values", full)
        with pytest.raises(RenderError, match="not reloaded"):
            engine.reload_adaptors()
    assert engine.info is INFO and picture(engine, "red") == red
    with pytest.raises(UserError):
        engine.submit(PHOTO, ["blue"])


def test_an_engine_without_files_or_closed_refuses(shelf: Shelf) -> None:
    engine = LocalEngine(Pipeline(nano_model(), {}), INFO)
    with pytest.raises(UserError, match="initialize_engine"):
        engine.reload_adaptors()
    engine.close(WAIT)
    closed = LocalEngine(Pipeline(nano_model(), {}), INFO, read_light=shelf.read)
    closed.close(WAIT)
    with pytest.raises(EngineClosedError):
        closed.reload_adaptors()


def test_an_engine_from_files_reads_its_folder_again(tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "mini", ignore=shutil.ignore_patterns("*blue*"))
    engine = initialize_engine(Settings(model="mini", ckpt_dir=tmp_path, device="cpu"))
    try:
        before = engine.info
        assert "blue" not in before.colors
        blue = read_adaptor(MINI / "adaptor_blue.safetensors", load_config(config_path("mini")))
        save_adaptor(tmp_path / "mini" / "adaptor_blue.pth", blue)
        after = engine.reload_adaptors()
        assert "blue" in after.colors and "6 of 6 colours" in after.weights
        assert after.fingerprint != before.fingerprint and after.steps == before.steps
        assert engine.reload_adaptors() == after
        (tmp_path / "mini" / "adaptor_blue.pth").write_bytes(b"nothing")
        with pytest.raises(WeightsError, match="adaptor_blue.pth"):
            engine.reload_adaptors()
        assert engine.info == after
    finally:
        engine.close(WAIT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a system without SIGHUP")
def test_a_hangup_reloads_them(engine: LocalEngine, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    read, caplog_level = threading.Event(), caplog.at_level("INFO")
    original = shelf.read

    def noted() -> Light:
        read.set()
        return original()

    engine._read_light = noted
    former = signal.getsignal(signal.SIGHUP)
    with caplog_level, reload_on_hangup(EngineSlot(engine)):
        os.kill(os.getpid(), signal.SIGHUP)
        assert read.wait(WAIT)
        for thread in threading.enumerate():
            if thread.name == "lumiply-reload":
                thread.join(WAIT)
    assert "adaptors reloaded: red" in caplog.text
    assert signal.getsignal(signal.SIGHUP) is former


def test_a_server_that_is_loading_says_so_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    reload_adaptors(EngineSlot())
    assert "adaptors not reloaded" in caplog.text
