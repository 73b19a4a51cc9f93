"""The shipped mini model, whole: its size, its results over real HTTP, health while it renders."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiply import client
from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.start import initialize_engine
from lumiply.server import FlaskServerThread, create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings

ROOT = Path(__file__).parents[1]
SAMPLE = next(iter(sorted((ROOT / "images").glob("sample_*.png"))))
#: What may ship, in bytes.
LARGEST = 24e6
#: Seconds for seven colours on two CPU cores.
SLOWEST = 20.0
#: Seconds in which /health answers while a render runs.
HEALTH = 0.1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        model="mini", ckpt_dir=ROOT / "ckpt", device="cpu", results_dir=tmp_path_factory.mktemp("inference")
    )


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[LocalEngine]:
    engine = initialize_engine(settings)
    yield engine
    engine.close(60)


@pytest.fixture(scope="module")
def url(settings: Settings, engine: LocalEngine) -> Iterator[str]:
    app = create_app(settings, engine)
    thread = FlaskServerThread(app, "127.0.0.1", 0)
    thread.start()
    yield thread.url
    thread.shutdown()
    site_of(app).close()


def test_the_weights_that_ship_are_small_and_complete(engine):
    files = list((ROOT / "ckpt" / "mini").iterdir())
    assert sum(path.stat().st_size for path in files) <= LARGEST
    assert engine.info.colors == COLORS
    assert engine.info.model == "lumiply-mini" and "ckpt" in engine.info.weights


def test_seven_colours_over_http_in_time(url, settings):
    began = time.perf_counter()
    answers = {color: client.process(url, SAMPLE, "end-to-end", color) for color in COLORS}
    assert time.perf_counter() - began <= SLOWEST
    photo = Image.open(SAMPLE).convert("RGB")
    pictures = {}
    for color, answer in answers.items():
        assert answer["status"] == "completed" and answer["message"] == "색상 이미지 생성 완료"
        pictures[color] = Image.open(BytesIO(client.fetch(answer["result"]["images"][color]))).convert("RGB")
        assert pictures[color].size == photo.size
    lit = {color: np.asarray(picture, float).mean((0, 1)) for color, picture in pictures.items()}
    dark = np.asarray(photo, float).mean((0, 1))
    assert lit["white"].mean() > dark.mean() + 3  # a lamp adds light
    red, blue = lit["red"] / lit["red"].sum(), lit["blue"] / lit["blue"].sum()
    assert red[0] > blue[0] + 0.01 and blue[2] > red[2] + 0.01  # and it adds its own colour


def test_health_answers_at_once_while_a_render_runs(url, engine):
    photo = Image.open(SAMPLE).convert("RGB")
    started = threading.Event()
    future = engine.submit(photo, COLORS, steps=8, progress=lambda progress: started.set())
    assert started.wait(60)
    seconds = []
    while not future.done():
        began = time.perf_counter()
        assert b"healthy" in client.fetch(f"{url}/health")
        seconds.append(time.perf_counter() - began)
    future.result()
    assert len(seconds) >= 5
    assert statistics.median(seconds) <= HEALTH
