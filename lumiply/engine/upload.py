"""Weights from files to a GPU at once: threads read what is mapped, while the GPU takes and converts what was read.

A tensor that is mapped from a file is read page by page as it is copied, and a plain copy to a GPU does that on one
thread, and waits for each tensor. Here buffers that the GPU reads by itself are filled on several threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from lumiply.engine.threads import usable_cpus

#: Bytes of a buffer; a larger tensor takes several.
BUFFER: Final = 16 * 2**20
#: Buffers in all, and the most threads that fill them.
BUFFERS: Final = 10
THREADS: Final = 8
#: Tensors begin at multiples of so many bytes in a buffer.
ALIGNED: Final = 64


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of the tensor `index`, at `place` in a buffer."""

    index: int
    start: int
    stop: int
    place: int


@dataclass
class Load:
    """What fits into a buffer."""

    pieces: list[Piece] = field(default_factory=list)
    size: int = 0


def loads(sizes: Sequence[int], room: int) -> list[Load]:
    """Tensors of `sizes` bytes in buffers of `room`, in their order."""
    filled = [Load()]
    for index, size in enumerate(sizes):
        start = 0
        while start < size:
            load = filled[-1]
            if load.size >= room:
                filled.append(load := Load())
            stop = min(size, start + room - load.size)
            load.pieces.append(Piece(index, start, stop, load.size))
            load.size += -(-(stop - start) // ALIGNED) * ALIGNED
            start = stop
    return filled if filled[0].pieces else []


def upload(
    tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype], device: torch.device, *, room: int = BUFFER
) -> list[Tensor]:
    """Dense tensors of the CPU on `device`, in the precisions asked for, those of four dimensions channels last.

    Args:
        room: bytes of a buffer, a multiple of `ALIGNED`.
    """
    results: list[Tensor | None] = [None] * len(tensors)
    sizes = [tensor.numel() * tensor.itemsize for tensor in tensors]
    parts: dict[int, Tensor] = {}  # tensors that came in part
    for pieces, buffer in _filled(tensors, loads(sizes, room), device, room):
        for piece in pieces:
            like, index = tensors[piece.index], piece.index
            came = buffer[piece.place : piece.place + piece.stop - piece.start]
            if piece.stop - piece.start < sizes[index]:
                if index not in parts:
                    parts[index] = torch.empty(sizes[index], dtype=torch.uint8, device=device)
                parts[index][piece.start : piece.stop] = came
                if piece.stop < sizes[index]:
                    continue
                came = parts.pop(index)
            results[index] = _finished(came.view(like.dtype).view(like.shape), dtypes[index])
    return [
        torch.empty_like(tensor, dtype=dtype, device=device) if result is None else result
        for tensor, dtype, result in zip(tensors, dtypes, results, strict=True)
    ]


def _finished(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return tensor.to(dtype, copy=True, memory_format=layout)


def _filled(
    tensors: Sequence[Tensor], work: Sequence[Load], device: torch.device, room: int
) -> Iterator[tuple[list[Piece], Tensor]]:
    """The loads in their order, on the device; each is to be used up, in order, before the next is asked for."""
    count = min(BUFFERS, len(work))
    if count == 0:
        return
    on_gpu = device.type == "cuda"
    buffers = [torch.empty(room, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(count)]
    arrived = torch.empty(room, dtype=torch.uint8, device=device)
    taken: list[torch.cuda.Event | None] = [None] * count

    def fill(number: int) -> Tensor:
        buffer = buffers[number % count]
        event = taken[number % count]
        if event is not None:
            event.synchronize()
        bytes_there = buffer.numpy()
        for piece in work[number].pieces:
            source = tensors[piece.index].detach().contiguous().view(-1).view(torch.uint8).numpy()
            # numpy lets other threads work meanwhile, and takes no more than this one
            bytes_there[piece.place : piece.place + piece.stop - piece.start] = source[
                piece.start : piece.stop
            ]
        return buffer

    with ThreadPoolExecutor(min(THREADS, usable_cpus()), "lumiply-upload") as threads:
        futures: list[Future[Tensor]] = [threads.submit(fill, number) for number in range(count)]
        for number, load in enumerate(work):
            size = load.size
            arrived[:size].copy_(futures[number].result()[:size], non_blocking=True)
            if on_gpu:
                taken[number % count] = event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
            if number + count < len(work):
                futures.append(threads.submit(fill, number + count))
            yield load.pieces, arrived


@torch.no_grad()
def place(parts: Sequence[tuple[nn.Module, torch.dtype | None]], device: torch.device) -> None:
    """Move modules to `device`, each in its precision and with maps channels last, or as it is where that is None.

    As `Module.to`: parameters stay the same objects, and whatever is not a real number keeps its type.
    """
    if device.type == "cuda":
        _upload_weights(parts, device)
    for module, dtype in parts:
        if dtype is None:
            module.to(device)
        else:
            module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _upload_weights(parts: Sequence[tuple[nn.Module, torch.dtype | None]], device: torch.device) -> None:
    """Whatever is still on the CPU."""
    found: dict[int, tuple[Tensor, torch.dtype]] = {}
    for module, dtype in parts:
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.device.type == "cpu":
                wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                found[id(tensor)] = (tensor, wanted)
    tensors, dtypes = [tensor for tensor, _ in found.values()], [dtype for _, dtype in found.values()]
    for tensor, moved in zip(tensors, upload(tensors, dtypes, device), strict=True):
        tensor.data = moved
