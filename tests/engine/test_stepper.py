"""A step is the same step however it is run: as it stands, captured at the next larger size, or compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cldm import StepConditions
from lumiply.engine.pace import Pace
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stepper import Stepper
from tests.nano import nano_pipeline

WAIT = 300.0


def inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, StepConditions]:
    generator = torch.Generator().manual_seed(seed)
    pipeline = nano_pipeline()
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    t = torch.randint(0, 1000, (batch,), generator=generator)
    hint = torch.randn(batch, pipeline.params.unet.model_channels, 8, 8, generator=generator)
    keys_values = torch.randn(batch, 7, sum(pipeline.network.widths), generator=generator)
    return x, t, StepConditions(hint, keys_values)


def plain_step(*tensors: Tensor) -> Tensor:
    return nano_pipeline().network(*tensors)


def plain(x: Tensor, t: Tensor, conditions: StepConditions) -> Tensor:
    return nano_pipeline().network(x, t, conditions.hint_features, conditions.keys_values)


def build(compile: Callable) -> Callable[..., Tensor]:
    return compile(torch.neg)


class FakeCapture:
    """A CUDA graph without CUDA: keeps what reads fixed tensors, and runs it when replayed into a fixed tensor."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.replays = 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        out = run()
        self.sizes.append(len(out))

        def replay() -> Tensor:
            self.replays += 1
            return out.copy_(run())

        return replay


@pytest.fixture
def capture() -> FakeCapture:
    return FakeCapture()


@pytest.mark.parametrize("batch, size", [(1, 1), (2, 2), (3, 4), (4, 4)])
@torch.inference_mode()
def test_a_batch_is_run_at_the_next_captured_size(capture, batch, size):
    stepper = Stepper(nano_pipeline().network, sizes=(1, 2, 4), capture=capture)
    v = stepper(*inputs(batch))
    assert v.shape[0] == batch and capture.sizes == [size]
    assert torch.allclose(v, plain(*inputs(batch)), atol=1e-5)


@torch.inference_mode()
def test_a_size_is_captured_once_and_new_conditions_reach_it(capture):
    stepper = Stepper(nano_pipeline().network, sizes=(2, 4), capture=capture)
    results = []
    for seed, batch in enumerate((2, 4, 3, 1, 2)):
        x, t, conditions = inputs(batch, seed)
        results.append((stepper(x, t, conditions), plain(x, t, conditions)))
        again = stepper(x + 1, t, conditions)
        assert torch.allclose(again, plain(x + 1, t, conditions), atol=1e-5)
    assert capture.sizes == [2, 4] and capture.replays == 10
    assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in results)  # also later ones


@torch.inference_mode()
def test_a_larger_batch_than_any_captured_is_run_as_it_is(capture):
    stepper = Stepper(nano_pipeline().network, sizes=(1, 2), capture=capture)
    assert torch.allclose(stepper(*inputs(3)), plain(*inputs(3)), atol=1e-5)
    assert capture.sizes == []


@torch.inference_mode()
def test_a_device_that_cannot_capture_is_asked_once(caplog):
    calls = []

    def broken(run):
        calls.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    stepper = Stepper(nano_pipeline().network, capture=broken)
    for _ in range(2):
        assert torch.allclose(stepper(*inputs(2)), plain(*inputs(2)), atol=1e-5)
    assert len(calls) == 1 and "2 pictures are not captured" in caplog.text


@torch.inference_mode()
def test_what_could_not_be_captured_is_tried_again_once_it_is_compiled(capture):
    stepper = Stepper(nano_pipeline().network, sizes=(1, 2), capture=capture)
    refusals = [RuntimeError("another thread was in the way")]

    def once(run):
        if refusals:
            raise refusals.pop()
        return capture(run)

    stepper._capture = once
    stepper(*inputs(2))
    stepper(*inputs(1))  # another size is captured all the same
    assert capture.sizes == [1]
    stepper.use(2, plain_step)
    assert torch.allclose(stepper(*inputs(2)), plain(*inputs(2)), atol=1e-5) and capture.sizes == [1, 2]


@pytest.mark.parametrize("batch", [1, 3])
@torch.inference_mode()
def test_control_and_encoder_side_by_side_are_the_same_step(batch):
    x, t, conditions = inputs(batch)
    network = nano_pipeline().network
    step = SideBySide(network.correct, network.encode, network.decode)
    v = step(x, t, conditions.hint_features, conditions.keys_values)
    assert torch.equal(v, plain(x, t, conditions))


@torch.inference_mode()
def test_out_of_memory_is_not_taken_for_a_device_that_cannot_capture(capture):
    def full(run):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    stepper = Stepper(nano_pipeline().network, sizes=(4,), capture=full)
    with pytest.raises(torch.OutOfMemoryError):
        stepper(*inputs(4))
    stepper._capture = capture
    assert torch.allclose(stepper(*inputs(1)), plain(*inputs(1)), atol=1e-5) and capture.sizes == [4]


@torch.inference_mode()
def test_what_is_compiled_takes_over_and_is_captured_anew(capture):
    stepper = Stepper(nano_pipeline().network, sizes=(2,), capture=capture)
    stepper(*inputs(2))
    stepper.use(2, lambda x, t, hint, keys_values: torch.full_like(x, 5.0))
    assert (stepper(*inputs(2)) == 5.0).all() and capture.sizes == [2, 2]


@torch.inference_mode()
def test_a_compiled_step_that_fails_is_dropped_and_the_step_is_taken(caplog):
    stepper = Stepper(nano_pipeline().network)

    def broken(*args):
        raise RuntimeError("illegal instruction")

    stepper.use(2, broken)
    for _ in range(2):
        assert torch.allclose(stepper(*inputs(2)), plain(*inputs(2)), atol=1e-5)
    assert caplog.text.count("is not used any more") == 1


def test_launching_is_never_more_than_one_step_ahead_of_the_gpu():
    log: list[str] = []

    class Event:
        def __init__(self) -> None:
            self.number = sum(line.startswith("record") for line in log) + 1

        def record(self) -> None:
            log.append(f"record {self.number}")

        def synchronize(self) -> None:
            log.append(f"wait for {self.number}")

    pace = Pace(torch.device("cuda"), Event)
    for _ in range(3):
        pace()
    assert log == ["record 1", "record 2", "wait for 1", "record 3", "wait for 2"]
    assert Pace(torch.device("cpu"))._event is None
