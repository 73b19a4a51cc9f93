"""Linear layers whose products are computed in float8 (e4m3), for inference on GPUs that have such products.

A number of e4m3 keeps four binary digits between 2^-6 and 448, so what a scale must do is keep the largest number
below 448 and most others above 2^-6; how finely it is chosen matters little.

Source: FP8 Formats for Deep Learning (arXiv 2209.05433), sections 3 and 4.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

#: The largest number of float8 e4m3.
LARGEST: Final = 448.0
#: Inputs may become so many times as large as the largest that was seen when their scale was chosen.
MARGIN: Final = 8.0
#: Products of float8 need sizes that are multiples of this.
MULTIPLE: Final = 16


def to_float8(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale in float8, what is too large cut to the largest."""
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def row_scales(x: Tensor) -> Tensor:
    """(m, k) -> (m, 1) float32: what makes the largest number of each row `LARGEST`."""
    return x.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / LARGEST


class Float8Linear(nn.Module):
    """A linear layer with weights in float8, a scale for every output; inference only.

    With `input_scale` inputs are divided by it, which costs a kernel that is there already nothing; without, every
    row has a scale of its own, found when it comes.

    Attributes:
        weight: (n, k) float8.
        weight_scale: float32, () with `input_scale`, else (1, n).
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None

    @torch.no_grad()
    def __init__(self, weight: Tensor, bias: Tensor | None, input_scale: Tensor | None) -> None:
        """Round `weight` (n, k), of any real precision."""
        super().__init__()
        if any(size % MULTIPLE for size in weight.shape):
            raise ValueError(f"sizes must be multiples of {MULTIPLE}, got {list(weight.shape)}")
        scale = row_scales(weight)
        if input_scale is not None:
            scale = scale.amax()
        self.register_buffer("weight", to_float8(weight, scale), persistent=False)
        self.register_buffer(
            "weight_scale", scale if input_scale is not None else scale.t(), persistent=False
        )
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("input_scale", input_scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., k) -> (..., n) in x's precision."""
        rows = x.flatten(0, -2)
        scale = row_scales(rows) if self.input_scale is None else self.input_scale
        out = torch._scaled_mm(
            to_float8(rows, scale).contiguous(),  # of one picture, maps may lie channel by channel
            self.weight.t(),
            scale,
            self.weight_scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return out.unflatten(0, x.shape[:-1])


def input_scale(largest: float, device: torch.device) -> Tensor:
    """() float32: for inputs whose largest number was `largest`."""
    return torch.tensor(max(largest, 1e-6) * MARGIN / LARGEST, dtype=torch.float32, device=device)
