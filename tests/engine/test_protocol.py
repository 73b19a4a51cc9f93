"""What an engine says of itself."""

from __future__ import annotations

from dataclasses import replace

from tests.fakes import INFO


def test_an_engine_is_summed_up_in_words() -> None:
    assert INFO.summary == "fake on cpu, float32, 7 steps"
    assert replace(INFO, steps=1).summary == "fake on cpu, float32, 1 step"
