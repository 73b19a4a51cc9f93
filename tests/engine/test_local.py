"""The in-process engine: one worker, a bounded queue, futures."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import Engine, EngineInfo, Progress
from lumiply.engine.transfer import Decoded
from lumiply.errors import (
    BusyError,
    CancelledError,
    EngineClosedError,
    RenderError,
    UnknownColorError,
    UserError,
)
from tests.fakes import wait_until
from tests.nano import nano_pipeline

WAIT = 60.0
INFO = EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 3)
PHOTO = Image.new("RGB", (50, 40), (90, 80, 70))


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(nano_pipeline(), INFO, queue_size=2)
    yield engine
    engine.close(WAIT)


class Gate:
    """A progress callback that holds the render until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> None:
        self.entered.set()
        assert self.opened.wait(WAIT)


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert engine.info is INFO


def test_pictures_come_in_the_palettes_order_whatever_order_was_asked(engine):
    pictures = engine.submit(PHOTO, ["blue", "white", "blue"]).result(WAIT)
    assert tuple(pictures) == ("white", "blue")


def test_all_seven_colours_in_one_render(engine):
    assert tuple(engine.submit(PHOTO, COLORS).result(WAIT)) == COLORS


def test_the_same_request_gives_the_same_picture(engine):
    first = engine.submit(PHOTO, ["red"], seed=7).result(WAIT)["red"]
    engine.submit(PHOTO, ["purple"], seed=8).result(WAIT)
    assert engine.submit(PHOTO, ["red"], seed=7).result(WAIT)["red"].tobytes() == first.tobytes()


def test_progress_never_goes_back_and_ends_at_one(engine):
    seen: list[Progress] = []
    engine.submit(PHOTO, ["red"], steps=4, progress=seen.append).result(WAIT)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert [p.step for p in seen if p.stage == "denoise"] == [1, 2, 3, 4]


@pytest.mark.parametrize("colors, error", [([], UserError), (["pink"], UnknownColorError)])
def test_colours_that_cannot_be_rendered_are_refused_at_once(engine, colors, error):
    with pytest.raises(error):
        engine.submit(PHOTO, colors)


@pytest.mark.parametrize("request_", [{"steps": 0}, {"steps": 1001}, {"seed": -1}, {"seed": 2**63}])
def test_numbers_out_of_range_are_refused_with_the_limit(engine, request_):
    with pytest.raises(UserError, match="must be from"):
        engine.submit(PHOTO, ["red"], **request_)


def test_a_full_queue_refuses_at_once_and_what_waits_is_rendered(engine):
    gate = Gate()
    running = engine.submit(PHOTO, ["red"], progress=gate)
    assert gate.entered.wait(WAIT)
    waiting = [engine.submit(PHOTO, ["red"]) for _ in range(2)]
    assert engine.queue_length == 3
    with pytest.raises(BusyError, match="2 renders"):
        engine.submit(PHOTO, ["red"])
    gate.opened.set()
    for future in [running, *waiting]:
        assert future.result(WAIT)
    assert engine.queue_length == 0


def test_renders_that_were_cancelled_take_no_place_in_the_queue(engine):
    gate = Gate()
    running = engine.submit(PHOTO, ["red"], progress=gate)
    assert gate.entered.wait(WAIT)
    for _ in range(3):
        for future in [engine.submit(PHOTO, ["red"]) for _ in range(2)]:
            assert future.cancel()
    waiting = [engine.submit(PHOTO, ["red"]) for _ in range(2)]
    with pytest.raises(BusyError, match="2 renders"):
        engine.submit(PHOTO, ["red"])
    gate.opened.set()
    for future in [running, *waiting]:
        assert future.result(WAIT)


def test_a_render_that_is_cancelled_stops_and_the_next_one_runs(engine):
    gate = Gate()
    running = engine.submit(PHOTO, ["red"], steps=500, progress=gate)
    assert gate.entered.wait(WAIT)
    assert running.cancel()
    gate.opened.set()
    assert engine.submit(PHOTO, ["red"]).result(WAIT)
    assert running.cancelled()


def test_an_error_in_the_callback_ends_that_render_alone(engine):
    def refuse(progress: Progress) -> None:
        raise CancelledError("no longer wanted")

    with pytest.raises(CancelledError, match="no longer wanted"):
        engine.submit(PHOTO, ["red"], progress=refuse).result(WAIT)
    assert engine.submit(PHOTO, ["red"]).result(WAIT)


