"""waitress against Werkzeug's threaded server, with slow clients: which one the server should stand on.

    python -m benchmarks.servers --out benchmarks/results/servers.md

Each server runs in a process of its own, over the same application with an engine that paints at once. Slow clients
send a photo a byte a second. Meanwhile eight clients of ordinary speed ask for /health, for a stored result, and
send photos of 1480 x 1110, and are timed.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import multiprocessing
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import waitress
import werkzeug
from PIL import Image
from werkzeug.serving import make_server

from benchmarks.provenance import commit
from lumiply import client
from lumiply.server import FlaskServerThread, create_app
from lumiply.settings import Settings
from tests.fakes import FakeEngine

CLIENTS = 8


CONCLUSION = """
The two are about as fast. What decides for waitress: its threads stay as many as they are, however many slow clients
there are, where Werkzeug starts one a connection without any limit; it reads a request whole before a thread sees
it, so a request can be given a time in which it must have come; and it limits headers, bodies and connections.
""".strip()


def photo(seed: int = 0, size: tuple[int, int] = (1480, 1110)) -> bytes:
    """A smooth photo with a little noise, as a PNG of some 2 MB."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (12, 16, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = (pixels + rng.integers(-3, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(noisy).save(buffer, "PNG")
    return buffer.getvalue()


def serve(kind: str, folder: str, port: multiprocessing.Queue[int]) -> None:
    """Body of the server's process."""
    app = create_app(Settings(results_dir=Path(folder)), FakeEngine())
    if kind == "waitress":
        server = FlaskServerThread(app, "127.0.0.1", 0).start()
        port.put(server.port)
        threading.Event().wait()
    else:
        logging.getLogger("werkzeug").setLevel("ERROR")
        threaded = make_server("127.0.0.1", 0, app, threaded=True)
        port.put(threaded.server_port)
        threaded.serve_forever()


class SlowClients:
    """Connections that each send a request's body a byte a second."""

    def __init__(self, port: int, count: int) -> None:
        head = (
            b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 1000000\r\n\r\n--b"
        )
        self.open: list[socket.socket] = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            connection.sendall(head)
            self.open.append(connection)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _drip(self) -> None:
        while not self._stop.wait(1.0):
            for connection in list(self.open):
                try:
                    connection.sendall(b"x")
                except OSError:
                    self.open.remove(connection)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for connection in self.open:
            connection.close()


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each of the calls that fit into `seconds`, by `CLIENTS` threads."""
    until = time.monotonic() + seconds

    def loop() -> list[float]:
        took = []
        while time.monotonic() < until:
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        return took

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [t for future in [pool.submit(loop) for _ in range(CLIENTS)] for t in future.result()]


def measure(kind: str, slow: int, seconds: float) -> str:
    """One row of the table."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ports = context.Queue()
        process = context.Process(target=serve, args=(kind, folder, ports), daemon=True)
        process.start()
        url = f"http://127.0.0.1:{(port := ports.get(timeout=60))}"
        path = Path(folder) / "photo.png"
        path.write_bytes(photo())
        result = client.process(url, path, "warm", "red")["result"]["images"]["red"]
        dripping = SlowClients(port, slow)
        try:
            time.sleep(1.5)
            own = psutil.Process(process.pid)
            health = timed(lambda: client.fetch(f"{url}/health"), seconds)
            static = timed(lambda: client.fetch(result), seconds)
            uploads = timed(lambda: client.process(url, path, "warm", "red"), seconds)
            threads, memory = own.num_threads(), own.memory_info().rss / 1e6
            alive = len(dripping.open)
        finally:
            dripping.close()
            process.terminate()
            process.join(10)
    cells = [
        f"{len(took) / seconds:.0f} | {ms(took, 0.5)} / {ms(took, 0.99)}"
        for took in (health, static, uploads)
    ]
    return f"| {kind} | {slow} ({alive} left) | {' | '.join(cells)} | {threads} | {memory:.0f} |"


def ms(took: list[float], quantile: float) -> str:
    """A quantile in milliseconds."""
    return f"{statistics.quantiles(took, n=1000)[int(quantile * 1000) - 1] * 1000:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="per cell")
    parser.add_argument("--slow", type=int, nargs="*", default=[0, 200, 700])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# waitress and Werkzeug with slow clients",
        "",
        f"{datetime.date.today()}, commit {commit()}, {psutil.cpu_count()} CPU cores, Python"
        f" {platform.python_version()}, waitress {version(waitress)}, Werkzeug {version(werkzeug)}. Command:"
        " `python -m benchmarks.servers`.",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        "Times in ms, median / 99th percentile; a second counts requests answered.",
        "",
        "| server | slow clients | /health a second | ms | result a second | ms | upload a second | ms |"
        " threads | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for slow in options.slow:
        for kind in ("werkzeug", "waitress"):
            lines.append(measure(kind, slow, options.seconds))
            print(lines[-1], flush=True)
    lines += ["", CONCLUSION]
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


def version(module: object) -> str:
    from importlib.metadata import version as of

    return of(getattr(module, "__name__", ""))


if __name__ == "__main__":
    main()
