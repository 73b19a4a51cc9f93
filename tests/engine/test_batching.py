"""Continuous batching: who joins when, and that nobody's picture depends on the company."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ldm.sampling import Node
from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.memory import BatchLimit
from lumiply.engine.protocol import Progress
from lumiply.errors import RenderError
from tests.engine.company import INFO, OTHER, PHOTO, WAIT, At, same
from tests.nano import nano_pipeline


@pytest.fixture
def engine(steps) -> Iterator[LocalEngine]:
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=8)
    yield engine
    engine.close(WAIT)


def test_a_request_joins_at_the_next_step_and_leaves_when_it_is_done(engine, steps):
    join = At(2, lambda: engine.submit(OTHER, ["red"], steps=2))
    first = engine.submit(PHOTO, ["white", "blue"], progress=join)
    assert first.result(WAIT) and join.result.result(WAIT)
    assert [len(times) for times in steps.seen] == [2, 2, 3, 3, 2, 2]
    assert len(set(steps.seen[2])) == 2  # each at a timestep of its own


def test_pictures_do_not_depend_on_the_company(engine):
    alone = {
        preset: engine.submit(OTHER, COLORS, seed=5, preset=preset, steps=4).result(WAIT)
        for preset in ("exact", "balanced", "fast")
    }
    together: list = []

    def company():
        together.extend(engine.submit(OTHER, COLORS, seed=5, preset=preset, steps=4) for preset in alone)

    engine.submit(PHOTO, COLORS, seed=9, steps=9, progress=At(3, company)).result(WAIT)
    for future, expected in zip(together, alone.values(), strict=True):
        pictures = future.result(WAIT)
        assert all(same(pictures[color], expected[color]) for color in COLORS)
    # and what is compared does differ
    assert not same(alone["exact"]["red"], alone["fast"]["red"])
    assert not same(alone["exact"]["red"], alone["exact"]["blue"])


def test_latents_in_company_are_those_alone_to_1e_4(steps):
    """Rows at other timesteps, of other photos, in a batch of another size."""
    pipeline = steps.pipeline
    conditions = pipeline.conditions(PHOTO, ["red"])
    alone = pipeline.denoise(conditions, pipeline.noise(3), 5)
    from lumiply.engine.batching import Group, StepBatch
    from lumiply.engine.presets import Sampling

    def group(owner, photo, colors, seed, sampling):
        with torch.inference_mode():
            conditions = pipeline.conditions(photo, colors)
            noise = pipeline.noise(seed).expand(len(colors), -1, -1, -1)
            return Group(owner, conditions, sampling.begin(noise, pipeline.schedule))

    batch = StepBatch(pipeline.stepper, BatchLimit(8, "denoising"))
    batch.join(group("other", OTHER, COLORS[:4], 8, Sampling("unipc", 9)))
    batch.step()
    batch.join(group("mine", PHOTO, ["red"], 3, Sampling("ddim", 5)))
    ended = [one for _ in range(5) for one in batch.step()]
    assert [one.owner for one in ended] == ["mine"] and batch.rows == 4
    assert (ended[0].latents - alone).norm() / alone.norm() < 1e-4


def test_more_colours_than_there_is_room_for_join_one_by_one(steps):
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=3)
    seen: list[Progress] = []
    pictures = engine.submit(PHOTO, COLORS, steps=2, progress=seen.append).result(WAIT)
    engine.close(WAIT)
    assert tuple(pictures) == COLORS
    assert [len(times) for times in steps.seen] == [3, 3, 3, 3, 1, 1]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    expected = LocalEngine(nano_pipeline(), INFO, max_batch=7)
    whole = expected.submit(PHOTO, COLORS, steps=2).result(WAIT)
    expected.close(WAIT)
    assert all(same(pictures[color], whole[color]) for color in COLORS)


def test_a_cancelled_render_leaves_and_the_others_go_on(engine, steps):
    cancelled: list = []

    def cancel():
        cancelled[0].cancel()

    keeper = At(3, cancel)
    first = engine.submit(
        PHOTO,
        ["white"],
        progress=At(1, lambda: cancelled.append(engine.submit(OTHER, ["red", "blue"], steps=500)) or None),
    )
    # the second rides along from step 2; a third callback cancels it at its own step 2
    assert first.result(WAIT)
    survivor = engine.submit(PHOTO, ["white"], progress=keeper)
    assert survivor.result(WAIT)
    assert cancelled[0].cancelled()
    assert engine.submit(PHOTO, ["green"], steps=1).result(WAIT)
    assert steps.seen[-1] and len(steps.seen[-1]) == 1


def test_an_error_in_one_callback_spares_the_others(engine):
    def refuse(progress: Progress) -> None:
        if progress.stage == "denoise":
            raise ValueError("no more")

    bad: list = []
    good = engine.submit(
        PHOTO, ["white"], progress=At(1, lambda: bad.append(engine.submit(OTHER, ["red"], progress=refuse)))
    )
    assert good.result(WAIT)
    with pytest.raises(RenderError):
        bad[0].result(WAIT)


def test_a_fault_in_the_network_ends_only_the_render_that_it_comes_from(monkeypatch):
    pipeline = nano_pipeline()
    real, sizes = pipeline.stepper, []

    def poisoned(x, t, conditions):
        sizes.append(len(x))
        if 501 in t:  # where two steps of DDIM begin
            raise RuntimeError("poison")
        return real(x, t, conditions)

    engine = LocalEngine(pipeline, INFO, max_batch=8)
    expected = engine.submit(PHOTO, ["white", "blue"], steps=6).result(WAIT)
    monkeypatch.setattr(pipeline, "stepper", poisoned)
    join = At(2, lambda: engine.submit(OTHER, ["red"], steps=2))
    pictures = engine.submit(PHOTO, ["white", "blue"], steps=6, progress=join).result(WAIT)
    with pytest.raises(RenderError):
        join.result.result(WAIT)
    engine.close(WAIT)
    assert sizes == [2, 2, 3, 2, 1, 2, 2, 2]
    assert all(same(pictures[color], expected[color]) for color in expected)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ZeroDivisionError("inside")])
def test_a_fault_in_the_samplers_arithmetic_ends_only_the_render_that_it_comes_from(monkeypatch, error):
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=8)
    expected = engine.submit(PHOTO, ["white"]).result(WAIT)
    real, armed = Node.x0, []

    def x0(node, x, v):
        if armed and armed.pop() == "second":  # of the two renders in one step
            raise error
        return real(node, x, v)

    monkeypatch.setattr(Node, "x0", x0)
    join = At(
        2, lambda: engine.submit(OTHER, ["red"], progress=At(1, lambda: armed.extend(["second", "first"])))
    )
    picture = engine.submit(PHOTO, ["white"], progress=join).result(WAIT)["white"]
    with pytest.raises(RenderError):
        join.result.result(WAIT)
    assert same(picture, expected["white"]) and not armed
    assert engine.submit(OTHER, ["red"]).result(WAIT)
    engine.close(WAIT)


class Small:
    """A device with room for three pictures."""

    def __init__(self, real) -> None:
        self.real, self.sizes = real, []

    def __call__(self, x, t, conditions):
        self.sizes.append(len(x))
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return self.real(x, t, conditions)


def test_out_of_memory_halves_the_batch_goes_on_and_says_so_once(monkeypatch, caplog):
    pipeline = nano_pipeline()
    engine = LocalEngine(pipeline, INFO, max_batch=7)
    expected = engine.submit(PHOTO, COLORS, steps=4).result(WAIT)
    small = Small(pipeline.stepper)
    monkeypatch.setattr(pipeline, "stepper", small)
    with caplog.at_level("WARNING"):
        pictures = engine.submit(PHOTO, COLORS, steps=4).result(WAIT)
        again = engine.submit(PHOTO, ["red"], steps=2).result(WAIT)
    engine.close(WAIT)
    assert all(same(pictures[color], expected[color]) for color in COLORS) and again
    assert small.sizes[0] == 7 and max(small.sizes[1:]) == 3
    said = [record for record in caplog.records if "not enough memory" in record.message]
    assert len(said) == 1 and "7 pictures" in said[0].message and "at most 3" in said[0].message


def test_no_room_for_a_single_picture_is_the_callers_error(monkeypatch):
    pipeline = nano_pipeline()
    engine = LocalEngine(pipeline, INFO)

    def full(x, t, conditions):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(pipeline, "stepper", full)
    with pytest.raises(RenderError, match="ran out of memory"):
        engine.submit(PHOTO, ["red"]).result(WAIT)
    monkeypatch.undo()
    assert engine.submit(PHOTO, ["red"]).result(WAIT)
    engine.close(WAIT)
