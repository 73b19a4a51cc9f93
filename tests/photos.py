"""Small made-up photos of rooms, in folders as people lay them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lumiply.colors import COLORS, LAMP_RGB

SIZE = (24, 16)


def room_photo(seed: int, name: str = "off", size: tuple[int, int] = SIZE) -> Image.Image:
    """A noisy room, brighter at the top and to the right; lit from the left unless `name` is off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    pixels = (60 + 40 * x - 40 * y)[..., None] + rng.uniform(0, 20, (size[1], size[0], 3))
    if name != "off":
        color = LAMP_RGB["white" if name == "on" else name]
        pixels = pixels + 100 * np.exp(-6 * x)[..., None] * color
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_scene(
    folder: Path,
    *names: str,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    extension: str = "png",
) -> Path:
    """Write photos called `names`, by default off and on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("off", "on"):
        room_photo(seed, name, size).save(folder / f"{name}.{extension}", quality=95)
    return folder


def make_scenes(folder: Path, count: int, *names: str, extension: str = "png") -> Path:
    """`count` rooms, none like another, called room00, room01, ..."""
    for index in range(count):
        make_scene(folder / f"room{index:02d}", *names, seed=index, extension=extension)
    return folder


def make_split(root: Path, train: int = 3, validation: int = 1) -> Path:
    """A data set that is split: training rooms with on and red, validation rooms in all colours."""
    for index in range(train):
        make_scene(root / "train" / f"room{index:02d}", "off", "on", "red", seed=index)
    for index in range(train, train + validation):
        make_scene(root / "validation" / f"room{index:02d}", "off", *COLORS, seed=index)
    return root
