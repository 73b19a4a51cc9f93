"""A step whose ControlNet runs beside the first half of the UNet: neither needs the other, and each leaves room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class SideBySide:
    """A step function of the three parts of a `StepNetwork`, the first two of them on streams of their own.

    Captured in a CUDA graph, the streams become branches of it. Both are joined before the result is there, so
    memory that one of them has let go of is never taken while the other reads it.
    """

    def __init__(
        self,
        correct: Callable[..., Sequence[Tensor]],
        encode: Callable[..., Sequence[Tensor]],
        decode: Callable[..., Tensor],
        *,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """`stream` is the ControlNet's; without one, all runs where it is called, one part after the other."""
        self._stream = stream
        self._correct, self._encode, self._decode = correct, encode, decode

    def __call__(self, x: Tensor, t: Tensor, hint_features: Tensor, keys_values: Tensor) -> Tensor:
        """As `StepNetwork.forward`."""
        if self._stream is None:
            control = self._correct(x, t, hint_features, keys_values)
            encoded = self._encode(x, t, keys_values)
        else:
            here = torch.cuda.current_stream(x.device)
            self._stream.wait_stream(here)
            try:
                with torch.cuda.stream(self._stream):
                    control = self._correct(x, t, hint_features, keys_values)
                encoded = self._encode(x, t, keys_values)
            finally:  # also after an error: a capture ends only where all its branches have joined
                here.wait_stream(self._stream)
        return self._decode(encoded, control, t, keys_values)
