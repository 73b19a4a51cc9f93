"""Between processor and GPU without waiting: a plain copy waits for all that was launched before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lumiply.engine.pixels import to_bytes
from lumiply.errors import RenderError


def ready_for(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, on the CPU, where `device` can read it by itself; may be called from any thread."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, of the CPU, on `device`, once what was launched there before is done."""
    return ready_for(tensor, device).to(device, non_blocking=True)


@dataclass(frozen=True)
class Decoded:
    """A picture on its way from the decoder to the CPU.

    Attributes:
        levels: (H, W, 3) uint8.
        finite: whether the decoder's numbers were.
        arrived: recorded after both; None: they are there.
    """

    levels: Tensor
    finite: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, picture: Tensor) -> Decoded:
        """Of one picture (1, 3, H, W), nominally in [-1, 1]."""
        levels = to_bytes(picture)[0].contiguous().to("cpu", non_blocking=True)
        finite = torch.isfinite(picture).all().to("cpu", non_blocking=True)
        arrived = None
        if picture.device.type == "cuda":
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(picture.device))
        return cls(levels, finite, arrived)

    def wait(self) -> Tensor:
        """(H, W, 3) uint8, when it is there.

        Raises:
            RenderError: the numbers were not finite.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        if not bool(self.finite):
            raise RenderError(
                "the model produced numbers that are not finite; try again with LUMIPLY_PRECISION=float32"
            )
        return self.levels
