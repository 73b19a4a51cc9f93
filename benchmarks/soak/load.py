"""Many clients at once, each as the gateway, and `/health` meanwhile."""

from __future__ import annotations

import gc
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.soak.stage import Row, Solo, rooms, serving
from lumiply import client
from tests.server.gateway import Gateway, JobFailed

#: Seconds between two questions to `/health`.
PERIOD_S: Final = 0.03
#: Seconds that the process which asks is given to start.
START_S: Final = 60.0
#: So often it is asked at least, however soon the load is over: percentiles need as many.
LEAST_ASKED: Final = 2


class HealthProbe:
    """Times `/health` from a process of its own for as long as the block runs.

    Attributes:
        times: seconds of each answer, and, for an answer that took longer than the time between two questions, of
            those that would have been asked meanwhile: else a server that is slow would be asked less often.
        late: seconds by which the probe's own sleeps were too long: how long the machine lets anybody wait.
    """

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._asking, self._stop, self._answers = context.Event(), context.Event(), context.Queue()
        words = (url, self._asking, self._stop, self._answers)
        self._process = context.Process(target=_ask, args=words, daemon=True)
        self.times: list[float] = []
        self.late: list[float] = []

    def __enter__(self) -> HealthProbe:
        self._process.start()
        if not self._asking.wait(START_S):
            raise TimeoutError(f"the probe of /health did not start within {START_S:g} s")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        took, self.late = self._answers.get(timeout=60)
        self._process.join(10)
        self.times = [left for one in took for left in np.arange(one, 0, -PERIOD_S)]


def _ask(url: str, asking: Any, stop: Any, answers: Any) -> None:
    """Body of the probe's process."""
    gc.disable()  # its own pauses are not the server's
    took, late = [], []
    asking.set()
    while not stop.is_set() or len(took) < LEAST_ASKED:
        began = time.perf_counter()
        client.fetch(f"{url}/health", 30)
        answered = time.perf_counter()
        time.sleep(PERIOD_S)
        took.append(answered - began)
        late.append(time.perf_counter() - answered - PERIOD_S)
    answers.put((took, late))


@dataclass
class Crowd:
    """Clients that all ask at once, each as the gateway, photo after photo.

    Attributes:
        numbers: which photo each job sends.
        took: seconds of each job.
        memory: MB of the server after so many jobs.
    """

    gateway: Gateway
    pictures: list[bytes]
    solo: Solo
    numbers: list[int]
    wrong: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    memory: dict[int, float] = field(default_factory=dict)

    def run(self, clients: int, process: psutil.Process) -> float:
        """Send all jobs; how many seconds that took."""
        done = threading.Semaphore(0)
        every = max(1, len(self.numbers) // 25)
        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            for job in range(len(self.numbers)):
                pool.submit(self._one, job).add_done_callback(lambda _: done.release())
            for count in range(1, len(self.numbers) + 1):
                done.acquire()
                if count % every == 0:
                    self.memory[count] = process.memory_info().rss / 1e6
        return time.monotonic() - began

    def _one(self, job: int) -> None:
        number = self.numbers[job]
        try:
            began = time.perf_counter()
            images = self.gateway.run(self.pictures[number], f"job-{job}")
            self.took.append(time.perf_counter() - began)
            for color, address in images.items():
                if difference := self.solo.differs(number, color, self.gateway.download(address)[0]):
                    self.wrong.append(f"job {job} {color}: {difference}")
        except (JobFailed, OSError, ValueError, KeyError) as exc:
            self.wrong.append(f"job {job}: {exc!r}")


def load(kind: str, clients: int, jobs: int, photos: int, stored: bool = False) -> list[Row]:
    """Many clients in random order and with repeats; with `stored`, once every photo has been rendered."""
    pictures = rooms(photos)
    numbers = [number % photos for number in range(jobs)]
    random.Random(0).shuffle(numbers)
    with tempfile.TemporaryDirectory() as folder, serving(kind, Path(folder), keep_days=0) as (url, process):
        crowd = Crowd(Gateway(f"{url}/process"), pictures, Solo(kind, pictures), numbers)
        for number, picture in enumerate(pictures if stored else ()):
            crowd.gateway.run(picture, f"first-{number}")
        with HealthProbe(url) as health:
            seconds = crowd.run(clients, process)
    name = f"{clients} clients, {jobs} jobs of seven colours over {photos} photos, {kind} model"
    return _rows(f"{name}, all rendered before" if stored else name, crowd, health, seconds)


def _rows(name: str, crowd: Crowd, health: HealthProbe, seconds: float) -> list[Row]:
    jobs, wrong, took = len(crowd.numbers), crowd.wrong, crowd.took
    p99, late = (statistics.quantiles(values, n=100)[98] * 1000 for values in (health.times, health.late))
    first = jobs // 5
    after = [value for count, value in crowd.memory.items() if count >= first]
    return [
        Row(name, "all answered 200, every file its solo render", f"{len(took)} of {jobs} in {seconds:.0f} s,"
            f" {len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", not wrong and len(took) == jobs),
        Row(f"{name}: seconds a job", "none", f"median {statistics.median(took):.1f}, most {max(took):.1f}", True),
        Row(f"{name}: /health, {len(health.times)} times", "p99 at most 100 ms", f"median"
            f" {statistics.median(health.times) * 1000:.0f} ms, p99 {p99:.0f} ms, most"
            f" {max(health.times) * 1000:.0f} ms (the probe's own sleeps: p99 {late:.0f} ms too long)", p99 <= 100),
        Row(f"{name}: memory from job {first} on", "flat within 50 MB",
            f"{min(after):.0f} to {max(after):.0f} MB; at every fifth of the jobs"
            f" {', '.join(f'{value:.0f}' for count, value in crowd.memory.items() if count % first == 0)}",
            max(after) - min(after) <= 50),
    ]  # fmt: skip


def gateways() -> list[Row]:
    """Two gateways at once, on the mini model, every call of theirs."""
    pictures = rooms(2, (1480, 1110))
    solo = Solo("mini", pictures)
    token = "token-for-the-soak-test"
    with tempfile.TemporaryDirectory() as folder, serving("mini", Path(folder), token=token) as (url, _):
        gateway = Gateway(f"{url}/process?token={token}")
        healthy = gateway.test_connection()["status"] == "healthy"
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(gateway.run, pictures))
        seconds = time.monotonic() - began
        wrong = [
            f"{number} {color}: {difference}"
            for number, images in enumerate(both)
            for color, address in images.items()
            if (difference := solo.differs(number, color, gateway.download(address)[0]))
        ]
    return [
        Row("two gateways at once, 1480 x 1110, mini model, webhook with ?token=",
            "every call 200, each its own pictures",
            f"{seconds:.1f} s for both, {len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", healthy and not wrong),
    ]  # fmt: skip
