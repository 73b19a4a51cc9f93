"""A network of a few weights that takes and gives lists, for what compiles in a process of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Toy(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.register_buffer("scale", torch.tensor(2.0 + seed))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)

    def encode(self, x: Tensor) -> list[Tensor]:
        h = F.silu(self.conv(x))
        return [h, h.mean(dim=(2, 3))]

    def decode(self, encoded: list[Tensor], shift: Tensor) -> Tensor:
        h, mean = encoded
        return h * self.scale + mean[:, :, None, None] + shift

    def broken(self, x: Tensor) -> Tensor:
        raise RuntimeError("this method cannot be traced")
