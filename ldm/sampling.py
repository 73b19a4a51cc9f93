"""Samplers. A sampler is a function of a v-predictor, noise and a schedule; progress comes in as a callback.

Source: DDIM (arXiv 2010.02502), eq. 12 with eta = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.schedule import NoiseSchedule, ddim_timesteps

#: (x (b, c, h, w), t (b,) int64) -> v (b, c, h, w)
VPredictor = Callable[[Tensor, Tensor], Tensor]
#: (steps done, steps in all); may raise to end the sampling.
StepCallback = Callable[[int, int], None]


def sample_ddim(
    predict_v: VPredictor,
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    callback: StepCallback | None = None,
) -> Tensor:
    """Deterministic DDIM from noise to x0 in `steps` evaluations.

    The state is float32 throughout, whatever precision the predictor works in.

    Args:
        x: (b, c, h, w) standard normal noise.

    Returns:
        (b, c, h, w) float32: the scaled latent.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    times = ddim_timesteps(steps, schedule.timesteps)
    alphas = schedule.alphas_cumprod[times]
    # a_prev of the smallest timestep is alphas_cumprod[0]
    previous = torch.cat([schedule.alphas_cumprod[:1], alphas[:-1]])
    x = x.float()
    for done, index in enumerate(reversed(range(steps)), start=1):
        t = torch.full((x.shape[0],), int(times[index]), dtype=torch.long, device=x.device)
        a, a_previous = float(alphas[index]), float(previous[index])
        v = predict_v(x, t).float()
        x0 = a**0.5 * x - (1.0 - a) ** 0.5 * v
        eps = a**0.5 * v + (1.0 - a) ** 0.5 * x
        x = a_previous**0.5 * x0 + (1.0 - a_previous) ** 0.5 * eps
        if callback is not None:
            callback(done, steps)
    return x
