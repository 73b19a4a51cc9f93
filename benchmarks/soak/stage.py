"""What the proofs stand on: a server in a process of its own, photos, and what each should become."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import torch
from PIL import Image

from lumiply import client
from lumiply.colors import COLORS
from lumiply.engine.protocol import Engine
from lumiply.errors import RemoteError
from lumiply.images import encode_jpeg, encode_png, read_photo
from lumiply.settings import Settings

#: The repository.
ROOT: Final = Path(__file__).parents[2]
#: Of the JPEG results, as served by default.
QUALITY: Final = 95


@dataclass
class Row:
    """A line of the table."""

    what: str
    bar: str
    measured: str
    ok: bool


def engine_of(kind: str) -> Engine:
    """The engine that `serving(kind)` serves, for solo renders."""
    if kind == "nano":
        from tests.server.nano_server import build

        return build()
    from lumiply.engine.start import initialize_engine

    return initialize_engine(Settings(model="mini", ckpt_dir=ROOT / "ckpt", device="cpu"))


@contextmanager
def serving(kind: str, folder: Path, port: int = 0, **settings: object) -> Iterator[tuple[str, psutil.Popen]]:
    """A server on the "nano" or the "mini" model, in a process of its own: its address, and the process.

    It renders with as many threads as this process, since another number of them rounds otherwise.
    """
    port = port or free_port()
    command = {
        "nano": ["-m", "tests.server.nano_server"],
        "mini": ["-m", "lumiply", "serve", "--model", "mini", "--device", "cpu"],
    }[kind]
    given = {f"LUMIPLY_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "LUMIPLY_PORT": str(port), "LUMIPLY_CKPT_DIR": str(ROOT / "ckpt"),
        "LUMIPLY_RESULTS_DIR": str(folder / "inference"), "LUMIPLY_LOG_LEVEL": "error",
        "OMP_NUM_THREADS": str(torch.get_num_threads()), **given,
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
