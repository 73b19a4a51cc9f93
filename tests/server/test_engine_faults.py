"""The real engine under the real queue and watchdog, while its network hangs, fails, or runs out of memory."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pytest
import torch
from flask import Flask
from PIL import Image
from torch import Tensor
from werkzeug.test import TestResponse

from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import EngineInfo
from lumiply.images import encode_jpeg, read_photo
from lumiply.server import EngineSlot
from lumiply.settings import Settings
from tests.fakes import photo_bytes, wait_until
from tests.nano import nano_adaptor, nano_model, nano_pipeline
from tests.server.conftest import post

NANO = EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 2)
#: A request with 5 steps meets this timestep in its second step; one with the engine's 2 steps never does.
STEPS, SECOND = 5, 601
GOOD, BAD = photo_bytes(red=220), photo_bytes(red=20)


@dataclass
class Fault:
    """What the network does in a step of the bad request: `act(pictures)`, the first `times` times."""

    act: Callable[[int], None]
    times: int = 99
    met: int = 0
    free: threading.Event = field(default_factory=threading.Event)
    hold_first: Callable[[], object] = lambda: True

    def __call__(self, network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, t = inputs[:2]
        if (t == 801).any():
            wait_until(self.hold_first)
        if (t == SECOND).any() and self.met < self.times:
            self.met += 1
            self.act(len(x))


@pytest.fixture(scope="module")
def faulty() -> Pipeline:
    """A pipeline of its own: nothing else meets its faults."""
    return Pipeline(nano_model(), {color: nano_adaptor(color) for color in COLORS[1:]})


@pytest.fixture(scope="module")
def solo() -> Iterator[Callable[[bytes, str, int], bytes]]:
    """What a request alone gets from an engine that is well."""
    engine = LocalEngine(nano_pipeline(), NANO)

    def render(photo: bytes, color: str, steps: int) -> bytes:
        return encode_jpeg(engine.submit(read_photo(photo), [color], steps=steps).result(60)[color], 95)

    pictures = [render(photo, color, steps) for photo, steps in ((GOOD, 2), (BAD, STEPS)) for color in COLORS]
    assert not any(same(a, b) for a, b in itertools.combinations(pictures, 2))
    yield render
    engine.close(60)


class Server:
    """An application over real engines, made anew whenever the queue asks for one."""

    def __init__(self, make_app: Callable[..., Flask], pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self.engines: list[LocalEngine] = []
        self.may_build = threading.Event()
        self.may_build.set()
        self.app = make_app(EngineSlot(self.build(), build=self.build), settings)
        self.client = self.app.test_client()

    def build(self) -> LocalEngine:
        assert self.may_build.wait(30)
        self.engines.append(LocalEngine(self._pipeline, NANO))
        return self.engines[-1]

    def ready(self) -> str:
        """Empty if it is, else why not."""
        answer = self.client.get("/ready")
        assert (answer.status_code == 200) == answer.json["ready"]
        return answer.json.get("code", "")

    def count(self, name: str) -> float:
        found = re.search(rf"^lumiply_{name}_total (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        assert found is not None
        return float(found[1])

    def result(self, job: str, color: str) -> bytes:
        return self.client.get(f"/static/inference/{job}/output_{color}.jpg", buffered=True).data


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def serve(
    make_app: Callable[..., Flask], settings: Settings, faulty: Pipeline
) -> Iterator[Callable[[Fault], Server]]:
    """Serves with a fault in the network; whatever hangs is let go when the test ends."""
    patient = settings.replace(request_timeout_s=60, stuck_after_s=2.0)
    servers: list[Server] = []
    faults: list[Fault] = []
    hooks = []

    def begin(fault: Fault) -> Server:
        hooks.append(faulty.network.register_forward_pre_hook(fault))
        faults.append(fault)
        servers.append(Server(make_app, faulty, patient))
        return servers[-1]

    yield begin
    for fault, hook in zip(faults, hooks, strict=True):
        hook.remove()
        fault.free.set()
    for engine in (engine for server in servers for engine in server.engines):
        engine.close(30)
        wait_until(lambda engine=engine: not engine._worker.is_alive())


def same(served: bytes, alone: bytes) -> bool:
    """Whether two JPEGs show the same but for rounding, which depends on how many were computed at once."""
    a, b = (np.asarray(Image.open(BytesIO(data)), float) for data in (served, alone))
    return bool(abs(a - b).mean() < 0.1)  # colours of this model are 0.35 levels apart, and more


def bad(server: Server, **fields: object) -> TestResponse:
    return post(server.app.test_client(), job_id="bad", image=BAD, steps=str(STEPS), **fields)


def good(server: Server, **fields: object) -> TestResponse:
    return post(server.app.test_client(), job_id="good", image=GOOD, **fields)


def test_a_step_that_hangs_is_noticed_reported_and_done_again_by_another_engine(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes], pool: ThreadPoolExecutor
) -> None:
    fault = Fault(lambda pictures: fault.free.wait(60), times=1)
    server = serve(fault)
    server.may_build.clear()
    hung = pool.submit(bad, server)
    wait_until(lambda: fault.met)
    waits = pool.submit(good, server)
    wait_until(lambda: server.ready() == "restarting")
    assert server.client.get("/health").status_code == 200
    assert not hung.done() and not waits.done()
    server.may_build.set()
    for answer in (hung, waits):
        assert answer.result(30).status_code == 200
    assert server.ready() == "" and len(server.engines) == 2
    assert (server.count("engine_restarts"), server.count("render_retries")) == (1, 1)
    fault.free.set()  # the first engine wakes up, and what it still says is nobody's
    wait_until(lambda: not server.engines[0]._worker.is_alive())
    for color in COLORS:
        assert same(server.result("bad", color), solo(BAD, color, STEPS))
        assert same(server.result("good", color), solo(GOOD, color, 2))


def test_a_render_that_always_hangs_fails_alone_though_another_shared_its_steps(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes], pool: ThreadPoolExecutor
) -> None:
    fault = Fault(lambda pictures: fault.free.wait(60))
    server = serve(fault)
    fault.hold_first = lambda: server.engines[0].queue_length == 2
    hung = pool.submit(bad, server, color=None, colors="red")
    wait_until(lambda: server.engines[0].queue_length == 1)
    shares = pool.submit(good, server, color=None, colors="blue")
    answer = hung.result(30)
    assert (answer.status_code, answer.json["code"]) == (500, "stuck")
    assert shares.result(30).status_code == 200
    assert same(server.result("good", "blue"), solo(GOOD, "blue", 2))
    assert fault.met == 2 and len(server.engines) == 3
    wait_until(lambda: server.ready() == "")


def out_of_memory_above(most: int) -> Callable[[int], None]:
    def act(pictures: int) -> None:
        if pictures > most:
            raise torch.OutOfMemoryError(f"{pictures} pictures")

    return act


def test_a_batch_that_does_not_fit_is_denoised_in_pieces(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes]
) -> None:
    fault = Fault(out_of_memory_above(3))
    server = serve(fault)
    assert bad(server).status_code == 200
    assert fault.met > 1 and server.count("render_retries") == 0 and len(server.engines) == 1
    for color in COLORS:
        assert same(server.result("bad", color), solo(BAD, color, STEPS))


@pytest.mark.parametrize("times", [3, 99], ids=["for a while", "always"])
def test_a_render_without_memory_for_one_picture_is_tried_once_more_a_colour_at_a_time(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes], times: int
) -> None:
    fault = Fault(
        out_of_memory_above(0), times
    )  # 7 pictures, then 3, then 1 do not fit: that attempt is over
    server = serve(fault)
    answer = bad(server)
    assert server.count("render_retries") == 1 and len(server.engines) == 1 and server.ready() == ""
    if times == 3:
        assert answer.status_code == 200
        for color in COLORS:
            assert same(server.result("bad", color), solo(BAD, color, STEPS))
    else:
        assert (answer.status_code, answer.json["code"]) == (500, "out_of_memory")
        assert fault.met == 4
    assert good(server).status_code == 200


@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
def test_an_error_in_a_step_ends_its_own_render_alone(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes], pool: ThreadPoolExecutor, times: int
) -> None:
    def act(pictures: int) -> None:
        raise RuntimeError("an illegal instruction")

    fault = Fault(act, times)
    server = serve(fault)
    fault.hold_first = lambda: server.engines[0].queue_length == 2 or fault.met
    failing = pool.submit(bad, server, color=None, colors="red")
    wait_until(lambda: server.engines[0].queue_length == 1)
    shares = pool.submit(good, server, color=None, colors="blue")
    assert shares.result(30).status_code == 200
    assert same(server.result("good", "blue"), solo(GOOD, "blue", 2))
    answer = failing.result(30)
    if times == 1:  # each takes the step again by itself, and then it goes well
        assert answer.status_code == 200
        assert same(server.result("bad", "red"), solo(BAD, "red", STEPS))
    else:
        assert (answer.status_code, answer.json["code"]) == (500, "render_failed")
        assert "illegal" not in answer.text
    assert server.ready() == "" and len(server.engines) == 1


def test_latents_that_are_not_finite_fail_that_request_alone(
    serve: Callable[[Fault], Server], faulty: Pipeline
) -> None:
    def spoil(network: torch.nn.Module, inputs: tuple[Tensor, ...], v: Tensor) -> Tensor:
        return torch.where((inputs[1] == SECOND)[:, None, None, None], torch.nan, v)

    server = serve(Fault(lambda pictures: None))
    hook = faulty.network.register_forward_hook(spoil)
    try:
        answer = bad(server)
        assert (answer.status_code, answer.json["code"]) == (500, "render_failed")
        assert server.count("render_retries") == 1
        assert good(server).status_code == 200
    finally:
        hook.remove()
    assert server.ready() == "" and bad(server).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_in_a_step_is_replaced_and_the_render_done_again(
    serve: Callable[[Fault], Server], solo: Callable[..., bytes]
) -> None:
    def act(pictures: int) -> None:
        raise SystemExit  # ends the thread without a word

    server = serve(Fault(act, times=1))
    assert bad(server).status_code == 200
    assert same(server.result("bad", "red"), solo(BAD, "red", STEPS))
    assert len(server.engines) == 2 and server.count("engine_restarts") == 1 and server.ready() == ""
