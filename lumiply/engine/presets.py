"""How a render is sampled: presets by name, and what a request that names a preset, steps, both or neither gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from ldm.sampling import SAMPLERS, Stepwise
from ldm.schedule import NoiseSchedule
from lumiply.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """A sampler of `ldm.sampling.SAMPLERS` and its number of steps."""

    sampler: str
    steps: int

    def begin(self, noise: Tensor, schedule: NoiseSchedule) -> Stepwise:
        """The sampling of noise (b, c, h, w), ready to be driven."""
        return SAMPLERS[self.sampler](noise.float(), schedule, self.steps)


#: From the published way to the quickest one; `benchmarks.samplers` prints each one's distance from 1000 DDIM steps.
PRESETS: Final[dict[str, Sampling]] = {
    "exact": Sampling("ddim", 50),
    "balanced": Sampling("unipc", 20),
    "fast": Sampling("unipc", 10),
}


def choose_sampling(preset: str | None, steps: int | None, default: Sampling, most: int = 1000) -> Sampling:
    """The preset's sampling, or the default's, with the steps asked for if any were.

    Raises:
        UserError: there is no such preset, or the number of steps is out of range.
    """
    if preset is not None and preset not in PRESETS:
        raise UserError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    chosen = default if preset is None else PRESETS[preset]
    if steps is None:
        return chosen
    if not 1 <= steps <= most:
        raise UserError(f"steps must be from 1 to {most}, got {steps}")
    return replace(chosen, steps=steps)
