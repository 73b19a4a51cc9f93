"""SIGKILL at random moments under load."""

from __future__ import annotations

import http.client
import itertools
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.stage import Row, Solo, free_port, rooms, serving
from lumiply.colors import COLORS
from tests.server.gateway import Gateway, JobFailed


@dataclass
class Askers:
    """Clients that go on asking, whether the server is there or not, and keep the books of what they were told.

    Attributes:
        answered: (job, colour) that was answered 200.
        wrong: what a file was that should have been another, or was lost.
        reads: files downloaded so far.
    """

    address: str
    pictures: list[bytes]
    solo: Solo
    answered: set[tuple[int, str]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    reads: int = 0

    def __post_init__(self) -> None:
        self._gateway = Gateway(f"{self.address}/process", timeout=20)
        self._numbers = itertools.count()
        self._stop = threading.Event()

    def ask(self) -> None:
        """Send one job after the other, each of its own, until `stop`."""
        own = random.Random(threading.get_ident())
        while not self._stop.is_set():
            job = next(self._numbers)
            try:
                for color in own.sample(COLORS, 7):
                    self._gateway._process(self.pictures[job % len(self.pictures)], f"job-{job}", color)
                    self.answered.add((job, color))
                self.look(job, own.choice(COLORS))
            except (JobFailed, OSError, ValueError, http.client.HTTPException):
                time.sleep(0.05)  # down; the server is about to come back

    def stop(self) -> None:
        """Let `ask` return."""
        self._stop.set()

    def look(self, job: int, color: str) -> None:
        """Download a result and compare it."""
        url = f"{self.address}/static/inference/job-{job}/output_{color}.jpg"
        body, _, _ = self._gateway.download(url)
        self.reads += 1
        if difference := self.solo.differs(job % len(self.pictures), color, body):
            self.wrong.append(f"job {job} {color}: {difference}")

    def look_at_all(self) -> int:
        """Download all that was ever answered; how much of it is there."""
        before = self.reads
        for job, color in sorted(self.answered):
            try:
                self.look(job, color)
            except (JobFailed, OSError, http.client.HTTPException) as exc:
                self.wrong.append(f"job {job} {color} lost: {exc!r}")
        return self.reads - before


def kills(times: int = 20, photos: int = 24, clients: int = 8) -> list[Row]:
    """SIGKILL at random moments under load, restart, look."""
    pictures, rng, port = rooms(photos), random.Random(1), free_port()
    askers = Askers(f"http://127.0.0.1:{port}", pictures, Solo("nano", pictures))
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(clients) as pool:
        # No limits on what is kept, and renders of their own for most jobs: the photos repeat after a while.
        folder, limits = Path(name), {"keep_days": 0, "keep_gb": 0}
        asking = [pool.submit(askers.ask) for _ in range(clients)]
        try:
            for _ in range(times):
                with serving("nano", folder, port, **limits) as (_, process):
                    time.sleep(rng.uniform(0.2, 2.5))
                    process.kill()
                    process.wait(30)
        finally:
            askers.stop()
        for future in asking:
            future.result(60)
        with serving("nano", folder, port, **limits):
            parts = list(folder.glob("inference/*/.*.part"))
            meanwhile = askers.reads
            checked = askers.look_at_all()
    wrong = askers.wrong
    return [
        Row(f"{times} times SIGKILL under {clients} clients, nano model",
            "no answered result lost, no partial file served",
            f"{checked} of {len(askers.answered)} answered results there and equal to their solo render,"
            f" {meanwhile} read meanwhile, {len(wrong)} wrong{': ' + wrong[0] if wrong else ''}",
            not wrong and checked == len(askers.answered) > 0),
        Row("leftovers after the last restart", "none", str(len(parts)), not parts),
    ]  # fmt: skip
