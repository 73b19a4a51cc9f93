"""A step is the same step however it is run: as it stands, captured at the next larger size, or compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cldm import StepConditions
from lumiply.engine.compiling import BackgroundCompiler, Task, keep_compiled_code
from lumiply.engine.pace import Pace
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.side_by_side import SideBySide
from lumiply.engine.stepper import Stepper
from tests.nano import nano_adaptor, nano_model, nano_pipeline

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
    compiled: list[str] = []

    def note(function):
        compiled.append(function.__name__)
        return function

    x, t, conditions = inputs(batch)
    step = SideBySide(nano_pipeline().network, note)
    v = step(x, t, conditions.hint_features, conditions.keys_values)
    assert torch.equal(v, plain(x, t, conditions)) and compiled == ["correct", "encode", "decode"]


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


def test_nobody_waits_for_a_compilation_and_it_takes_over_when_ready():
    gate, installed = threading.Event(), []

    def slow(function):
        assert gate.wait(WAIT)
        return function

    task = Task("a step", build, lambda: (torch.ones(1),), installed.append)
    compiler = BackgroundCompiler([task], compile=slow)
    assert not installed and not compiler.wait(0)
    gate.set()
    assert compiler.wait(WAIT) and installed == [torch.neg]


def test_a_compilation_that_fails_is_logged_and_changes_nothing(caplog):
    def broken(function):
        raise RuntimeError("no C++ compiler")

    installed: list = []
    tasks = [Task(f"step {n}", build, lambda: (torch.ones(1),), installed.append) for n in (1, 2)]
    with caplog.at_level("WARNING"):
        assert BackgroundCompiler(tasks, compile=broken).wait(WAIT)
    assert not installed
    assert "step 1 could not be compiled" in caplog.text and "no C++ compiler" in caplog.text


def test_a_closed_compiler_begins_nothing_more():
    entered, gate, installed = threading.Event(), threading.Event(), []

    def slow(function):
        entered.set()
        assert gate.wait(WAIT)
        return function

    tasks = [Task(f"step {n}", build, lambda: (torch.ones(1),), installed.append) for n in (1, 2)]
    compiler = BackgroundCompiler(tasks, compile=slow)
    assert entered.wait(WAIT)
    compiler.close()
    gate.set()
    assert compiler.wait(WAIT) and len(installed) == 1


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


@pytest.mark.parametrize("side_by_side, graphs", [(False, 2), (True, 4)])
def test_the_step_and_the_decoder_are_traced_whole_and_never_again_by_a_render(side_by_side, graphs):
    """With torch.compile itself, less its code generation, which takes minutes."""
    traced: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example) -> Callable:
        traced.append(graph)
        return graph.forward

    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    from PIL import Image

    photo = Image.new("RGB", (40, 30), (120, 90, 60))
    before = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    compiler = BackgroundCompiler(
        pipeline.compile_tasks((2,), side_by_side=side_by_side),
        compile=lambda function: torch.compile(function, fullgraph=True, dynamic=False, backend=backend),
    )
    assert compiler.wait(WAIT)
    assert (
        len(traced) == graphs and list(pipeline.stepper._compiled) == [2] and list(pipeline._decoders) == [1]
    )
    after = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    assert len(traced) == graphs
    assert all(after[color].tobytes() == before[color].tobytes() for color in before)


def test_compiled_code_is_kept_in_the_folder_that_is_asked_for(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "theirs")
    import os

    keep_compiled_code(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "theirs"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled_code(tmp_path / "deep" / "er")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "deep" / "er" / "compiled")
    assert (tmp_path / "deep" / "er" / "compiled").is_dir()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").write_text("")
    keep_compiled_code(tmp_path / "file")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ and "cannot be kept" in caplog.text
