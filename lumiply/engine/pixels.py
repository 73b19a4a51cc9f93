"""Between pictures and tensors, as the published scripts do it (MODEL.md, section 7)."""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def photo_tensor(photo: Image.Image) -> Tensor:
    """RGB picture -> (1, 3, height, width) uint8."""
    pixels = np.array(photo.convert("RGB"))  # a copy: PIL's own buffer is read-only
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def resize(
    picture: Image.Image, size: tuple[int, int], filter: Image.Resampling, channels: Executor | None = None
) -> Image.Image:
    """`picture` at `size` (width, height), which PIL computes channel by channel.

    Args:
        channels: threads that take a channel each: the same picture in half the time, for 1.4 times the work.
    """
    if channels is None:
        return picture.resize(size, filter)
    parts = channels.map(lambda channel: channel.resize(size, filter), picture.split())
    return Image.merge(picture.mode, tuple(parts))


def hint_pixels(photo: Image.Image, size: int, channels: Executor | None = None) -> Tensor:
    """PIL bicubic to size x size, (size, size, 3) uint8; `channels` as for `resize`.

    No more, since a network takes the rest: by torch, the threads of a processor that has other work would wait for
    each other longer than this takes.
    """
    picture = resize(photo.convert("RGB"), (size, size), Image.Resampling.BICUBIC, channels)
    return torch.from_numpy(np.array(picture))


def hint_of(pixels: Tensor) -> Tensor:
    """(size, size, 3) uint8 of `hint_pixels`, on any device -> (1, 3, size, size) float32 in [0, 1]."""
    return pixels.permute(2, 0, 1)[None].float() / 255


def hint_picture(photo: Image.Image, size: int) -> Tensor:
    """What latent intrinsics see: PIL bicubic to size x size, (1, 3, size, size) float32 in [0, 1]."""
    return hint_of(hint_pixels(photo, size))


def bypass_picture(photo: Image.Image, size: int) -> Tensor:
    """What the bypass decoder sees: plain bilinear, half-pixel centres, no antialiasing; in [-1, 1]."""
    pixels = photo_tensor(photo).float() / 255
    return F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False) * 2 - 1


def to_bytes(pictures: Tensor) -> Tensor:
    """(b, 3, h, w) nominally in [-1, 1] -> (b, h, w, 3) uint8, clamped and rounded."""
    levels = ((pictures.float() + 1) / 2).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(0, 2, 3, 1)


def to_picture(levels: Tensor, size: tuple[int, int], channels: Executor | None = None) -> Image.Image:
    """(h, w, 3) uint8 on the CPU -> RGB picture of `size` (width, height), by Lanczos; `channels` as for `resize`."""
    picture = Image.fromarray(levels.numpy())
    return picture if picture.size == size else resize(picture, size, Image.Resampling.LANCZOS, channels)
