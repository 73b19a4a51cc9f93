"""What must not bring the server down, in short; the long versions are in benchmarks/soak/."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask
from PIL import Image

from lumiply import client, sending
from lumiply.engine.local import LocalEngine
from lumiply.engine.protocol import EngineInfo, Progress
from lumiply.errors import DeviceMemoryError, RemoteError, RenderError, StorageFullError
from lumiply.images import encode_jpeg, encode_png, read_photo
from lumiply.server import EngineSlot, FlaskServerThread
from lumiply.server.names import output_name
from lumiply.server.service import Service
from lumiply.server.store import JobStore
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes, wait_until
from tests.nano import nano_pipeline
from tests.server.conftest import post
from tests.server.gateway import COLORS, Gateway
from tests.server.hostile import attacks, send

ROOT = Path(__file__).parents[2]
NANO = EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 2)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    path.write_bytes(photo_bytes())
    return path


# The gateway


def test_the_gateway_works_unmodified_through_a_url_with_a_token(settings: Settings) -> None:
    guarded = settings.replace(token="sixteen-or-more-letters", sign_urls=True)
    with Service(guarded, FakeEngine()) as service:
        gateway = Gateway(service.webhook_url)
        assert gateway.test_connection()["status"] == "healthy"
        images = gateway.run(photo_bytes())
        for color in COLORS:
            body, content_type, name = gateway.download(images[color])
            assert (body[:2], content_type, name) == (b"\xff\xd8", "image/jpeg", f"output_{color}.jpg")
        assert gateway.download(images["input"])[1:] == ("image/png", "off.png")


def test_two_gateways_at_once_get_each_its_own(settings: Settings) -> None:
    engine = LocalEngine(nano_pipeline(), NANO)
    photos = [photo_bytes(red=red, size=(60, 44)) for red in (20, 220)]
    with Service(settings, engine) as service, ThreadPoolExecutor(2) as pool:
        gateway = Gateway(service.webhook_url)
        both = list(pool.map(gateway.run, photos))
        for photo, images in zip(photos, both, strict=True):
            alone = engine.submit(read_photo(photo), COLORS).result(60)
            for color in COLORS:
                assert gateway.download(images[color])[0] == encode_jpeg(alone[color], settings.jpeg_quality)
    engine.close(10)


# Hostile input


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Werkzeug's, of forms it gives up
def test_hostile_requests_get_documented_refusals_and_write_nothing_outside(
    make_app: Callable[..., Flask], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FlaskServerThread(make_app(FakeEngine()), "127.0.0.1", 0) as server, ThreadPoolExecutor(8) as pool:
        all_attacks = list(attacks(seed=0, count=700))
        answers = pool.map(lambda attack: send(server.port, attack), all_attacks)
        wrong = [(attack.method, attack.path[:80], str(attack.headers)[:99], attack.body[:200], problem)
                 for attack, problem in zip(all_attacks, answers, strict=True) if problem]  # fmt: skip
        assert wrong == []
        assert json.loads(client.fetch(f"{server.url}/health"))["status"] == "healthy"
    assert {path.name for path in tmp_path.iterdir()} <= {"inference"}
    assert {path.name for path in settings.results_dir.iterdir()} <= {"h", "hostile", "x" * 128}


# Slow and silent clients


def test_slow_connections_take_no_threads_from_others(
    make_app: Callable[..., Flask], settings: Settings, photo: Path
) -> None:
    app = make_app(FakeEngine(), settings.replace(threads=8))
    head = b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n-"
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.sendall(head if number % 2 else head[:20])
        times = []
        for _ in range(20):
            began = time.perf_counter()
            client.fetch(f"{server.url}/health")
            times.append(time.perf_counter() - began)
        assert client.process(server.url, photo, "job", "red")["status"] == "completed"
        for connection in slow:
            connection.close()
    assert sorted(times)[10] < 0.1


@pytest.mark.parametrize(
    "sent", [b"POST /pro", b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx"]
)
def test_a_request_that_does_not_arrive_in_time_is_answered_408(
    make_app: Callable[..., Flask], settings: Settings, sent: bytes
) -> None:
    app = make_app(FakeEngine(), settings.replace(upload_timeout_s=0.5))
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(sent)
            answer = stream.read()
    assert b" 408 " in answer.splitlines()[0]
    assert json.loads(answer.splitlines()[-1])["code"] == "request_timeout"


def test_blank_lines_behind_a_request_are_no_other_that_arrives_too_slowly(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    engine = FakeEngine(manual=True)
    app = make_app(engine, settings.replace(upload_timeout_s=1))
    kind, body = sending.encode_form({"job_id": "a", "color": "red"}, "image", "a.png", photo_bytes())
    headers = {"Content-Type": kind, "Content-Length": str(len(body))}
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        assert server._loop is not None
        loop = server._loop._server
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/process", body + b"\r\n", headers)  # as old clients do
        connection.auto_open = 0  # all goes over this one
        engine.wait_for(1)
        (channel,) = loop.active_channels.values()
        assert channel.request.is_blank
        loop.maintenance(time.time() + 30)
        client.fetch(f"{server.url}/health")  # the loop has been round
        engine.renders[0].finish()
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        wait_until(lambda: not channel.requests)
        loop.maintenance(time.time() + 30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_the_deadline_counts_from_the_first_byte_of_the_upload(
    make_app: Callable[..., Flask], settings: Settings
) -> None:
    engine = FakeEngine(manual=True)
    app = make_app(engine, settings.replace(request_timeout_s=2.0))
    kind, body = sending.encode_form({"job_id": "a", "color": "red"}, "image", "a.png", photo_bytes())
    head = f"POST /process HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(head.encode() + body[:10])
            time.sleep(1.2)  # a slow upload is what is tested
            began = time.monotonic()
            connection.sendall(body[10:])
            assert b" 504 " in stream.readline()
            assert time.monotonic() - began < 1.9


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_507_and_passes(
    make_app: Callable[..., Flask], settings: Settings, small_disk: Path
) -> None:
    engine = FakeEngine()
    client = make_app(engine, settings.replace(results_dir=small_disk / "inference")).test_client()
    assert post(client, job_id="before").status_code == 200
    (small_disk / "ballast").write_bytes(bytes(2_900_000))
    refused = post(client, job_id="during", image=photo_bytes(red=1, size=(300, 200)))
    assert (refused.status_code, refused.json["code"]) == (507, "storage_full")
    assert "MB" in refused.json["error"]
    assert len(engine.renders) == 1  # said before anything was rendered
    assert post(client, job_id="before", color="blue").status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    (small_disk / "ballast").unlink()
    assert post(client, job_id="during", image=photo_bytes(red=1, size=(300, 200))).status_code == 200


def test_a_disk_that_fills_up_while_results_are_written_loses_that_request_alone(
    make_app: Callable[..., Flask], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_app(FakeEngine()).test_client()
    real = JobStore.publish

    def full(*args: object, **kwargs: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobStore, "publish", full)
    answer = post(client)
    assert (answer.status_code, answer.json["code"]) == (StorageFullError.status, StorageFullError.code)
    monkeypatch.setattr(JobStore, "publish", real)
    assert client.get("/jobs/job-1").json["colors"]["red"]["error"]["code"] == "storage_full"
    assert post(client).status_code == 200


# Renders


class FaultyEngine(FakeEngine):
    """Fails by the seed of the request, the first `times` times; a colour at a time fits into memory always."""

    def __init__(self, times: int = 0) -> None:
        super().__init__(manual=True)
        self.times = times

    def submit(
        self, photo: Image.Image, colors: Sequence[str], **options: Any
    ) -> Future[dict[str, Image.Image]]:
        future = super().submit(photo, colors, **options)
        render, fault = self.renders[-1], FAULTS.get(options["seed"])
        if fault is None or self.times == 0 or (fault == "out of memory" and len(colors) == 1):
            render.finish()
            return future
        self.times -= 1
        if fault == "hangs":
            options["progress"](Progress("denoise", 1, 7))
        else:
            errors = {"raises": ZeroDivisionError("x"), "not a number": RenderError("not finite")}
            render.fail(errors.get(fault, DeviceMemoryError("x")))
        return future


FAULTS = {1: "raises", 2: "hangs", 3: "out of memory", 4: "not a number"}


@pytest.mark.parametrize("seed", FAULTS, ids=FAULTS.values())
@pytest.mark.parametrize("times", [1, 9], ids=["once", "always"])
def test_a_render_that_fails_is_tried_once_more_and_harms_no_other(
    make_app: Callable[..., Flask], settings: Settings, seed: int, times: int
) -> None:
    engines = [FaultyEngine(times)]

    def build() -> FaultyEngine:
        engines.append(FaultyEngine(engines[-1].times))
        return engines[-1]

    client = make_app(EngineSlot(engines[0], build=build), settings.replace(stuck_after_s=0.3)).test_client()
    answer = post(client, job_id="bad", seed=str(seed), color=None, colors="red,blue")
    if times == 1 or seed == 3:
        assert answer.status_code == 200
    else:
        code = {1: "internal_error", 2: "stuck", 4: "render_failed"}[seed]
        assert (answer.status_code, answer.json["code"]) == (500, code)
    wait_until(lambda: client.get("/ready").status_code == 200)
    assert post(client, job_id="good", seed="0", colors="red").status_code == 200
    assert (len(engines) > 1) == (seed == 2)


# The end


@pytest.mark.parametrize("way", ["SIGTERM", "SIGKILL"])
def test_stopping_and_dying_lose_nothing_that_was_answered(tmp_path: Path, way: str) -> None:
    settings = {"LUMIPLY_RESULTS_DIR": str(tmp_path / "inference"), "LUMIPLY_SHUTDOWN_S": "20"}
    images = [photo_bytes(red=number, size=(60, 44)) for number in range(40)]
    paths = []
    for number, data in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(data)
    with serving(settings) as (url, process):
        answered: list[int] = []

        def ask(number: int) -> None:
            try:
                client.process(url, paths[number], f"job-{number}", "red")
            except RemoteError:
                return
            answered.append(number)

        with ThreadPoolExecutor(4) as pool:
            for number in range(len(images)):
                pool.submit(ask, number)
            wait_until(lambda: len(answered) >= 6)
            process.send_signal(getattr(signal, way))
            code = process.wait(30)
        assert code == (0 if way == "SIGTERM" else -9)
    reference = LocalEngine(nano_pipeline(), NANO)
    with Service(Settings(results_dir=tmp_path / "inference", port=0), reference) as restarted:
        for number in answered:
            alone = reference.submit(read_photo(images[number]), COLORS).result(60)
            for color in COLORS:
                served = client.fetch(f"{restarted.url}/static/inference/job-{number}/{output_name(color)}")
                assert served == encode_jpeg(alone[color], 95)
        lost = next(number for number in range(len(images) - 1, -1, -1) if number not in answered)
        assert client.process(restarted.url, paths[lost], f"job-{lost}", "red")["status"] == "completed"
    reference.close(10)
    assert not list((tmp_path / "inference").glob("*/.*.part"))


class serving:
    """`tests.server.nano_server` as a process; gives its address and itself, and stops it.

    It has as many threads as this process, since another number of them rounds otherwise.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads()), "LUMIPLY_PORT": "0"}
        self._environment = {**os.environ, **own, **environment}

    def __enter__(self) -> tuple[str, subprocess.Popen[str]]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.nano_server"], env=self._environment, cwd=ROOT, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip(), self._process

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_encoded_png_is_what_is_served(make_app: Callable[..., Flask]) -> None:
    client = make_app(FakeEngine()).test_client()
    post(client)
    served = client.get("/static/inference/job-1/off.png", buffered=True).data
    assert served == encode_png(read_photo(photo_bytes()))
