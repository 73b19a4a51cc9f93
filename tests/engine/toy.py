"""A network of a few weights that takes and gives lists, for what compiles in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumiply.engine.compiling import Function, Part, Task


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


def toy_task(name: str, install: Callable[[Function], None], network: Toy | None = None) -> Task:
    network = network or Toy()

    def inputs() -> tuple[Tensor, ...]:
        return images(2), torch.full((1,), 0.5)

    def encode(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "encode", given[:1])

    def decode(given: tuple[Tensor, ...]) -> Part:
        return Part(network, "decode", (encode(given), given[1]))

    def assemble(functions: Sequence[Function]) -> Function:
        return lambda x, shift: functions[1](functions[0](x), shift)

    return Task(name, inputs, (encode, decode), assemble, whole(network), install)


def whole(network: Toy) -> Function:
    return lambda x, shift: network.decode(network.encode(x), shift)


def images(batch: int, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, size, size, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
