"""The parts of a cluster of two nodes on this machine, as processes that can be killed: nodes, replicas, servers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from lumiply.client import fetch

ROOT = Path(__file__).parents[1]
PATIENCE_S = 300.0


class Server:
    """`lumiply serve --engine ray` as a process, which can be killed and started again on its port."""

    def __init__(self, address: str, results: Path, *options: str) -> None:
        self._options = (*options, "--engine", "ray", "--address", address, "--results-dir", str(results))
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "lumiply", "serve", "--model", "mini", "--device", "cpu"]
        environ = {**os.environ, "LUMIPLY_LOG_LEVEL": "error", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port), *self._options],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def is_ready(self) -> bool:
        try:
            return bool(json.loads(fetch(f"{self.url}/ready", 5))["ready"])
        except Exception:  # refused, or not there
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def replicas() -> dict[int, psutil.Process]:
    """Processes that render, by id."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ServeReplica:lumiply" in " ".join(child.cmdline()):
                found[child.pid] = child
    return found


def running() -> int:
    """Replicas that Serve counts as running."""
    from ray import serve

    from lumiply.cluster.deployment import APPLICATION, DEPLOYMENT

    found = serve.status().applications.get(APPLICATION)
    if found is None:
        return 0
    return int(found.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0))


def wait_until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


class Node:
    """A Ray node of one processor on this machine, as `ray start` makes it; one without `address` is the first."""

    def __init__(self, address: str | None = None) -> None:
        port = free_port()
        self.address = address or f"127.0.0.1:{port}"
        where = (
            ["--address", address]
            if address
            else ["--head", "--port", str(port), "--include-dashboard", "false"]
        )
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
        self._process = subprocess.Popen(
            [*command, "--node-ip-address", "127.0.0.1", *where], stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        """All its processes at once, as if the machine were gone."""
        process = psutil.Process(self._process.pid)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()


@contextlib.contextmanager
def two_nodes() -> Iterator[list[Node]]:
    """Two nodes with one processor each, so that each holds one replica; all that the list then holds are killed."""
    # Before Ray is imported: this cluster has a token of its own, and nobody is told of it.
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(own)
    import ray
    from ray import serve

    nodes = [Node()]

    def join() -> bool:
        try:
            ray.init(address=nodes[0].address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError):
            return False
        return True

    try:
        wait_until(join, "the first node")
        nodes.append(Node(nodes[0].address))
        wait_until(lambda: ray.cluster_resources().get("CPU") == 2, "the second node")
        yield nodes
        serve.shutdown()
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            node.kill()
