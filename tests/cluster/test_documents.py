"""The lines of the documents that start Ray, as processes: two nodes, replicas of the mini model, servers.

What is added to a line keeps it on this machine, small and apart from any other cluster; `RAY_AUTH_TOKEN` is set as
docs/scaling.md says.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.cluster_parts import free_port
from lumiply.client import Client
from tests.cluster.conftest import REQUIRED
from tests.cluster.test_serve import LINE
from tests.documents.pages import NOTEBOOKS, PAGES, ROOT, in_sentences, shell_lines
from tests.documents.small import WITH_RAY, row
from tests.fakes import photo_bytes

HEAD, NODE = "ray start --head --port 6379", "ray start --address FIRST_MACHINE:6379"
JOINS = "lumiply serve --engine ray --address auto"
STARTS = f"{JOINS} --replicas 1..8"
DEPLOY, SHUTDOWN = "serve deploy lumiply/cluster/serve.yaml", "serve shutdown"

SMALL_NODE = "--block --node-ip-address 127.0.0.1 --num-cpus 2 --object-store-memory 100000000"
SMALL_SERVER = "--port 0 --host 127.0.0.1 --model mini --device cpu"
#: Seconds that a program is given to say that it is ready.
PATIENCE_S = 180.0


@dataclass
class Machine:
    """Runs programs in a folder.

    Attributes:
        session: Ray's own folder; every process of this cluster has it among its arguments.
        environ: for all that it runs.
        started: what goes on.
    """

    folder: Path
    session: str
    environ: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, words: list[str], until: str) -> tuple[subprocess.Popen[str], str]:
        """Start a program; returns once it has said `until`, with all that it said."""
        process = subprocess.Popen(
            [program(words[0]), *words[1:]],
            cwd=self.folder, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.started.append(process)
        assert process.stdout is not None
        limit, told = threading.Timer(PATIENCE_S, process.kill), ""
        limit.start()
        while until not in told:
            line = process.stdout.readline()
            assert line, f"{shlex.join(words)} ended: {told}"
            told += line
        limit.cancel()
        return process, told

    def run(self, words: list[str]) -> None:
        """Run a program to its end, which must be a good one."""
        done = subprocess.run(
            [program(words[0]), *words[1:]],
            cwd=self.folder, env=self.environ, text=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def serve(self, line: str, photo: Path) -> None:
        """A server that joins answers, and ends in order when it is told to."""
        process, told = self.start([*line.split(), *SMALL_SERVER.split()], "Ready")
        url = re.search(r"serves at (\S+)", told)
        assert url is not None, told
        assert tuple(Client(url[1]).relight(photo, ["red"]).images) == ("red",)
        process.send_signal(signal.SIGTERM)
        assert "Stopped." in process.communicate(timeout=60)[0] and process.returncode == 0

    def replicas(self) -> set[int]:
        """The processes that render."""
        import psutil

        found = set()
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    found |= {child.pid} if "ServeReplica:lumiply" in " ".join(child.cmdline()) else set()
        return found

    def close(self) -> None:
        """Kill what goes on, with all that it started, and every process of this cluster."""
        import psutil

        left = []
        for process in self.started:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                left += [parent, *parent.children(recursive=True)]
        for each in psutil.process_iter(["cmdline"]):
            if any(self.session in word for word in each.info["cmdline"] or ()):
                left.append(each)
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        for process in self.started:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        psutil.wait_procs(left, timeout=10)


def program(name: str) -> str:
    """The command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if not REQUIRED:
        pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LUMIPLY_", "RAY_"))}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    shutil.copytree(ROOT / "lumiply" / "cluster", tmp_path / "lumiply" / "cluster")
    (tmp_path / "ckpt").mkdir()  # where replicas of serve.yaml look for the weights
    (tmp_path / "ckpt" / "mini").symlink_to(ROOT / "ckpt" / "mini")
    with tempfile.TemporaryDirectory(
        prefix="lumiply-ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as session:
        machine = Machine(tmp_path, session, environ)  # whose sockets need a short path
        try:
            yield machine
        finally:
            machine.close()


def test_the_lines_of_a_cluster_work_one_after_another(machine: Machine, tmp_path: Path) -> None:
    photo = tmp_path / "room.png"
    photo.write_bytes(photo_bytes(size=(300, 300)))
    port, dashboard = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    machine.environ |= {"RAY_ADDRESS": address, "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    head = f"--port {port} --dashboard-port {dashboard} --temp-dir {machine.session}"
    for line, added in ((HEAD, head), (NODE, "")):
        words = line.replace("FIRST_MACHINE:6379", address).split()
        agent = f"--dashboard-agent-listen-port {free_port()}"
        machine.start([*words, *SMALL_NODE.split(), *agent.split(), *added.split()], "Ray runtime started.")
    machine.serve(STARTS, photo)
    before = machine.replicas()
    machine.serve(STARTS, photo)  # as after a crash: the replicas go on
    assert machine.replicas() == before != set()
    machine.run(DEPLOY.split())
    machine.serve(JOINS, photo)
    machine.run([*SHUTDOWN.split(), "--yes"])


def test_no_line_that_starts_ray_is_left_out() -> None:
    shown = {" ".join(shlex.split(line, comments=True)) for _, line in shell_lines()}
    named = set(in_sentences([*PAGES, *NOTEBOOKS]))
    alone = "lumiply serve --engine ray"  # with one replica; the same with two is run by test_serve.py
    assert {line for line in shown | named if row(line, WITH_RAY) is not None or line.startswith(alone)} == {
        HEAD,
        NODE,
        STARTS,
        DEPLOY,
        JOINS,
        SHUTDOWN,
        LINE,
        alone,
    }
