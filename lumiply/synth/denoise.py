"""A small denoiser for path-traced layers where OptiX is missing: an edge-avoiding wavelet filter, pure torch.

It filters irradiance (radiance over albedo), so textures stay sharp, and stops at edges of albedo, normals and depth
(after Dammertz et al., "Edge-Avoiding A-Trous Wavelet Transform for fast Global Illumination Filtering", 2010).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

KERNEL = (1 / 16, 1 / 4, 3 / 8, 1 / 4, 1 / 16)
"""Weights of a cubic B-spline."""
LEVELS = 4
"""Passes; pass k looks 2 * 2**k pixels far."""
ALBEDO_FLOOR = 0.02
"""Smallest albedo to divide by."""
NORMAL_SIGMA, ALBEDO_SIGMA, DEPTH_SIGMA = 0.25, 0.12, 0.03
"""How different neighbours may be: length of a normal's difference, albedo, depth relative to the depth."""
LIGHT_SIGMA = 1.2
"""Relative difference of irradiance that still counts as noise in the first pass; halves in each further pass."""


def denoise(radiance: Tensor, albedo: Tensor, normals: Tensor, depth: Tensor) -> Tensor:
    """Smooth the noise of a path-traced picture.

    Args:
        radiance: (3, H, W) linear, 0 upwards.
        albedo: (3, H, W) without noise.
        normals: (3, H, W) unit vectors, shorter on edges.
        depth: (H, W) distance to the first surface.

    Returns:
        (3, H, W) radiance.
    """
    base = albedo.clamp_min(ALBEDO_FLOOR)
    light = radiance / base
    guides = torch.cat([normals / NORMAL_SIGMA, albedo / ALBEDO_SIGMA, depth.log()[None] / DEPTH_SIGMA])
    for level in range(LEVELS):
        light = _pass(light, guides, 2**level, LIGHT_SIGMA * 0.5**level)
    return light * base


def _pass(light: Tensor, guides: Tensor, step: int, sigma: float) -> Tensor:
    """One pass of the filter with holes of `step` pixels."""
    height, width = light.shape[1:]
    margin = 2 * step
    wide_light, wide_guides = (
        functional.pad(x[None], (margin,) * 4, mode="replicate")[0] for x in (light, guides)
    )
    level = light.mean(dim=0)
    spread = sigma * (functional.avg_pool2d(level[None], 5, 1, 2, count_include_pad=False)[0] + 1e-4)
    total, weights = torch.zeros_like(light), torch.zeros_like(level)
    for row in range(5):
        for column in range(5):
            window = (
                slice(None),
                slice(row * step, row * step + height),
                slice(column * step, column * step + width),
            )
            near_light, near_guides = wide_light[window], wide_guides[window]
            distance = ((near_guides - guides) ** 2).sum(dim=0) + (
                (near_light.mean(dim=0) - level) / spread
            ) ** 2
            weight = KERNEL[row] * KERNEL[column] * torch.exp(-distance)
            total, weights = total + weight * near_light, weights + weight
    return total / weights