def test_a_fault_in_the_model_is_a_render_error_with_its_cause(engine, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(engine._pipeline, "stepper", broken)
    with pytest.raises(RenderError, match="log says why") as caught:
        engine.submit(PHOTO, ["red"]).result(WAIT)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    monkeypatch.undo()
    assert engine.submit(PHOTO, ["red"]).result(WAIT)


def test_closing_fails_what_waits_refuses_what_comes_and_may_be_repeated():
    engine = LocalEngine(nano_pipeline(), INFO, queue_size=2)
    gate = Gate()
    running = engine.submit(PHOTO, ["red"], progress=gate)
    assert gate.entered.wait(WAIT)
    waiting = engine.submit(PHOTO, ["red"])
    closer = threading.Thread(target=engine.close, args=(WAIT,))
    closer.start()
    with pytest.raises(EngineClosedError):
        waiting.result(WAIT)
    gate.opened.set()
    closer.join(WAIT)
    with pytest.raises(EngineClosedError):
        running.result(WAIT)
    with pytest.raises(EngineClosedError):
        engine.submit(PHOTO, ["red"])
    engine.close(WAIT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_told_or_goes_on():
    engine = LocalEngine(nano_pipeline(), INFO, queue_size=2)
    died = threading.Event()

    def die(progress: Progress) -> None:
        died.set()
        raise SystemExit

    future = engine.submit(PHOTO, ["red"], progress=die)
    assert engine.alive
    assert died.wait(WAIT)
    wait_until(lambda: future.done() or not engine.alive)
    engine.close(WAIT)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_fault_of_the_device_itself_ends_the_engine_and_nobody_waits_for_it(monkeypatch, steps):
    engine = LocalEngine(nano_pipeline(), INFO, queue_size=2)
    gate = Gate()
    running = engine.submit(PHOTO, ["red"], steps=steps, progress=gate)
    assert gate.entered.wait(WAIT)
    waiting = engine.submit(PHOTO, ["blue"])

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine, "_pace", lost)
    gate.opened.set()
    for future in (running, waiting):
        with pytest.raises(RenderError, match="engine has failed"):
            future.result(WAIT)
    wait_until(lambda: not engine.alive)
    with pytest.raises(EngineClosedError, match="has failed"):
        engine.submit(PHOTO, ["red"])
    engine.close(WAIT)
    assert engine.queue_length == 0


def test_a_photo_that_is_only_opened_is_read_once_before_threads_share_it(engine, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as opened:
        future = engine.submit(opened, ["red"])
    assert future.result(WAIT)["red"].tobytes() == engine.submit(PHOTO, ["red"]).result(WAIT)["red"].tobytes()


def test_an_engine_that_was_closed_did_not_die(engine):
    assert not engine.closed
    engine.close(WAIT)
    assert engine.alive and engine.closed


def test_other_renders_go_on_while_pictures_are_waited_for(monkeypatch):
    """On a GPU decoding is launched only: what waits for it must not keep steps of others."""
    arrive = threading.Event()
    wait = Decoded.wait

    def late(decoded: Decoded) -> torch.Tensor:
        assert arrive.wait(WAIT)
        return wait(decoded)

    monkeypatch.setattr(Decoded, "wait", late)
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=2)
    stages: list[str] = []
    denoised = threading.Event()

    def note(now: Progress) -> None:
        stages.append(now.stage)
        if now.stage == "denoise" and now.step == 3:
            denoised.set()

    first = engine.submit(PHOTO, ["red"], steps=1)
    second = engine.submit(PHOTO, ["blue"], steps=3, progress=note)
    assert denoised.wait(WAIT) and not first.done()
    arrive.set()
    assert first.result(WAIT).keys() == {"red"} and second.result(WAIT).keys() == {"blue"}
    assert stages[-1] == "done"
    engine.close(WAIT)


def test_a_picture_that_cannot_be_resized_fails_its_render_alone(monkeypatch):
    def refuse(pipeline: Pipeline, levels: torch.Tensor, size: tuple[int, int]) -> Image.Image:
        if size == PHOTO.size:
            raise MemoryError
        return Image.new("RGB", size)

    monkeypatch.setattr(Pipeline, "picture", refuse)
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=2)
    broken = engine.submit(PHOTO, ["red"], steps=1)
    other = engine.submit(PHOTO.resize((31, 17)), ["red"], steps=1)
    with pytest.raises((RenderError, MemoryError)):
        broken.result(WAIT)
    assert other.result(WAIT)["red"].size == (31, 17)
    engine.close(WAIT)


def test_beside_a_gpu_the_photo_is_made_ready_while_it_waits(monkeypatch):
    pipeline = copy.copy(nano_pipeline())
    engine = LocalEngine(pipeline, INFO, queue_size=2)
    for place in ("pipeline.ready_for", "pipeline.sent", "local.sent"):
        monkeypatch.setattr(f"lumiply.engine.{place}", lambda tensor, device: tensor)
    pipeline.device = torch.device("cuda")
    made: list[str] = []
    for name in ("hint_input", "bypass_input"):
        whole = getattr(Pipeline, name)

        def noted(self: Pipeline, photo: Image.Image, name: str = name, whole=whole) -> torch.Tensor:
            made.append(f"{name} {threading.current_thread().name.split('_')[0]}")
            return whole(self, photo)

        monkeypatch.setattr(Pipeline, name, noted)
    picture = engine.submit(PHOTO, ["red"], seed=3).result(WAIT)["red"]
    assert sorted(made) == ["bypass_input lumiply-resize", "hint_input lumiply-resize"]
    engine.close(WAIT)
    usual = LocalEngine(nano_pipeline(), INFO)
    assert picture.tobytes() == usual.submit(PHOTO, ["red"], seed=3).result(WAIT)["red"].tobytes()
    usual.close(WAIT)
