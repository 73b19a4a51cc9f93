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
    """Smooth the noise of b path-traced pictures.

    Args:
        radiance: (b, 3, H, W) linear, 0 upwards.
        albedo: (b, 3, H, W) without noise.
        normals: (b, 3, H, W) unit vectors, shorter on edges.
        depth: (b, 1, H, W) distance to the first surface.

    Returns:
        (b, 3, H, W) radiance.
    """
    base = albedo.clamp_min(ALBEDO_FLOOR)
    light = radiance / base
    guides = torch.cat([normals / NORMAL_SIGMA, albedo / ALBEDO_SIGMA, depth.log() / DEPTH_SIGMA], dim=1)
    for level in range(LEVELS):
        light = _pass(light, guides, 2**level, LIGHT_SIGMA * 0.5**level)
    return light * base


def _pass(light: Tensor, guides: Tensor, step: int, sigma: float) -> Tensor:
    """One pass of the filter with holes of `step` pixels."""
    height, width = light.shape[2:]
    wide_light, wide_guides = (functional.pad(x, (2 * step,) * 4, mode="replicate") for x in (light, guides))
    level = light.mean(dim=1, keepdim=True)
    spread = sigma * (functional.avg_pool2d(level, 5, 1, 2, count_include_pad=False) + 1e-4)
    total, weights = torch.zeros_like(light), torch.zeros_like(level)
    for row in range(5):
        for column in range(5):
            top, left = row * step, column * step
            window = (..., slice(top, top + height), slice(left, left + width))
            near_light, near_guides = wide_light[window], wide_guides[window]
            distance = (near_guides - guides).square().sum(dim=1, keepdim=True)
            distance += ((near_light.mean(dim=1, keepdim=True) - level) / spread).square()
            weight = KERNEL[row] * KERNEL[column] * torch.exp(-distance)
            total, weights = total + weight * near_light, weights + weight
    return total / weights
