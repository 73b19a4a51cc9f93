"""Rendered truth against itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lumiply.errors import UserError
from lumiply.evaluation.noise import main, score_noise
from lumiply.evaluation.rooms import by_color, first_rooms
from tests.training.conftest import made_up_room


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two rooms, with noise in their light and without."""
    coarse, fine = tmp_path / "rooms", tmp_path / "fine"
    for seed in range(2):
        room = made_up_room(seed, 64)
        room.save(fine / f"room_{seed:06d}.npz")
        noise = np.random.default_rng(seed).normal(1.0, 0.1, room.lamp.shape).astype(np.float32)
        replace(room, lamp=room.lamp * noise).save(coarse / f"room_{seed:06d}.npz")
    return coarse, fine


def test_noise_of_the_truth_is_what_keeps_it_from_itself(folders: tuple[Path, Path]) -> None:
    coarse, fine = (first_rooms(folder, 2) for folder in folders)
    noisy, clean = by_color(score_noise(coarse, fine)), by_color(score_noise(fine, fine))
    assert all(score.psnr > 60.0 and score.ssim == pytest.approx(1.0) for score in clean)
    assert all(20.0 < score.psnr < 45.0 and score.ssim < 0.99 for score in noisy)
    assert all(score.rooms == 2 for score in noisy)


def test_other_rooms_are_refused(folders: tuple[Path, Path]) -> None:
    coarse, fine = folders
    (fine / "room_000001.npz").rename(fine / "room_000007.npz")
    with pytest.raises(UserError, match=r"room_000001 of --rooms stands against room_000007"):
        score_noise(first_rooms(coarse, 2), first_rooms(fine, 2))


def test_the_command_prints_a_table_and_writes_the_figures(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    coarse, fine = (str(folder) for folder in folders)
    out = tmp_path / "noise.json"
    done = CliRunner().invoke(main, ["--rooms", coarse, "--fine", fine, "--count", "2", "--json", str(out)])
    assert done.exit_code == 0 and "| white | 2 |" in done.output
    assert len(json.loads(out.read_text())["rooms"]) == 2 * 7
    done = CliRunner().invoke(main, ["--rooms", coarse, "--fine", fine, "--count", "3"])
    assert done.exit_code == 1 and "holds 2 rooms, 3 were asked for" in done.output
