"""Pictures are resized to the same pixels whoever does it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from lumiply.engine import pipeline as module
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.pixels import hint_pixels, resize, to_picture
from tests.nano import nano_model


def noise(width: int, height: int) -> Image.Image:
    shape = (height, width, 3)
    levels = torch.randint(256, shape, generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
    return Image.fromarray(levels.numpy())


@pytest.fixture(scope="module")
def channels() -> ThreadPoolExecutor:
    with ThreadPoolExecutor(3) as channels:
        yield channels


@pytest.mark.parametrize("filter", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("size", [(64, 64), (86, 86), (31, 97), (200, 150)])
@pytest.mark.parametrize(
    "photo", [noise(86, 86), noise(64, 64), noise(133, 75)], ids=lambda photo: str(photo.size)
)
def test_channels_side_by_side_are_the_picture(channels, photo, size, filter):
    assert resize(photo, size, filter, channels).tobytes() == photo.resize(size, filter).tobytes()


def test_of_other_modes_too(channels):
    for mode in ("L", "RGBA"):
        picture = noise(40, 30).convert(mode)
        both = [resize(picture, (17, 23), Image.Resampling.LANCZOS, threads) for threads in (channels, None)]
        assert both[0].mode == mode and both[0].tobytes() == both[1].tobytes()


def test_a_hint_and_a_picture_are_the_same_either_way(channels):
    photo = noise(133, 75)
    assert torch.equal(hint_pixels(photo, 64, channels), hint_pixels(photo, 64))
    levels = torch.from_numpy(np.array(noise(64, 64)))
    assert to_picture(levels, (133, 75), channels).tobytes() == to_picture(levels, (133, 75)).tobytes()


def test_a_pipeline_on_a_processor_keeps_to_one_thread(monkeypatch):
    monkeypatch.setattr(module, "usable_cpus", lambda: 64)
    assert Pipeline(nano_model(), {})._channels is None
