"""Between pictures and tensors, as the published scripts do it (MODEL.md, section 7)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def photo_tensor(photo: Image.Image) -> Tensor:
    """RGB picture -> (1, 3, height, width) uint8."""
    pixels = np.array(photo.convert("RGB"))  # a copy: PIL's own buffer is read-only
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def hint_pixels(photo: Image.Image, size: int) -> Tensor:
    """PIL bicubic to size x size, (size, size, 3) uint8.

    No more, since a network takes the rest: by torch, the threads of a processor that has other work would wait for
    each other longer than this takes.
    """
    return torch.from_numpy(np.array(photo.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)))


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


def to_picture(levels: Tensor, size: tuple[int, int]) -> Image.Image:
    """(h, w, 3) uint8 on the CPU -> RGB picture of `size` (width, height), by Lanczos."""
    picture = Image.fromarray(levels.numpy())
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
