"""Parts of networks without their numbers: what a process that compiles them is told, and what it hands back."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from lumiply.engine.compiling import Part

#: Files of a compiled part: its code, and what goes in and comes out.
CODE: Final = "code"
FORM: Final = "form.json"


class Layout(NamedTuple):
    """Of an input: the code was made for it, and would not notice another."""

    shape: Sequence[int]
    stride: Sequence[int]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(list(tensor.shape), list(tensor.stride()), str(tensor.dtype))

    def fit(self, given: Tensor) -> Tensor:
        """`given`, copied if its numbers lie in another order.

        Raises:
            ValueError: its size or precision is another.
        """
        if list(given.shape) != self.shape or str(given.dtype) != self.dtype:
            raise ValueError(
                f"compiled for {self.shape} in {self.dtype}, called with {list(given.shape)} in {given.dtype}"
            )
        sized = zip(self.shape, self.stride, given.stride(), strict=True)
        if all(own == other for size, own, other in sized if size > 1):
            return given
        return torch.empty_strided(self.shape, self.stride, dtype=given.dtype, device=given.device).copy_(
            given
        )


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers by name, in an order that the architecture alone decides; less those let go of."""
    everything = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: value for name, value in everything.items() if value.device.type != "meta"}


class _Descriptions(pickle.Pickler):
    """Of a tensor it keeps what a compiler needs to know, not the numbers; of a set, its order by name.

    Sets of strings are in another order in every process, and a description is what kept code is found by.
    """

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, set):
            return sorted(thing)
        if not isinstance(thing, Tensor):
            return None
        is_parameter = isinstance(thing, nn.Parameter)
        if thing.is_meta:  # let go of; what it was differs between a model's files and its converted form
            thing = torch.empty(0, device="meta")
        return is_parameter, tuple(thing.shape), thing.stride(), thing.dtype, thing.device


class Stands(pickle.Unpickler):
    """Reads descriptions as tensors without numbers, inside `FakeTensorMode`."""

    def persistent_load(self, pid: Any) -> Tensor | set[str]:
        if isinstance(pid, list):
            return set(pid)
        is_parameter, shape, stride, dtype, device = pid
        tensor = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        return nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def describe(part: Part) -> bytes:
    """The part without its numbers; the same bytes for the same architecture, sizes and device."""
    buffer = io.BytesIO()
    _Descriptions(buffer).dump(part)
    return buffer.getvalue()
