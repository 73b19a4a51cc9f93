"""Samplers: as many evaluations as steps, and the order of convergence that their papers state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm.sampling import SAMPLERS, Node, sample, sample_ddim, sample_dpmpp_2m, sample_unipc
from ldm.schedule import NoiseSchedule, ddim_timesteps, log_snr_timesteps

#: Data are normal with this mean and deviation, so v and the ODE's solution are known in closed form.
MEAN, DEVIATION = 0.7, 0.3


def smooth_schedule(timesteps: int) -> NoiseSchedule:
    """lambda falls evenly from 3 to -3, so that halving the steps halves h, whatever the number of timesteps."""
    lam = torch.linspace(3.0, -3.0, timesteps, dtype=torch.float64)
    a = torch.sigmoid(2 * lam)
    return NoiseSchedule(1 - a / torch.cat([torch.ones(1), a[:-1]]), a)


def spread(schedule: NoiseSchedule, t: int) -> float:
    node = Node.of(schedule, t)
    return math.hypot(node.alpha * DEVIATION, node.sigma)


def gaussian_v(schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Tensor:
    """v of x0 = E[x0 | x]: alpha x - sigma v = mean + alpha DEVIATION^2 (x - alpha mean) / variance."""
    node = Node.of(schedule, int(t[0]))
    gain = node.alpha * DEVIATION**2 / spread(schedule, node.t) ** 2
    x0 = MEAN + gain * (x - node.alpha * MEAN)
    return (node.alpha * x - x0) / node.sigma


def exact(schedule: NoiseSchedule, x: Tensor) -> Tensor:
    """Along the ODE a point keeps its distance from the mean, counted in deviations."""
    last = schedule.timesteps - 1
    start, end = Node.of(schedule, last), Node.of(schedule, 0)
    return end.alpha * MEAN + (x - start.alpha * MEAN) * spread(schedule, 0) / spread(schedule, last)


def error(name: str, steps: int) -> float:
    """In double precision, so that rounding does not hide the order."""
    schedule = smooth_schedule(100_001)
    x = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64).view(3, 1, 1, 1)
    stepwise = SAMPLERS[name](x, schedule, steps)
    point, t = next(stepwise)
    while True:
        try:
            point, t = stepwise.send(_Double(gaussian_v(schedule, point, torch.tensor([t]))))
        except StopIteration as end:
            return float((end.value - exact(schedule, x)).abs().max())


class _Double(torch.Tensor):
    """A tensor that `.float()` leaves in double precision."""

    def float(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize("name, order", [("ddim", 1), ("dpmpp_2m", 2), ("unipc", 3)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(name, order):
    slopes = [math.log2(error(name, n) / error(name, 2 * n)) for n in (25, 50, 100)]
    assert slopes[-1] == pytest.approx(order, abs=0.25), slopes


@pytest.mark.parametrize("function", [sample_ddim, sample_dpmpp_2m, sample_unipc])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 999, 1000])
def test_as_many_evaluations_as_steps_for_every_number(function, steps):
    schedule = NoiseSchedule.scaled_linear()
    visited, told = [], []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        visited.append(int(t[0]))
        return gaussian_v(schedule, x, t)

    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    end = function(predict, x, schedule, steps, lambda done, total: told.append((done, total)))
    assert len(visited) == steps and visited == sorted(set(visited), reverse=True)
    assert told == [(done, steps) for done in range(1, steps + 1)]
    assert torch.isfinite(end).all() and end.dtype == torch.float32


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_with_many_steps_all_samplers_agree(name):
    schedule = NoiseSchedule.scaled_linear()
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    end = sample(SAMPLERS[name], lambda x, t: gaussian_v(schedule, x, t), x, schedule, 1000)
    assert torch.allclose(end, exact(schedule, x), atol=3e-3)


def test_few_steps_of_higher_order_are_nearer_than_many_of_first_order():
    assert error("unipc", 20) < error("dpmpp_2m", 20) < error("ddim", 20)
    assert error("dpmpp_2m", 25) < error("ddim", 100)


@pytest.mark.parametrize("steps", [0, 1001, -3])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        ddim_timesteps(steps)
    with pytest.raises(ValueError, match=r"\[1, 1000\]"):
        log_snr_timesteps(steps, NoiseSchedule.scaled_linear())


@pytest.mark.parametrize("steps", [1, 2, 3, 15, 333, 998, 999, 1000])
def test_timesteps_begin_at_the_last_and_leave_room_for_zero(steps):
    times = log_snr_timesteps(steps, NoiseSchedule.scaled_linear()).tolist()
    assert len(times) == steps and times[0] == 999 and times == sorted(set(times), reverse=True)
    assert times[-1] > 0 or steps == 1000


def test_ten_timesteps_divide_the_signal_to_noise_ratio_evenly():
    schedule = NoiseSchedule.scaled_linear()
    nodes = [Node.of(schedule, t).lam for t in (*log_snr_timesteps(10, schedule).tolist(), 0)]
    growth = [then - now for now, then in zip(nodes[:-1], nodes[1:], strict=True)]
    assert max(growth) / min(growth) < 1.35  # whole timesteps are coarse near 0
