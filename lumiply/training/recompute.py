"""Gradient checkpointing: activations computed again in the backward pass in place of being kept.

Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldm.attention import BasicTransformerBlock
from ldm.unet import ResBlock


def set_recompute(model: nn.Module, on: bool) -> None:
    """Let every residual and transformer block of UNet and ControlNet keep its inputs alone, or all as usual.

    Results and gradients are the same; there is less memory to hold and more to compute. The blocks' `forward` is
    wrapped, so that the networks themselves need not know of it.
    """
    for module in model.modules():
        if isinstance(module, (ResBlock, BasicTransformerBlock)):
            vars(module).pop("forward", None)
            if on:
                vars(module)["forward"] = _recomputing(module.forward)


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False)

    return run
