"""Made-up rooms in the renderer's file format, so that training is tested without a renderer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lumiply.synth.render import RoomLayers
from lumiply.training.pool import RoomPool

SIZE = 64


def made_up_room(seed: int, size: int = SIZE) -> RoomLayers:
    """Smooth random ambient light, and a lamp whose light falls off from a random place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    cx, cy = rng.uniform(0.2, 0.8, 2)
    distance = (x - cx) ** 2 + (y - cy) ** 2
    ambient = (0.2 + 0.1 * np.sin(6 * x + rng.uniform(0, 6)) + 0.05 * y)[..., None] * rng.uniform(0.5, 1, 3)
    lamp = (1.0 / (0.02 + distance))[..., None] * rng.uniform(0.3, 1, 3)
    alpha = (distance < 0.01).astype(np.float32)
    layers = [ambient, ambient * 0.98, lamp, np.full_like(ambient, 0.5)]
    ambient, without, lamp, flat = (layer.astype(np.float32) for layer in layers)
    return RoomLayers(
        ambient=ambient, ambient_without_lamp=without, lamp=lamp, lamp_alpha=alpha, lamp_flat=flat
    )


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    folder = tmp_path / "rooms"
    for seed in range(6):
        made_up_room(seed).save(folder / f"room_{seed:06d}.npz")
    return folder


@pytest.fixture
def pool(rooms: Path) -> RoomPool:
    pool = RoomPool(rooms, capacity=8, size=SIZE, device="cpu")
    assert pool.refresh() == 6
    return pool


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and lose much where other work competes for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
