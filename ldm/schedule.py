"""The noise schedule: how much of a picture is left at each timestep, and which timesteps are visited.

Source: DDPM (arXiv 2006.11239), eqs. 4 and 7; v-prediction: Salimans & Ho (arXiv 2202.00512), appendix D;
scaled-linear betas: LDM (arXiv 2112.10752).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """Discrete variance-preserving schedule.

    Attributes:
        alphas_cumprod: (timesteps,) float32, the share of signal variance left at each timestep.
        betas: (timesteps,) float64.
    """

    betas: Tensor
    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(
        cls, linear_start: float = 0.00085, linear_end: float = 0.0120, timesteps: int = 1000
    ) -> NoiseSchedule:
        """betas = linspace(sqrt(start), sqrt(end))^2 in float64.

        Raises:
            ValueError: not 0 < start <= end < 1, or fewer than two timesteps.
        """
        if not 0.0 < linear_start <= linear_end < 1.0 or timesteps < 2:
            raise ValueError(f"bad schedule: start {linear_start}, end {linear_end}, timesteps {timesteps}")
        with torch.device("cpu"):  # real numbers even while a model is being built on the meta device
            betas = torch.linspace(linear_start**0.5, linear_end**0.5, timesteps, dtype=torch.float64) ** 2
            return cls(betas, torch.cumprod(1.0 - betas, dim=0).float())

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), each (b, 1, 1, 1) on t's device, for t (b,) int64."""
        a = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return a.sqrt(), (1.0 - a).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise."""
        signal, sigma = self.coefficients(t)
        return signal * x0 + sigma * noise

    def v_target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """v = sqrt(a_t) noise - sqrt(1 - a_t) x0."""
        signal, sigma = self.coefficients(t)
        return signal * noise - sigma * x0

    def published_buffers(self) -> dict[str, Tensor]:
        """The derived numbers that published checkpoints store, under their names, each (timesteps,) float32."""
        betas, alphas = self.betas, 1.0 - self.betas
        cumprod = torch.cumprod(alphas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), cumprod[:-1]])
        variance = betas * (1.0 - previous) / (1.0 - cumprod)
        exact = {
            "betas": betas,
            "alphas_cumprod": cumprod,
            "alphas_cumprod_prev": previous,
            "sqrt_alphas_cumprod": cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1.0 - cumprod).sqrt(),
            "log_one_minus_alphas_cumprod": (1.0 - cumprod).log(),
            "sqrt_recip_alphas_cumprod": (1.0 / cumprod).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1.0 / cumprod - 1.0).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": betas * previous.sqrt() / (1.0 - cumprod),
            "posterior_mean_coef2": (1.0 - previous) * alphas.sqrt() / (1.0 - cumprod),
            "logvar": torch.zeros_like(betas),
        }
        return {name: value.float() for name, value in exact.items()}


def ddim_timesteps(steps: int, timesteps: int = 1000) -> Tensor:
    """The timesteps that `steps` denoising steps visit, increasing: (steps,) int64.

    For `steps` that divide `timesteps` and lie in [2, timesteps / 2]: 1, 1 + timesteps / steps, ... as the
    published sampler takes them. For any other number: exactly `steps` of them, evenly spread up to the last.

    Raises:
        ValueError: `steps` is not in [1, timesteps].
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be in [1, {timesteps}], got {steps}")
    last = timesteps - 1
    if steps == 1:
        return torch.tensor([last])
    if steps == timesteps:
        return torch.arange(timesteps)
    if timesteps % steps == 0 and steps <= timesteps // 2:
        return torch.arange(0, timesteps, timesteps // steps) + 1
    return torch.linspace(1, last, steps, dtype=torch.float64).round().long()


def log_snr_timesteps(steps: int, schedule: NoiseSchedule) -> Tensor:
    """`steps` timesteps, decreasing, that divide the log signal-to-noise ratio evenly: (steps,) int64.

    They begin at the last timestep, and the one after them would be 0. Where even places fall closer than whole
    timesteps, neighbouring ones are taken.

    Raises:
        ValueError: `steps` is not in [1, schedule.timesteps].
    """
    timesteps = schedule.timesteps
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be in [1, {timesteps}], got {steps}")
    log_snr = torch.logit(schedule.alphas_cumprod.double())
    places = torch.linspace(float(log_snr[-1]), float(log_snr[0]), steps + 1, dtype=torch.float64)
    above = torch.searchsorted(-log_snr, -places).clamp(1, timesteps - 1)
    nearest = torch.where(log_snr[above - 1] - places < places - log_snr[above], above - 1, above)
    chosen = [timesteps - 1]
    for index in range(1, steps):
        room = steps - index if steps < timesteps else steps - index - 1  # for the steps still to come
        chosen.append(max(min(int(nearest[index]), chosen[-1] - 1), room))
    return torch.tensor(chosen)
