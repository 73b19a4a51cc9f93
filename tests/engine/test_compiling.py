"""What is compiled elsewhere takes over when it is ready, agrees with what was there, and never stops a render."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from lumiply.engine.compiling import BackgroundCompiler, CompilationError, Function, Part
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.tasks import compile_tasks
from tests.engine.toy import toy_task
from tests.nano import nano_adaptor, nano_model

WAIT = 60
#: torch's own compiler imports what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Plain:
    """Compiles nothing: gives each part as it stands. What `before` does, it does first."""

    def __init__(self, before: Callable[[str], None] = lambda name: None) -> None:
        self.before, self.closed, self.names = before, threading.Event(), []

    def __call__(self, part: Part, name: str) -> Function:
        self.before(name)
        self.names.append(name)
        return getattr(part.network, part.method)

    def close(self) -> None:
        self.closed.set()


def test_nobody_waits_for_a_compilation_and_it_takes_over_when_ready():
    gate, installed = threading.Event(), []
    compiler = BackgroundCompiler([toy_task("a step", installed.append)], Plain(lambda _: gate.wait(WAIT)))
    assert not installed and not compiler.wait(0)
    gate.set()
    assert compiler.wait(WAIT) and len(installed) == 1


def test_a_compilation_that_fails_is_logged_and_changes_nothing(caplog):
    def broken(name: str) -> None:
        raise CompilationError("no C++ compiler")

    installed: list[Function] = []
    plain = Plain(broken)
    with caplog.at_level("WARNING"):
        tasks = [toy_task(f"step {n}", installed.append) for n in (1, 2)]
        assert BackgroundCompiler(tasks, plain).wait(WAIT)
    assert not installed and plain.closed.is_set()
    assert "step 1 could not be compiled" in caplog.text and "no C++ compiler" in caplog.text
    assert "step 2" not in caplog.text


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_what_computes_something_else_is_not_installed(error, caplog):
    class Wrong(Plain):
        def __call__(self, part: Part, name: str) -> Function:
            right = super().__call__(part, name)
            return (lambda *given: right(*given) * (1 + error)) if part.method == "decode" else right

    installed: list[Function] = []
    with caplog.at_level("WARNING"):
        assert BackgroundCompiler([toy_task("a step", installed.append)], Wrong()).wait(WAIT)
    assert not installed and "from what it was" in caplog.text


def test_a_closed_compiler_begins_nothing_more(caplog):
    entered, gate, installed = threading.Event(), threading.Event(), []

    def slow(name: str) -> None:
        entered.set()
        assert gate.wait(WAIT)

    plain = Plain(slow)
    compiler = BackgroundCompiler([toy_task(f"step {n}", installed.append) for n in (1, 2)], plain, slots=1)
    assert entered.wait(WAIT)
    compiler.close()
    gate.set()
    assert compiler.wait(WAIT) and not installed
    assert len(plain.names) == 1 and plain.closed.is_set() and "could not be" not in caplog.text


@pytest.mark.parametrize("sizes", [(2,), (2, 1)])
def test_all_stages_of_a_pipeline_can_be_compiled_and_give_the_same_pictures(sizes):
    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    photo = Image.new("RGB", (40, 30), (120, 90, 60))
    before = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    plain = Plain()
    assert BackgroundCompiler(compile_tasks(pipeline, sizes), plain, slots=1).wait(WAIT)
    assert sorted(pipeline.stepper._compiled) == sorted(sizes)
    hints = [("hint", size) for size in sizes]
    assert set(pipeline._compiled) == {("decoder", 1), ("features", 1), *hints}
    assert plain.names[0] == "the step of 2 pictures, part 1"
    after = pipeline.relight(photo, ["white", "red"], seed=1, steps=3)
    assert all(after[color].tobytes() == before[color].tobytes() for color in before)


@torch.inference_mode()
def test_a_compiled_stage_that_fails_is_dropped_and_the_picture_is_made(caplog):
    def broken(*given):
        raise RuntimeError("illegal instruction")

    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    photo = Image.new("RGB", (40, 30), (120, 90, 60))
    before = pipeline.relight(photo, ["red"], seed=1, steps=1)
    pipeline._compiled = dict.fromkeys([("decoder", 1), ("features", 1), ("hint", 1)], broken)
    after = pipeline.relight(photo, ["red"], seed=1, steps=1)
    assert after["red"].tobytes() == before["red"].tobytes() and not pipeline._compiled
    assert caplog.text.count("is not used any more") == 3
