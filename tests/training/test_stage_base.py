"""Budgets of a stage."""

from __future__ import annotations

import pytest

from lumiply.training.stage_base import Budget


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth():
    budget = Budget(steps=1000, seconds=100.0, warmup=10)
    factors = [budget.learning_rate_factor(step, 0.0) for step in (0, 4, 9, 500, 1000)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 0.505, 0.01], abs=1e-2)
    assert budget.learning_rate_factor(20, 100.0) == pytest.approx(0.01)
