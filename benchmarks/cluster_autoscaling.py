"""Replicas that come and go with the queue: `--replicas 1..2` watched on this machine, with Serve's own delays.

    python -m benchmarks.cluster_autoscaling --out benchmarks/results/cluster_autoscaling.md

A server over Ray holds the mini model, from one replica to two. First nobody asks; then clients send photos in one
colour without a pause, each under a seed of its own, until both replicas have rendered together for a while; then
nobody asks again until one replica has gone. Takes some 13 minutes, ten of them waiting for that. Ends with 1 if the
second replica never came or never went, or a request was not answered.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.cluster_faults import photo_file
from benchmarks.measure import machine, table
from lumiply.client import Client
from lumiply.server import EngineSlot
from lumiply.server.service import Service
from lumiply.settings import Settings

LOOK_S = 0.5
#: Longest that a replica may take to come, and to go.
COMES_S, GOES_S = 300.0, 900.0


def running() -> int:
    """Replicas that Serve has running now."""
    from ray import serve

    from lumiply.cluster.deployment import APPLICATION, DEPLOYMENT

    states = serve.status().applications[APPLICATION].deployments[DEPLOYMENT].replica_states
    return sum(count for state, count in states.items() if str(getattr(state, "value", state)) == "RUNNING")


@dataclass
class Watch:
    """Notes whenever the number of replicas changes.

    Attributes:
        rows: seconds since the start, what happened, replicas, renders with the server.
    """

    queue: Callable[[], int]
    rows: list[list[Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    replicas: int = 0

    def note(self, what: str) -> None:
        self.rows.append([round(time.monotonic() - self.began), what, self.replicas, self.queue()])
        print(*self.rows[-1], sep="\t", flush=True)

    def until(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Watch until it is enough; whether it came to that in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = running()
            if now != self.replicas:
                what = "a replica has come" if now > self.replicas else "a replica has gone"
                self.replicas = now
                self.note(what)
            if enough():
                return True
            time.sleep(LOOK_S)
        return False


class Load:
    """Clients that never pause."""

    def __init__(self, url: str, photo: Path, clients: int) -> None:
        self.answered: list[float] = []  # when
        self.failed: list[str] = []
        self._client, self._photo = Client(url), photo
        self._numbers, self._stop = itertools.count(), threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._client.relight(self._photo, ["red"], seed=next(self._numbers))
                self.answered.append(time.monotonic())
            except Exception as error:
                self.failed.append(str(error))

    def stop(self) -> None:
        """End once what is under way has been answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def rate(self, since: float, until: float) -> float:
        """Answers a minute between two moments."""
        return 60 * sum(since < when <= until for when in self.answered) / (until - since)


def measure(service: Service, photo: Path, options: argparse.Namespace) -> tuple[str, bool]:
    """(the report as Markdown, whether the replicas did as they should)."""
    watch = Watch(lambda: service.slot.get().queue_length)
    watch.until(lambda: watch.replicas == 1, COMES_S)
    watch.until(lambda: False, options.seconds)
    watch.note(f"{options.clients} clients start")
    began = time.monotonic()
    load = Load(service.url, photo, options.clients)
    grew = watch.until(lambda: watch.replicas == 2, COMES_S)
    both = time.monotonic()
    watch.until(lambda: False, options.seconds)
    ended = time.monotonic()
    watch.note("the clients stop")
    load.stop()
    watch.note("all have been answered")
    shrank = watch.until(lambda: watch.replicas == 1, GOES_S)
    head = machine(torch.device("cpu"))
    lines = [
        "# Replicas that come and go with the queue",
        "",
        f"{head['date']}, commit {head['commit']}, {head['device']}, {head['cpus']} cores, Ray {version('ray')}."
        f" Command: `python -m benchmarks.cluster_autoscaling --clients {options.clients}"
        f" --seconds {options.seconds:g}`.",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        "",
        table(["after s", "what", "replicas", "renders with the engine"], watch.rows),
        "",
        f"{len(load.answered)} requests answered, {len(load.failed)} not; {load.rate(began, both):.1f} a minute until"
        f" the second replica was there, {load.rate(both, ended):.1f} afterwards.",
        *load.failed,
    ]
    return "\n".join(lines) + "\n", grew and shrank and not load.failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="of calm before, and of load on two replicas"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        photo, results = Path(folder) / "room.png", Path(folder) / "results"
        photo.write_bytes(photo_file(430, 430))
        settings = Settings(
            port=0, results_dir=results, engine="ray", replicas="1..2", model="mini", device="cpu"
        )
        slot = EngineSlot()
        try:
            with Service(settings, slot) as service:
                from lumiply.cluster.start import connect

                slot.load(lambda: connect(settings)).join()
                slot.get()
                report, as_it_should = measure(service, photo, options)
        finally:
            slot.close(10)
    print(report)
    if options.out:
        options.out.write_text(report)
    return int(not as_it_should)


if __name__ == "__main__":
    sys.exit(main())
