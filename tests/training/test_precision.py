"""Group norms that keep the precision of their input under autocast."""

from __future__ import annotations

import torch
from torch import nn

from lumiply.training.precision import norms_keep_precision


def test_under_autocast_norms_keep_half_precision_only_inside_the_block():
    norm = nn.GroupNorm(2, 8)
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = norm(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with norms_keep_precision():
            inside = norm(x)
        outside = norm(x)
    assert inside.dtype == torch.bfloat16
    assert (inside.float() - exact).abs().max() < 0.05
    assert (outside.float() - exact).abs().max() < 0.05


def test_the_original_norm_is_put_back_even_after_an_error():
    original = nn.GroupNorm.forward
    try:
        with norms_keep_precision():
            assert nn.GroupNorm.forward is not original
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert nn.GroupNorm.forward is original
