"""Group normalisation in the precision of its input, while a block of training code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def norms_keep_precision() -> Iterator[None]:
    """Under autocast, let `nn.GroupNorm` take and give half precision instead of widening to float32.

    Its kernels sum in float32 either way. The feature maps of an autoencoder are large and its convolutions small,
    so that the widened copies, not the arithmetic, are what training waits for.
    """
    original = nn.GroupNorm.forward

    def forward(self: nn.GroupNorm, x: Tensor) -> Tensor:
        assert self.weight is not None and self.bias is not None
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    nn.GroupNorm.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.GroupNorm.forward = original  # type: ignore[method-assign]
