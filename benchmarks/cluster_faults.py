"""Kills parts of a cluster under load, one after another, and says what the clients saw.

    python -m benchmarks.cluster_faults --out benchmarks/results/cluster_faults.md

Two Ray nodes on this machine hold a replica of the mini model each; two servers join them. Clients send photos in
seven colours without a pause, each under a seed of its own, so that nothing is answered from the disk. A client
whose connection breaks, or who is told 503, sends the same request again, to the other server. In the end all
requests are sent once more, in calm, to a server that has stored nothing, and the pictures are compared.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.cluster_parts import (
    PATIENCE_S,
    Node,
    Server,
    replicas,
    running,
    two_nodes,
    wait_until,
)
from benchmarks.measure import machine, table
from lumiply.client import encode_form, fetch
from lumiply.colors import COLORS

#: JPEG files of pictures that differ by a rounding: another share of a batch sums up in another order.
SAME_LEVELS = 8


@dataclass
class Request:
    """One request, as its client saw it."""

    name: str
    began: float
    took: float = 0.0
    sent: int = 0
    refused: int = 0
    files: dict[str, bytes] = field(default_factory=dict)


class Load:
    """Clients that send request after request until told to stop."""

    def __init__(self, servers: list[Server], photo: bytes, clients: int) -> None:
        self._servers, self._photo = servers, photo
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self.done: list[Request] = []
        self.failed: list[str] = []
        self._threads = [
            threading.Thread(target=self._client, args=(i,), daemon=True) for i in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _client(self, index: int) -> None:
        while not self._stop.is_set():
            name = f"fault-{next(self._numbers)}"
            try:
                self.done.append(ask(self._servers, index, name, self._photo))
            except Exception as exc:
                self.failed.append(f"{name}: {exc}")


def ask(servers: list[Server], first: int, name: str, photo: bytes) -> Request:
    """Send a request, again if need be, until it is answered, and fetch its pictures.

    Raises:
        Exception: another answer than 200 or 503, or none in time.
    """
    request = Request(name, time.monotonic())
    fields = {"job_id": name, "colors": ",".join(COLORS), "seed": name.rpartition("-")[2]}
    kind, body = encode_form(fields, "image", "room.png", photo)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() - request.began < PATIENCE_S:
        url = servers[(first + request.sent) % len(servers)].url
        request.sent += 1
        try:
            post = urllib.request.Request(f"{url}/process", body, {"Content-Type": kind})
            with opener.open(post, timeout=PATIENCE_S) as answer:
                urls = json.load(answer)["result"]["images"]
            request.files = {color: fetch(urls[color]) for color in COLORS}
            request.took = time.monotonic() - request.began
            return request
        except urllib.error.HTTPError as exc:
            with exc:
                if exc.code != 503:
                    raise RuntimeError(f"{exc.code}: {exc.read()[:200]!r}") from exc
            request.refused += 1
            time.sleep(1)
        except (OSError, json.JSONDecodeError):  # the connection broke
            time.sleep(0.2)
        except Exception as exc:  # of fetch, when the server died between answer and pictures
            if type(exc).__name__ != "RemoteError":
                raise
            time.sleep(0.2)
    raise TimeoutError(f"no answer within {PATIENCE_S:g} s")


def faults(nodes: list[Node], servers: list[Server]) -> Iterator[tuple[str, Callable[[], float]]]:
    """(name, what kills and gives the seconds until all is there again)."""
    import ray

    def someone_new(before: set[int]) -> bool:
        return bool(set(replicas()) - before) and running() == 2

    def kill_replica() -> float:
        before = set(replicas())
        os.kill(min(before), signal.SIGKILL)
        return wait_until(lambda: someone_new(before), "a new replica")

    def kill_controller() -> float:
        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        pid = ray.get(controller.get_pid.remote())
        os.kill(pid, signal.SIGKILL)
        return wait_until(lambda: ray.get(controller.get_pid.remote()) != pid and running() == 2, "Serve")

    def kill_node() -> float:
        before = set(replicas())
        nodes.pop().kill()
        nodes.append(Node(nodes[0].address))
        return wait_until(lambda: someone_new(before), "a new replica")

    def kill_server() -> float:
        servers[1].kill()
        servers[1].start()
        return wait_until(servers[1].is_ready, "a new server")

    def kill_first_server() -> float:
        before = set(replicas())
        servers[0].kill()
        servers[0].start()
        took = wait_until(servers[0].is_ready, "a new server")
        if set(replicas()) != before:
            raise RuntimeError("a server that was started again as before replaced the replicas")
        return took

    yield "a replica", kill_replica
    yield "Serve's controller", kill_controller
    yield "a node, another joins at once", kill_node
    yield "a server, started again at once", kill_server
    yield "the server that set the replicas, likewise", kill_first_server


def largest_difference(a: Request, b: Request) -> int:
    """Over all pixels of all pictures, in levels of 255."""

    def pixels(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)), dtype=int)

    return max(int(np.abs(pixels(a.files[color]) - pixels(b.files[color])).max()) for color in COLORS)


def photo_file(width: int, height: int) -> bytes:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    stack = np.stack([x, y, (x + y) / 2], -1) * 255
    buffer = io.BytesIO()
    Image.fromarray(stack.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def phase(name: str, requests: list[Request], failed: int, recovery: float | None) -> list[Any]:
    took = [request.took for request in requests]
    return [
        name, len(requests), failed, sum(request.sent - 1 for request in requests),
        statistics.median(took), max(took), recovery,
    ]  # fmt: skip


HEAD = ["killed", "answered", "not answered", "sent again", "median s", "slowest s", "recovered after s"]


def measure(options: argparse.Namespace, folder: Path) -> str:
    """The report, as Markdown."""
    photo = photo_file(430, 430)
    with two_nodes() as nodes:
        servers = [Server(nodes[0].address, folder / "a", "--replicas", "2")]
        wait_until(servers[0].is_ready, "the first server")
        servers.append(Server(nodes[0].address, folder / "b"))
        wait_until(lambda: all(server.is_ready() for server in servers) and running() == 2, "two servers")
        load = Load(servers, photo, options.clients)
        rows, seen, lost = [], 0, 0

        def end_phase(name: str, recovery: float | None) -> None:
            nonlocal seen, lost
            time.sleep(options.seconds)
            rows.append(phase(name, load.done[seen:], len(load.failed) - lost, recovery))
            print(table(HEAD, rows[-1:]).splitlines()[-1], flush=True)
            seen, lost = len(load.done), len(load.failed)

        end_phase("nothing", None)
        for name, kill in faults(nodes, servers):
            end_phase(name, kill())
        load.stop()
        calm = Server(nodes[0].address, folder / "calm")
        wait_until(calm.is_ready, "a fresh server")
        with ThreadPoolExecutor(options.clients) as pool:
            again = list(pool.map(lambda each: ask([calm], 0, each.name, photo), load.done))
        worst = [largest_difference(*pair) for pair in zip(load.done, again, strict=True)]
        for server in (*servers, calm):
            server.stop()
    other = sum(levels > SAME_LEVELS for levels in worst)
    head = machine(torch.device("cpu"))
    lines = [
        "# Faults of a cluster under load",
        "",
        f"{head['date']}, commit {head['commit']}, {head['device']}, {head['cpus']} cores, Ray {version('ray')}."
        f" Command: `python -m benchmarks.cluster_faults --clients {options.clients}`.",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        "",
        table(HEAD, rows),
        "",
        f"{len(load.done)} requests answered, {len(load.failed)} not. Sent once more in calm:"
        f" {sum(levels == 0 for levels in worst)} gave the same files, the largest difference of a pixel is"
        f" {max(worst)} of 255, {other} gave other pictures (more than {SAME_LEVELS}).",
        *load.failed,
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load after each recovery")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    print(report)
    if options.out:
        options.out.write_text(report)
    return int("0 not." not in report or "0 gave other" not in report)


if __name__ == "__main__":
    sys.exit(main())
