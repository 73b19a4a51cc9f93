"""Rendered rooms scored against their truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lumiply.colors import COLORS
from lumiply.evaluation import rooms
from lumiply.evaluation.metrics import PSNR_LIMIT
from lumiply.evaluation.rooms import ColorScore, by_color, evaluate, mean_score, score_room, table
from tests.evaluation.conftest import pictures
from tests.nano import nano_pipeline
from tests.training.conftest import made_up_room

AT_THE_BARS = ColorScore("red", 4, 26.0, 20.0, 23.0, 0.88, 10.0, 4, 0.95, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        made_up_room(seed, 64).save(tmp_path / "rooms" / f"room_{seed:06d}.npz")
    return tmp_path / "rooms"


@pytest.mark.parametrize("pasted", [False, True])
def test_the_truth_itself_has_no_error(pasted: bool) -> None:
    room = pictures(0, pasted=pasted)
    scores = score_room("a", room, room.lit, ambient=0.08, pasted=pasted)
    assert [score.color for score in scores] == list(COLORS)
    for score in scores:
        assert (score.psnr, score.ssim) == (PSNR_LIMIT, pytest.approx(1.0))
        assert score.hue_error == pytest.approx(0, abs=1e-3)
        assert score.unchanged < score.gain_and_tint < 40
        assert score.pasted is pasted
    assert {score.color: score.identity for score in scores}["red"] == pytest.approx(1)


def test_the_photo_itself_gains_nothing_and_has_no_hue() -> None:
    room = pictures(0)
    unchanged = dict.fromkeys(COLORS, room.photo)
    for score in score_room("a", room, unchanged, ambient=0.08, pasted=False):
        assert score.psnr == score.unchanged
        assert score.hue_error == 90
    assert (
        "over unchanged < 6"
        in by_color(score_room("a", room, unchanged, ambient=0.08, pasted=False))[1].misses
    )


def test_only_a_pasted_lamp_makes_the_photo_differ_from_the_unlit_room() -> None:
    drawn, pasted = pictures(0), pictures(0, pasted=True)
    assert np.array_equal(drawn.photo, drawn.unlit)
    assert not np.array_equal(pasted.photo, pasted.unlit)
    assert np.array_equal(pasted.unlit, drawn.unlit)
    assert all(np.array_equal(pasted.lit[color], drawn.lit[color]) for color in COLORS)


def test_evaluation_relights_every_room_in_every_colour(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.iterdir())
    scores = evaluate(nano_pipeline(), files, steps=2, seed=5, examples=tmp_path / "new" / "examples.jpg")
    assert [(score.room, score.color) for score in scores] == [
        (path.stem, color) for path in files for color in COLORS
    ]
    assert [score.pasted for score in scores[::7]] == [False, True, False]
    assert [score.ambient for score in scores[::7]] == [0.04, 0.08, 0.16]
    assert len({score.psnr for score in scores[:7]}) == 7
    with Image.open(tmp_path / "new" / "examples.jpg") as sheet:
        assert sheet.size == (64 * 8, 64 * 2 * 3)


def test_means_pass_over_rooms_without_a_figure() -> None:
    room = pictures(0)
    first = score_room("a", room, {"red": room.photo}, ambient=0.08, pasted=False)[0]
    first = replace(first, psnr=20.0, hue_error=10.0, identity=None)
    second = replace(first, room="b", psnr=30.0, hue_error=None)
    mean = mean_score("red", [first, second])
    assert (mean.rooms, mean.psnr) == (2, 25.0)
    assert (mean.hue_error, mean.hue_rooms) == (10.0, 1)
    assert (mean.identity, mean.identity_rooms) == (None, 0)
    assert "| - |" in table([mean])


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"psnr": 25.99, "unchanged": 19.0, "gain_and_tint": 22.0}, ["PSNR < 26"]),
        ({"unchanged": 20.01}, ["over unchanged < 6"]),
        ({"gain_and_tint": 23.01}, ["over gain+tint < 3"]),
        ({"ssim": 0.879}, ["SSIM < 0.88"]),
        ({"identity": 0.949}, ["identity < 0.95"]),
        ({"hue_error": 10.1}, ["hue > 10"]),
        ({"hue_error": 10.1, "color": "white"}, []),
        ({"hue_error": None, "identity": None}, []),
    ],
)
def test_each_bar_is_named_where_it_is_missed(change: dict[str, object], missed: list[str]) -> None:
    score = replace(AT_THE_BARS, **change)  # type: ignore[arg-type]
    assert score.misses == missed
    assert table([score]).splitlines()[2].endswith(f"| {', '.join(missed) or 'ok'} |")


def test_every_row_of_the_table_has_a_cell_a_column() -> None:
    assert {row.count("|") for row in table([AT_THE_BARS]).splitlines()} == {12}


@pytest.fixture
def nano_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = SimpleNamespace(variant="mini", describe=lambda: "made-up weights", fingerprint=lambda: "0123")
    monkeypatch.setattr("lumiply.weights.find_weights", lambda *asked: weights)
    monkeypatch.setattr("lumiply.engine.start.load_pipeline", lambda files, **options: nano_pipeline())


def test_the_command_prints_a_table_and_writes_everything(
    folder: Path, tmp_path: Path, nano_weights: None
) -> None:
    path = tmp_path / "new" / "scores.json"
    done = CliRunner().invoke(
        rooms.main,
        ["--rooms", str(folder), "--count", "2", "--steps", "2", "--seed", "3", "--json", str(path)],
    )
    assert done.exit_code == 0, done.output
    assert "| colour | rooms | model, dB |" in done.stdout and "| purple | 2 |" in done.stdout
    written = json.loads(path.read_text())
    settings = written["settings"]
    assert (settings["count"], settings["steps"], settings["seed"]) == (2, 2, 3)
    assert settings["weights"] == "made-up weights" and settings["torch"] and settings["device"]
    assert written["bars"]["psnr"] == 26
    assert [score["color"] for score in written["colors"]] == list(COLORS)
    assert len(written["rooms"]) == 2 * len(COLORS)


def test_too_few_rooms_are_an_error_in_one_sentence(folder: Path, nano_weights: None) -> None:
    done = CliRunner().invoke(rooms.main, ["--rooms", str(folder), "--count", "4"])
    assert done.exit_code == 1
    assert "holds 3 rooms, 4 were asked for" in done.stderr


def test_a_file_that_is_no_room_is_an_error_in_one_sentence(folder: Path, nano_weights: None) -> None:
    np.savez(folder / "room_000000.npz", ambient=np.zeros(3))
    done = CliRunner().invoke(rooms.main, ["--rooms", str(folder), "--count", "3"])
    assert done.exit_code == 1
    assert "is no rendered room" in done.stderr
