"""Who may join a batch: narrow while few wait, wide while many do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lumiply.colors import COLORS
from lumiply.engine.admission import Admission
from lumiply.engine.local import LocalEngine
from lumiply.engine.memory import BatchLimit
from lumiply.engine.protocol import renders_ahead
from lumiply.errors import EngineClosedError
from tests.engine.company import INFO, OTHER, PHOTO, WAIT, At, same
from tests.nano import nano_pipeline

#: Steps of the render that would join, and the most that are left in the batch.
ALIKE = {"steps": 50, "left": 50}


def admission(most: int = 14) -> Admission:
    return Admission(BatchLimit(most, "denoising"))


@pytest.mark.parametrize(
    ("pictures", "running", "waiting", "joining"),
    [
        (7, 0, 7, 7),  # alone
        (1, 7, 1, 1),  # one more beside a photo's seven
        (7, 7, 7, 0),  # a second photo waits for the first
        (7, 1, 7, 7),
        (7, 2, 7, 0),  # whole, or not at all
        (3, 7, 4, 0),
        (12, 0, 12, 8),  # more than a batch holds begin in parts
        (7, 7, 14, 7),  # three photos: two at once
        (7, 11, 14, 3),  # of a wide batch every place is taken
        (7, 14, 21, 0),
    ],
)
def test_how_many_join(pictures, running, waiting, joining):
    assert admission().joining(pictures, entered=0, running=running, waiting=waiting, **ALIKE) == joining


def test_what_has_begun_goes_on_in_parts():
    assert admission().joining(4, entered=8, running=6, waiting=4, **ALIKE) == 2


def test_wide_until_fewer_than_fill_a_batch_are_left():
    rule = admission()
    assert rule.joining(7, entered=0, running=7, waiting=14, **ALIKE) == 7
    assert rule.joining(7, entered=0, running=7, waiting=7, **ALIKE) == 7
    assert rule.joining(6, entered=0, running=7, waiting=6, **ALIKE) == 0
    assert rule.joining(7, entered=0, running=7, waiting=7, **ALIKE) == 0


@pytest.mark.parametrize(("steps", "joining"), [(10, 7), (24, 7), (25, 0), (50, 0)])
def test_a_render_does_not_wait_for_one_that_takes_more_than_twice_as_long(steps, joining):
    given = admission().joining(7, entered=0, running=7, waiting=7, steps=steps, left=50)
    assert given == joining


@pytest.mark.parametrize("batch", range(1, 65))
def test_a_server_keeps_ahead_what_makes_a_batch_wide(batch):
    info = replace(INFO, batch=batch)
    rule, waiting = admission(batch), renders_ahead(batch) * len(COLORS)
    assert rule.joining(7, entered=0, running=0, waiting=waiting, **ALIKE) == min(7, batch)
    running = batch - 1
    assert rule.joining(7, entered=0, running=running, waiting=waiting - running, **ALIKE) == 1
    ahead = 0
    while info.has_room(ahead, ahead * len(COLORS)):
        ahead += 1
    assert ahead == info.most_ahead == renders_ahead(batch)


@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_a_batch_that_is_no_wider_than_a_narrow_one_is_filled(most):
    assert admission(most).joining(7, entered=0, running=most - 1, waiting=7, **ALIKE) == 1


def test_a_limit_that_falls_is_kept():
    limit = BatchLimit(14, "denoising")
    rule = Admission(limit)
    assert rule.joining(14, entered=0, running=0, waiting=21, **ALIKE) == 14
    limit.most = 7
    assert rule.joining(14, entered=0, running=0, waiting=21, **ALIKE) == 7
    limit.most = 3
    assert rule.joining(7, entered=0, running=3, waiting=7, **ALIKE) == 0


@pytest.fixture
def engine(steps) -> Iterator[LocalEngine]:
    engine = LocalEngine(nano_pipeline(), INFO, max_batch=14)
    yield engine
    engine.close(WAIT)


def sizes(steps) -> list[int]:
    return [len(times) for times in steps.seen]


def test_one_colour_joins_seven(engine, steps):
    join = At(2, lambda: engine.submit(OTHER, ["red"], steps=3))
    assert engine.submit(PHOTO, COLORS, progress=join).result(WAIT) and join.result.result(WAIT)
    assert sizes(steps) == [7, 7, 8, 8, 8, 7]


def test_a_second_photo_begins_when_the_first_is_done(engine, steps):
    join = At(2, lambda: engine.submit(OTHER, COLORS, steps=2))
    assert engine.submit(PHOTO, COLORS, progress=join).result(WAIT) and join.result.result(WAIT)
    assert sizes(steps) == [7] * 8


def test_a_photo_in_few_steps_does_not_wait_for_one_in_many(engine, steps):
    join = At(2, lambda: engine.submit(OTHER, COLORS, steps=2))
    assert engine.submit(PHOTO, COLORS, steps=20, progress=join).result(WAIT) and join.result.result(WAIT)
    assert sizes(steps) == [7] * 2 + [14] * 2 + [7] * 16


def test_of_three_photos_two_are_denoised_at_once_and_pictures_are_those_alone(engine, steps):
    expected = {id(photo): engine.submit(photo, COLORS).result(WAIT) for photo in (PHOTO, OTHER)}
    steps.seen.clear()
    two_more = At(1, lambda: [engine.submit(photo, COLORS) for photo in (OTHER, PHOTO)])
    pictures = [engine.submit(PHOTO, COLORS, progress=two_more).result(WAIT)]
    pictures += [future.result(WAIT) for future in two_more.result]
    assert sizes(steps) == [7] + [14] * 6 + [7] * 5
    for found, photo in zip(pictures, (PHOTO, OTHER, PHOTO), strict=True):
        assert all(same(found[color], expected[id(photo)][color]) for color in COLORS)


def test_a_render_that_waits_for_room_can_be_cancelled_and_lets_the_next_go_first(engine, steps):
    waiting: list = []

    def progress(now) -> None:
        another(now)
        cancel(now)

    another = At(
        1, lambda: waiting.extend([engine.submit(OTHER, COLORS), engine.submit(OTHER, ["green"], steps=2)])
    )
    cancel = At(3, lambda: waiting[0].cancel())
    assert engine.submit(PHOTO, COLORS, progress=progress).result(WAIT)
    assert cancel.result and waiting[1].result(WAIT)
    assert sizes(steps) == [7, 7, 7, 8, 8, 7]


def test_a_render_that_waits_for_room_is_told_that_the_engine_closes(engine):
    waiting: list = []

    held = threading.Event()

    def more(now) -> None:
        another(now)
        at_three(now)

    another = At(1, lambda: waiting.append(engine.submit(OTHER, COLORS)))
    at_three = At(3, held.set)  # two steps in which it was kept out
    first = engine.submit(PHOTO, COLORS, steps=900, progress=more)
    assert held.wait(WAIT)
    engine.close(WAIT)
    for future in (first, *waiting):
        with pytest.raises(EngineClosedError):
            future.result(WAIT)
