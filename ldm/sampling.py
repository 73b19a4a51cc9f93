"""Samplers of the probability-flow ODE. One is a function of a v-predictor, noise and a schedule.

Each is written once, as a generator that asks for v at one point a step: `sample_ddim` and its kin drive it with a
predictor, and a loop that renders for many users at once drives several side by side (`lumiply.engine.batching`).
All end at timestep 0 of the schedule, so that with many steps they agree. The state is float32 throughout,
whatever precision the predictor works in.

Notation: alpha = sqrt(a_t), sigma = sqrt(1 - a_t), lambda = log(alpha / sigma), h the growth of lambda in a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ldm.schedule import NoiseSchedule, ddim_timesteps, log_snr_timesteps

#: (x (b, c, h, w), t (b,) int64) -> v (b, c, h, w)
VPredictor = Callable[[Tensor, Tensor], Tensor]
#: (steps done, steps in all); may raise to end the sampling.
StepCallback = Callable[[int, int], None]
#: Yields (x (b, c, h, w), timestep), is sent v of that shape, returns x0; yields `steps` times in all.
Stepwise = Generator[tuple[Tensor, int], Tensor, Tensor]
#: (noise (b, c, h, w), schedule, steps) -> the sampling, not yet begun.
Sampler = Callable[[Tensor, NoiseSchedule, int], Stepwise]


@dataclass(frozen=True)
class Node:
    """A point of the schedule that a sampler visits."""

    t: int
    alpha: float
    sigma: float

    @classmethod
    def of(cls, schedule: NoiseSchedule, t: int) -> Node:
        a = float(schedule.alphas_cumprod[t])
        return cls(t, a**0.5, (1.0 - a) ** 0.5)

    @property
    def lam(self) -> float:
        return math.log(self.alpha / self.sigma)

    def x0(self, x: Tensor, v: Tensor) -> Tensor:
        return self.alpha * x - self.sigma * v.float()


def ddim(x: Tensor, schedule: NoiseSchedule, steps: int) -> Stepwise:
    """DDIM (arXiv 2010.02502), eq. 12 with eta = 0; of first order.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    times = ddim_timesteps(steps, schedule.timesteps).tolist()
    nodes = [Node.of(schedule, t) for t in (*reversed(times), 0)]
    for now, then in zip(nodes[:-1], nodes[1:], strict=True):
        v = yield x, now.t
        x0 = now.x0(x, v)
        eps = now.alpha * v.float() + now.sigma * x
        x = then.alpha * x0 + then.sigma * eps
    return x


def dpmpp_2m(x: Tensor, schedule: NoiseSchedule, steps: int) -> Stepwise:
    """DPM-Solver++(2M) (arXiv 2211.01095), algorithm 2; of second order.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    nodes = _nodes(schedule, steps)
    before, h_before = None, 1.0
    for now, then in zip(nodes[:-1], nodes[1:], strict=True):
        v = yield x, now.t
        x0, h = now.x0(x, v), then.lam - now.lam
        ahead = x0 if before is None else x0 + h / (2 * h_before) * (x0 - before)
        x = then.sigma / now.sigma * x - then.alpha * math.expm1(-h) * ahead
        before, h_before = x0, h
    return x


def unipc(x: Tensor, schedule: NoiseSchedule, steps: int) -> Stepwise:
    """UniPC-2 (arXiv 2302.04867), algorithms 1 and 2, predicting x0; of third order.

    Each v first corrects the point at which it was asked for, at no further evaluation. The integral of the
    polynomial through the x0 at hand is taken exactly, so the paper's choice of B(h) does not enter.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    nodes = _nodes(schedule, steps)
    known: list[tuple[float, Tensor]] = []  # (lambda, x0) of the last two nodes
    corrected = x
    for index, (now, then) in enumerate(zip(nodes[:-1], nodes[1:], strict=True)):
        v = yield x, now.t
        x0 = (now.lam, now.x0(x, v))
        if index:
            corrected = _integrate(corrected, nodes[index - 1], now, [*known[-1:], x0, *known[-2:-1]])
        known = [*known[-1:], x0]
        x = _integrate(corrected, now, then, known[::-1])
    return x


def _integrate(x: Tensor, start: Node, end: Node, known: list[tuple[float, Tensor]]) -> Tensor:
    """x at `end`, with x0 along the way the polynomial through `known`: one to three points, `start`'s first.

    UniPC, eq. 3: x_end = sigma_end / sigma_start x + sigma_end * integral of exp(lambda) x0(lambda).
    """
    h = end.lam - start.lam
    first, others = known[0][1], [((lam - known[0][0]), x0) for lam, x0 in known[1:]]
    # x0 = first + c1 s + c2 s^2 with s from 0 to 1 along the step; j_k = h * integral of exp(h (s - 1)) s^k
    j0 = -math.expm1(-h)
    x = end.sigma / start.sigma * x + end.alpha * j0 * first
    if h == 0.0 or not others:
        return x
    j1 = 1.0 - j0 / h
    slopes = [(distance / h, (x0 - first) * (h / distance)) for distance, x0 in others]
    (s1, slope1), *rest = slopes
    if not rest:
        return x + end.alpha * j1 * slope1
    (s2, slope2) = rest[0]
    c2 = (slope1 - slope2) / (s1 - s2)
    j2 = 1.0 - 2.0 * j1 / h
    return x + end.alpha * (j1 * (slope1 - s1 * c2) + j2 * c2)


def _nodes(schedule: NoiseSchedule, steps: int) -> list[Node]:
    """Even in lambda: the higher orders need steps h of like size."""
    times = log_snr_timesteps(steps, schedule).tolist()
    return [Node.of(schedule, t) for t in (*times, 0)]


SAMPLERS: Final[dict[str, Sampler]] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "unipc": unipc}


def sample(
    sampler: Sampler,
    predict_v: VPredictor,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """From noise to x0 in `steps` evaluations.

    Args:
        x: (b, c, h, w) standard normal noise.

    Returns:
        (b, c, h, w) float32: the scaled latent.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    stepwise = sampler(x.float(), schedule, steps)
    point, t = next(stepwise)
    for done in range(1, steps + 1):
        v = predict_v(point, torch.full((len(x),), t, dtype=torch.long, device=x.device))
        try:
            point, t = stepwise.send(v)
        except StopIteration as end:
            point = end.value
        if callback is not None:
            callback(done, steps)
    return point


def sample_ddim(
    predict_v: VPredictor,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """`sample` with `ddim`."""
    return sample(ddim, predict_v, x, schedule, steps, callback)


def sample_dpmpp_2m(
    predict_v: VPredictor,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """`sample` with `dpmpp_2m`."""
    return sample(dpmpp_2m, predict_v, x, schedule, steps, callback)


def sample_unipc(
    predict_v: VPredictor,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """`sample` with `unipc`."""
    return sample(unipc, predict_v, x, schedule, steps, callback)
