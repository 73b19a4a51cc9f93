"""A render leaves nothing behind: its photo and pictures go without waiting for the collector of cycles."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from lumiply.engine.local import LocalEngine
from lumiply.errors import DeviceMemoryError
from tests.engine.test_batching import INFO, WAIT
from tests.nano import nano_pipeline


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_what_a_failed_attempt_computed_is_free_before_the_device_is_asked_for_more(
    no_collector, monkeypatch
):
    pipeline = copy.copy(nano_pipeline())
    attempts, kept = [], []

    def full(x, t, conditions):
        computed = torch.zeros(1000, 1000)
        attempts.append(weakref.ref(computed))
        raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline.stepper = full
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: kept.extend(ref() is not None for ref in attempts))
    engine = LocalEngine(pipeline, INFO)
    with pytest.raises(DeviceMemoryError):
        engine.submit(Image.new("RGB", (50, 40)), ["red"]).result(WAIT)
    engine.close(WAIT)
    assert attempts and kept == [False] * len(attempts)


def test_the_photo_and_the_pictures_of_an_ended_render_are_free_at_once(no_collector):
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=8)
    photo = Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8))
    future = engine.submit(photo, ["white", "blue"], steps=2)
    kept = [weakref.ref(photo), *map(weakref.ref, future.result(WAIT).values())]
    engine.close(WAIT)  # the worker and the resizers have let go as well
    del photo, future
    assert [ref() for ref in kept] == [None, None, None]
