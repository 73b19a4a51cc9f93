"""A folder of relit scenes, made up from rooms; and a stand-in for the package lpips, which the tests never need."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiply.evaluation.rooms import RoomPictures, room_pictures
from tests.training.conftest import made_up_room

SIZE = 48


def pictures(seed: int, *, pasted: bool = False) -> RoomPictures:
    return room_pictures(made_up_room(seed, SIZE), ambient=0.08, pasted=pasted)


def save(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def make_scene(folder: Path, seed: int, colors: tuple[str, ...] = ("white", "red")) -> None:
    """off, the truth, and outputs that are right for white and the unlit photo for any other colour."""
    room = pictures(seed)
    save(folder / "off.png", room.photo)
    for color in colors:
        save(folder / ("on.png" if color == "white" else f"{color}.png"), room.lit[color])
        save(folder / f"output_{color}.png", room.lit[color] if color == "white" else room.photo)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    folder = tmp_path / "scenes"
    for seed, name in enumerate(["lamp_01", "pendant/02", "stand-3"]):
        make_scene(folder / name, seed)
    return folder


class StandIn:
    """In place of `lpips.LPIPS`: the mean absolute difference of the tensors that it is handed."""

    def __init__(self, net: str, verbose: bool) -> None:
        assert (net, verbose) == ("alex", False)

    def eval(self) -> StandIn:
        return self

    def to(self, device: str) -> StandIn:
        return self

    def __call__(self, a, b):  # type: ignore[no-untyped-def]
        assert a.shape == b.shape and a.shape[:2] == (1, 3)
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


@pytest.fixture
def install_lpips(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Make `import lpips` find a module with this LPIPS; None: find nothing."""

    def install(network: object) -> None:
        module = None
        if network is not None:
            module = types.ModuleType("lpips")
            module.LPIPS = network  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lpips", module)  # type: ignore[arg-type]

    return install
