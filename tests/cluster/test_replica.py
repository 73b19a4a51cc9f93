"""A replica tells how far it is, gives errors as values, stops when nobody listens, and knows when it is ill."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from lumiply.cluster.replica import OtherWeightsError, RenderCall, Replica, Said
from lumiply.engine.protocol import Progress
from lumiply.errors import BusyError, RenderError
from tests.fakes import INFO, FakeEngine, paint, wait_until

PHOTO = Image.new("RGB", (8, 6), (7, 8, 9))


def call(**changed: Any) -> RenderCall:
    given = {"colors": ("red",), "seed": 1, "steps": None, "preset": None, "fingerprint": INFO.fingerprint}
    return RenderCall(PHOTO, **(given | changed))


def all_said(replica: Replica, asked: RenderCall) -> list[Said]:
    async def listen() -> list[Said]:
        return [said async for said in replica.relight(asked)]

    return asyncio.run(listen())


def test_progress_first_then_the_pictures():
    *before, pictures = all_said(Replica(FakeEngine, 60), call(colors=("red", "blue")))
    assert [said.stage for said in before] == ["denoise", "done"]
    assert {color: picture.tobytes() for color, picture in pictures.items()} == {
        color: paint(PHOTO, color).tobytes() for color in ("red", "blue")
    }


@pytest.mark.parametrize("error", [BusyError("full"), RenderError("broken")], ids=["refused", "failed"])
def test_errors_of_the_project_are_values(error):
    engine = FakeEngine(queue_size=0 if isinstance(error, BusyError) else 9)
    engine.error = error
    assert [type(said) for said in all_said(Replica(lambda: engine, 60), call())] == [type(error)]


def test_other_errors_are_raised():
    engine = FakeEngine()
    engine.error = ZeroDivisionError("inside")
    with pytest.raises(ZeroDivisionError):
        all_said(Replica(lambda: engine, 60), call())


def test_other_weights_than_the_caller_counts_on_are_refused_and_nothing_is_rendered():
    engine = FakeEngine()
    (said,) = all_said(Replica(lambda: engine, 60), call(fingerprint="older"))
    assert isinstance(said, OtherWeightsError) and "older" in str(said)
    assert "same files" in str(said) and "LUMIPLY_PRECISION=float16" in str(said)
    assert pickle.loads(pickle.dumps(said)).info == replace(
        INFO, ahead=INFO.most_ahead
    )  # what the caller may count on
    assert engine.renders == []


def test_a_render_that_nobody_listens_to_any_more_is_cancelled():
    engine = FakeEngine(manual=True)
    replica = Replica(lambda: engine, 60)

    async def leave() -> None:
        listening = asyncio.create_task(anext(aiter(replica.relight(call()))))
        await asyncio.to_thread(engine.wait_for, 1)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(leave())
    assert engine.renders[0].future.cancelled()


def test_the_server_is_told_of_the_room_in_all_replicas():
    replica = Replica(FakeEngine, 60)
    replica.reconfigure({"replicas": 5, "asked": "so"})
    info = replica.info()
    assert (info.parallel, info.most_ahead, info.batch) == (5 * INFO.parallel, 5 * INFO.most_ahead, 0)
    assert replica.asked() == "so"


def test_a_dead_worker_and_one_that_does_nothing_are_ill():
    engine = FakeEngine(manual=True)
    replica = Replica(lambda: engine, 0.02)
    replica.check_health()
    engine.submit(PHOTO, ["red"])

    def ill() -> bool:
        try:
            replica.check_health()
        except RuntimeError as error:
            return "no progress" in str(error)
        return False

    wait_until(ill)
    engine.renders[0].finish()
    replica.check_health()
    engine.alive = False
    with pytest.raises(RuntimeError, match="died"):
        replica.check_health()


def test_progress_counts_as_life():
    engine = FakeEngine(manual=True)
    replica = Replica(lambda: engine, 60)

    async def listen() -> Said:
        said = aiter(replica.relight(call()))
        first = asyncio.create_task(anext(said))
        render = await asyncio.to_thread(engine.wait_for, 1)
        before = replica._last_progress
        render.progress(Progress("denoise", 1, 2))
        now = await first
        assert replica._last_progress > before
        await said.aclose()
        return now

    assert asyncio.run(listen()) == Progress("denoise", 1, 2)
