"""Processes that render rooms beside training, started for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lumiply.errors import UserError
from lumiply.synth import backend
from lumiply.training.pool import RoomPool
from lumiply.training.renderers import Renderers, RoomOrder

SIZE = 16


def order(folder: Path, count: int, split="train") -> RoomOrder:
    return RoomOrder(folder, split, count, samples=1, size=SIZE, first=5)


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not backend.is_available(), reason="Mitsuba is not installed")
def test_rooms_come_while_another_waits_for_them_and_all_renderers_end_with_the_block(tmp_path):
    validation, train = order(tmp_path / "validation", 2, "validation"), order(tmp_path / "train", 200)
    pool = RoomPool(tmp_path / "train", capacity=200, size=SIZE, device="cpu")
    with Renderers([validation, train], 2) as renderers:
        pool.wait_for(3, timeout=240.0, check=renderers.check)
        processes = [process.pid for process in renderers._processes]
        assert any(map(is_alive, processes))  # they have more to do
    assert not any(map(is_alive, processes))
    assert sorted(path.name for path in validation.folder.glob("*.npz")) == [
        "room_000005.npz",
        "room_000006.npz",
    ]
    assert not list(tmp_path.glob("**/*.part*"))


def test_waiting_ends_with_the_last_words_of_renderers_that_failed(tmp_path):
    bad = RoomOrder(tmp_path, "nowhere", 1, samples=1, size=SIZE)  # type: ignore[arg-type]
    pool = RoomPool(tmp_path, capacity=4, size=SIZE, device="cpu")
    with Renderers([bad], 1) as renderers, pytest.raises(UserError, match="1 of 1 renderers.*nowhere"):
        pool.wait_for(1, timeout=240.0, check=renderers.check)


def test_each_process_takes_its_share_on_its_device():
    words = order(Path("rooms"), 6).arguments(1, 3)
    assert words[words.index("--workers") + 1] == "3" and words[words.index("--workers-index") + 1] == "1"
    assert words[words.index("--first") + 1] == "5" and words[words.index("--size") + 1] == str(SIZE)
