"""A stage that is replayed gives what it gave, to keep, and is computed as it was where it cannot be captured."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from lumiply.engine.compiling import BackgroundCompiler
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.replay import Replayed
from lumiply.engine.tasks import compile_tasks
from tests.engine.test_compiling import WAIT, Plain
from tests.engine.test_stepper import FakeCapture
from tests.nano import nano_adaptor, nano_model


def joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, 2 * b])


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, generator=generator), torch.randn(1, 3, generator=generator)


@torch.inference_mode()
def test_results_of_several_calls_are_the_callers_to_keep():
    capture = FakeCapture()
    replayed = Replayed(joined, capture)
    results = [replayed(*pair(seed)) for seed in range(3)]
    assert all(torch.equal(result, joined(*pair(seed))) for seed, result in enumerate(results))
    assert len(capture.sizes) == 1 and capture.replays == 3


def test_what_it_is_given_is_left_as_it_was():
    replayed, (a, b) = Replayed(joined, FakeCapture()), pair(0)
    replayed(a, b)
    replayed(*pair(1))
    assert torch.equal(a, pair(0)[0]) and torch.equal(b, pair(0)[1])


def test_what_cannot_be_captured_is_computed_as_it_was_and_said_once(caplog):
    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    replayed = Replayed(joined, refuse)
    for seed in range(2):
        assert torch.equal(replayed(*pair(seed)), joined(*pair(seed)))
    assert caplog.text.count("is not captured") == 1


def test_without_room_for_a_capture_it_is_computed_as_it_was_and_a_capture_tried_again_later():
    attempts: list[int] = []

    def short(run):
        attempts.append(1)
        if len(attempts) == 1:
            raise torch.OutOfMemoryError("no room")
        return FakeCapture()(run)

    replayed = Replayed(joined, short)
    for seed in range(3):
        assert torch.equal(replayed(*pair(seed)), joined(*pair(seed)))
    assert len(attempts) == 2


def test_without_room_at_all_the_caller_is_told():
    def full(*given):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        Replayed(full, FakeCapture())(*pair(0))


def test_a_pipeline_replays_steps_and_compiled_hints_and_its_pictures_stay():
    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    photos = [Image.new("RGB", (40, 30), color) for color in ((120, 90, 60), (30, 60, 200))]
    before = [pipeline.relight(photo, ["white", "red"], seed=1, steps=2) for photo in photos]
    captures: list[FakeCapture] = []

    def capture() -> FakeCapture:
        captures.append(FakeCapture())
        return captures[-1]

    pipeline.capture_with(capture)
    assert BackgroundCompiler(compile_tasks(pipeline, (2,)), Plain(), slots=1).wait(WAIT)
    after = [pipeline.relight(photo, ["white", "red"], seed=1, steps=2) for photo in photos]
    assert all(
        one[color].tobytes() == other[color].tobytes()
        for one, other in zip(before, after, strict=True)
        for color in one
    )
    steps, hints = captures
    assert steps.replays == 4 and hints.replays == 2
