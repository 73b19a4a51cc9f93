"""The server under load and under attack, for minutes: the long versions of tests/server/test_faults.py.

    python -m benchmarks.soak --out benchmarks/results/soak.md            # everything, about 15 minutes on two cores
    python -m benchmarks.soak kills hostile                               # some of it

Needs the right to mount a small disk for `disk`. Every server runs in a process of its own and listens on this
machine alone.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import http.client
import multiprocessing
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import schemathesis
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.provenance import commit
from benchmarks.servers import SlowClients, timed
from lumiply import client, sending
from lumiply.colors import COLORS
from lumiply.engine.protocol import Engine
from lumiply.errors import RemoteError
from lumiply.images import encode_jpeg, encode_png, read_photo
from lumiply.settings import Settings
from tests.server.gateway import Gateway, JobFailed
from tests.server.hostile import attacks, send

ROOT = Path(__file__).parents[1]
QUALITY = 95


@dataclass
class Row:
    """A line of the table."""

    what: str
    bar: str
    measured: str
    ok: bool


# Servers and what they should answer


def engine_of(kind: str) -> Engine:
    """The engine that `serving(kind)` serves, for solo renders."""
    if kind == "nano":
        from tests.server.nano_server import build

        return build()
    from lumiply.engine.start import initialize_engine

    return initialize_engine(Settings(model="mini", ckpt_dir=ROOT / "ckpt", device="cpu"))


@contextmanager
def serving(kind: str, folder: Path, port: int = 0, **settings: object) -> Iterator[tuple[str, psutil.Popen]]:
    """A server on the "nano" or the "mini" model, in a process of its own: its address, and the process."""
    port = port or free_port()
    command = {
        "nano": ["-m", "tests.server.nano_server"],
        "mini": ["-m", "lumiply", "serve", "--model", "mini", "--device", "cpu"],
    }[kind]
    given = {f"LUMIPLY_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "LUMIPLY_PORT": str(port), "LUMIPLY_CKPT_DIR": str(ROOT / "ckpt"),
        "LUMIPLY_RESULTS_DIR": str(folder / "inference"), "LUMIPLY_LOG_LEVEL": "error", **given,
    }  # fmt: skip
    log = (folder / "server.log").open("ab")
    process = psutil.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is None and is_ready(url), 120)
        yield url, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        log.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_ready(url: str) -> bool:
    try:
        return bool(client.fetch(f"{url}/ready", 5))
    except RemoteError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come to that in {seconds:g} s")
        time.sleep(0.02)


def rooms(count: int, size: tuple[int, int] = (320, 240)) -> list[bytes]:
    """Photos, none like another: parts of the sample room in changing light, as PNG."""
    sample = Image.open(sorted((ROOT / "images").glob("sample_*.png"))[0]).convert("RGB")
    rng = np.random.default_rng(7)
    photos = []
    for _ in range(count):
        side = float(rng.uniform(0.5, 0.9))
        width, height = int(sample.width * side), int(sample.height * side)
        left, top = rng.integers(0, sample.width - width), rng.integers(0, sample.height - height)
        part = sample.crop((left, top, left + width, top + height)).resize(size)
        levels = np.asarray(part, float) * rng.uniform(0.6, 1.3)
        photos.append(encode_png(Image.fromarray(levels.clip(0, 255).astype(np.uint8))))
    return photos


class Solo:
    """What each photo becomes when it is rendered alone, in this process."""

    def __init__(self, kind: str, photos: list[bytes]) -> None:
        engine = engine_of(kind)
        self.files: list[dict[str, bytes]] = []
        for photo in photos:
            picture = read_photo(photo)
            rendered = engine.submit(picture, COLORS).result(600)
            files = {color: encode_jpeg(image, QUALITY) for color, image in rendered.items()}
            self.files.append({"input": encode_png(picture), **files})
        engine.close(60)

    def differs(self, number: int, color: str, served: bytes) -> str:
        """How a served file differs from the solo one; empty if not at all."""
        expected = self.files[number][color]
        if served == expected:
            return ""
        try:
            a, b = (np.asarray(Image.open(BytesIO(data)).convert("RGB"), int) for data in (served, expected))
        except OSError:
            return f"no whole picture ({len(served)} bytes)"
        return f"{int(abs(a - b).max())} levels" if a.shape == b.shape else f"size {a.shape}"


def probe_health(url: str, stop: Any, times: Any) -> None:
    """Body of a process that times `/health` until told to stop."""
    gc.disable()  # its own pauses are not the server's
    took = []
    while not stop.is_set():
        began = time.perf_counter()
        client.fetch(f"{url}/health", 30)
        took.append(time.perf_counter() - began)
        time.sleep(0.03)
    times.put(took)


# The proofs


def load(kind: str, clients: int, jobs: int, photos: int) -> list[Row]:
    """Many clients, as the gateway, in random order and with repeats."""
    pictures = rooms(photos)
    solo = Solo(kind, pictures)
    numbers = [number % photos for number in range(jobs)]
    random.Random(0).shuffle(numbers)
    wrong: list[str] = []
    latencies: list[float] = []
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder, serving(kind, Path(folder), keep_days=0) as (url, process):
        context = multiprocessing.get_context("spawn")
        stop, times = context.Event(), context.Queue()
        probe = context.Process(target=probe_health, args=(url, stop, times), daemon=True)
        probe.start()
        done = threading.Semaphore(0)
        gateway = Gateway(f"{url}/process")

        def one(job: int) -> None:
            number = numbers[job]
            try:
                began = time.perf_counter()
                images = gateway.run(pictures[number], f"job-{job}")
                latencies.append(time.perf_counter() - began)
                for color, address in images.items():
                    if difference := solo.differs(number, color, gateway.download(address)[0]):
                        wrong.append(f"job {job} {color}: {difference}")
            except (JobFailed, OSError, ValueError, KeyError) as exc:
                wrong.append(f"job {job}: {exc!r}")
            done.release()

        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            for job in range(jobs):
                pool.submit(one, job)
            for count in range(1, jobs + 1):
                done.acquire()
                if count % 20 == 0:
                    memory[count] = process.memory_info().rss / 1e6
        seconds = time.monotonic() - began
        stop.set()
        health = times.get(timeout=60)
        probe.join(10)
    after = [value for count, value in memory.items() if count >= jobs // 5]
    p99 = statistics.quantiles(health, n=100)[98] * 1000
    name = f"{clients} clients, {jobs} jobs of seven colours over {photos} photos, {kind} model"
    ok = not wrong and len(latencies) == jobs
    return [
        Row(name, "all answered 200, every file its solo render", f"{len(latencies)} of {jobs} in {seconds:.0f} s,"
            f" {len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", ok),
        Row(f"{name}: seconds a job", "none",
            f"median {statistics.median(latencies):.1f}, most {max(latencies):.1f}", True),
        Row(f"{name}: /health, {len(health)} times", "p99 at most 100 ms", f"median"
            f" {statistics.median(health) * 1000:.0f} ms, p99 {p99:.0f} ms", p99 <= 100),
        Row(f"{name}: memory from job {jobs // 5} on", "flat within 50 MB",
            f"{min(after):.0f} to {max(after):.0f} MB; at every hundredth job"
            f" {', '.join(f'{value:.0f}' for count, value in memory.items() if count % 100 == 0)}",
            max(after) - min(after) <= 50),
    ]  # fmt: skip


@dataclass
class Ledger:
    """What clients were told while the server was being killed."""

    answered: set[tuple[int, str]] = field(default_factory=set)  # job, colour
    wrong: list[str] = field(default_factory=list)
    reads: int = 0


def kills(times: int = 20, photos: int = 24, clients: int = 8) -> list[Row]:
    """SIGKILL at random moments under load, restart, look."""
    pictures, rng = rooms(photos), random.Random(1)
    solo, ledger, port = Solo("nano", pictures), Ledger(), free_port()
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(f"http://127.0.0.1:{port}/process", timeout=20)
        numbers = iter(range(10**9))
        lock = threading.Lock()

        def keep_asking() -> None:
            own = random.Random(threading.get_ident())
            while not stop.is_set():
                with lock:
                    job = next(numbers)
                try:
                    for color in own.sample(COLORS, 7):
                        gateway._process(pictures[job % photos], f"job-{job}", color)
                        ledger.answered.add((job, color))
                    look(job, own.choice(COLORS))
                except (JobFailed, OSError, ValueError, http.client.HTTPException):
                    time.sleep(0.05)  # down; the server is about to come back

        def look(job: int, color: str) -> None:
            body, _, _ = gateway.download(
                f"http://127.0.0.1:{port}/static/inference/job-{job}/output_{color}.jpg"
            )
            ledger.reads += 1
            if difference := solo.differs(job % photos, color, body):
                ledger.wrong.append(f"job {job} {color}: {difference}")

        with ThreadPoolExecutor(clients + 8) as pool:
            # No limits on what is kept, and renders of their own for most jobs: the photos repeat after a while.
            asking = [pool.submit(keep_asking) for _ in range(clients)]
            for _ in range(times):
                with serving("nano", Path(folder), port, keep_days=0, keep_gb=0) as (_, process):
                    time.sleep(rng.uniform(0.2, 2.5))
                    process.kill()
                    process.wait(30)
            stop.set()
            for future in asking:
                future.result(60)
        with serving("nano", Path(folder), port, keep_days=0, keep_gb=0):
            parts = list(Path(folder).glob("inference/*/.*.part"))
            before = ledger.reads
            for job, color in sorted(ledger.answered):
                try:
                    look(job, color)
                except (JobFailed, OSError, http.client.HTTPException) as exc:
                    ledger.wrong.append(f"job {job} {color} lost: {exc!r}")
            checked = ledger.reads - before
    return [
        Row(f"{times} times SIGKILL under {clients} clients, nano model",
            "no answered result lost, no partial file served",
            f"{checked} of {len(ledger.answered)} answered results there and equal to their solo render,"
            f" {before} read meanwhile, {len(ledger.wrong)} wrong{': ' + ledger.wrong[0] if ledger.wrong else ''}",
            not ledger.wrong and checked == len(ledger.answered) > 0),
        Row("leftovers after the last restart", "none", str(len(parts)), not parts),
    ]  # fmt: skip


def hostile(count: int = 2000, examples: int = 60) -> list[Row]:
    """Damaged forms and images, paths and headers, and schemathesis against our own document."""
    with tempfile.TemporaryDirectory() as folder, serving("nano", Path(folder)) as (url, process):
        port = int(url.rpartition(":")[2])
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda attack: send(port, attack), attacks(1, count)))
        wrong = [problem for problem in found if problem]
        tried = 0
        failures: list[str] = []
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in [one.ok() for one in schema.get_all_operations()]:
            try:
                tried += validate(operation, examples)
            except Exception as exc:  # whatever schemathesis finds
                failures.append(f"{operation.label}: {exc}")
        alive = process.poll() is None and is_ready(url)
        outside = sorted(
            path.name for path in Path(folder).iterdir() if path.name not in ("inference", "server.log")
        )
        log = (Path(folder) / "server.log").read_text(errors="replace")
    return [
        Row(f"{count} hostile requests, nano model", "documented 4xx in JSON, no 5xx, no stack trace",
            f"{len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", not wrong and alive),
        Row(f"schemathesis, {tried} requests", "as /openapi.json says",
            f"{len(failures)} failures{': ' + failures[0][:300] if failures else ''}", not failures),
        Row("files outside the results folder; errors in the log", "none",
            f"{len(outside)}; {log.count('Traceback')}", not outside and "Traceback" not in log),
    ]  # fmt: skip


def validate(operation: Any, examples: int) -> int:
    """Send made-up requests of an operation; how many. Raises whatever the answers violate."""
    # What makes an image a good one, or a preset a known one, no schema can say.
    skipped = [positive_data_acceptance] if operation.path == "/process" else []
    tried = 0

    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        nonlocal tried
        tried += 1
        case.call_and_validate(excluded_checks=skipped)

    check()
    return tried


def slow(count: int = 200, seconds: float = 10.0) -> list[Row]:
    """Others, while slow connections send a byte a second."""
    photo = rooms(1)[0]
    rows = []
    with tempfile.TemporaryDirectory() as folder, serving("nano", Path(folder)) as (url, process):
        path = Path(folder) / "photo.png"
        path.write_bytes(photo)
        client.process(url, path, "warm", "red")
        measured = {}
        for number in (0, count):
            dripping = SlowClients(int(url.rpartition(":")[2]), number)
            health = timed(lambda: client.fetch(f"{url}/health"), seconds)
            uploads = timed(lambda: client.process(url, path, "warm", "red"), seconds)
            measured[number] = (health, uploads, len(dripping.open), process.num_threads())
            dripping.close()
    for index, name in enumerate(("/health", "an upload that is stored already")):
        without, with_them = (measured[number][index] for number in (0, count))
        p95 = [statistics.quantiles(took, n=20)[18] * 1000 for took in (without, with_them)]
        left = measured[count][2]
        rows.append(
            Row(f"{count} slow connections ({left} still open), eight others: {name}", "as before (p95 within twice)",
                f"{len(without) / seconds:.0f} a second, p95 {p95[0]:.0f} ms without;"
                f" {len(with_them) / seconds:.0f} a second, p95 {p95[1]:.0f} ms with them",
                p95[1] <= 2 * p95[0] + 10 and left == count)
        )  # fmt: skip
    return rows


def disk() -> list[Row]:
    """A disk of 3 MB that fills up under load, and is emptied."""
    pictures = rooms(60)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "inference"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], check=True)
        try:
            with serving("nano", Path(folder)) as (url, process):
                path = Path(folder) / "photo.png"
                answers: list[str] = []
                for number, photo in enumerate(pictures):
                    path.write_bytes(photo)
                    answers.append(ask(url, path, f"job-{number}"))
                healthy = is_ready(url) and process.poll() is None
                stored = [n for n, answer in enumerate(answers) if answer == "200"]
                intact = all(client.fetch(f"{url}/static/inference/job-{n}/output_red.jpg") for n in stored)
                for number in stored[: len(stored) // 2]:
                    client.Client(url).delete(f"job-{number}")
                recovered = ask(url, path, "afterwards")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    full = answers.count("507 storage_full")
    return [
        Row(f"a disk of 3 MB, {len(pictures)} jobs, nano model", "507 when full, all else goes on, recovers",
            f"{len(stored)} stored, then {full} times 507, {len(pictures) - len(stored) - full} else;"
            f" ready meanwhile: {healthy}; half deleted, the next: {recovered}",
            full > 0 and len(stored) + full == len(pictures) and healthy and intact and recovered == "200"),
    ]  # fmt: skip


def ask(url: str, photo: Path, job_id: str) -> str:
    """ "200", or status and code of the refusal."""
    import json
    import urllib.error
    import urllib.request

    kind, body = sending.encode_form({"job_id": job_id, "color": "red"}, "image", "a.png", photo.read_bytes())
    request = urllib.request.Request(f"{url}/process", data=body, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return f"{exc.code} {json.loads(exc.read())['code']}"


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


PROOFS: dict[str, Callable[[], list[Row]]] = {
    "gateways": gateways,
    "load": lambda: load("mini", clients=64, jobs=500, photos=8),
    "renders": lambda: load("nano", clients=64, jobs=500, photos=250),
    "kills": kills,
    "hostile": hostile,
    "slow": slow,
    "disk": disk,
}

NOTE = """
`load` is on the shipped mini model, with 8 photos that repeat, because seven colours take it up to 20 s on cores
that others use as well; `renders` is the same on a model of the same classes that renders in milliseconds, with a
render of its own for every second job, because there the queue and the store are busiest. `kills`, `hostile`,
`slow` and `disk` use that one as well: what they look for is in the server, not in the model. Renders that raise,
hang or run out of memory, and a disk that fills up while results are written, are quick and therefore tests:
tests/server/test_engine_faults.py, test_faults.py and test_dispatch.py. Clients, server and what times `/health` are
three processes on the same cores.
""".strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "proofs", nargs="*", metavar="PROOF", help=f"some of {', '.join(PROOFS)}; all by default"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# The server under load and under attack",
        "",
        f"{datetime.date.today()}, commit {commit()}, {psutil.cpu_count()} CPU cores shared with other work, Python"
        f" {platform.python_version()}. Command: `{' '.join(['python -m benchmarks.soak', *options.proofs])}`.",
        "",
        NOTE,
        "",
        "| what | bar | measured | |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    good = True
    for name in options.proofs or PROOFS:
        for row in PROOFS[name]():
            lines.append(f"| {row.what} | {row.bar} | {row.measured} | {'ok' if row.ok else '**missed**'} |")
            print(lines[-1], flush=True)
            good = good and row.ok
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
