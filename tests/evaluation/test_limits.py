"""What limits the model, told apart on rooms whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from lumiply.colors import COLORS
from lumiply.evaluation import limits, metrics
from lumiply.evaluation.limits import SEEDS, Limits, best_strength, mean_limits, room_limits, table
from lumiply.evaluation.rooms import ShownRoom, display, evaluate, first_rooms, shown_rooms
from tests.evaluation.conftest import pictures
from tests.nano import nano_pipeline
from tests.training.conftest import made_up_room

STEPS = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(2):
        made_up_room(seed, 64).save(tmp_path / "rooms" / f"room_{seed:06d}.npz")
    return tmp_path / "rooms"


@pytest.fixture
def room(folder: Path) -> ShownRoom:
    return list(shown_rooms(first_rooms(folder, 2)))[1]


@pytest.fixture
def nano_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = SimpleNamespace(variant="mini", describe=lambda: "made-up weights", fingerprint=lambda: "0123")
    monkeypatch.setattr("lumiply.weights.find_weights", lambda *asked: weights)
    monkeypatch.setattr("lumiply.engine.start.load_pipeline", lambda files, **options: nano_pipeline())


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_light_of_the_wrong_strength_is_repaired_exactly(factor: float) -> None:
    room = pictures(0)
    photo, truth = display(room.photo).astype(np.float64), display(room.lit["red"]).astype(np.float64)
    result = photo + factor * (truth - photo)
    for each_channel in (False, True):
        assert np.allclose(best_strength(photo, result, truth, each_channel=each_channel), truth)


def test_light_of_the_wrong_tint_is_repaired_by_a_factor_a_channel_alone() -> None:
    room = pictures(0)
    photo, truth = display(room.photo).astype(np.float64), display(room.lit["white"]).astype(np.float64)
    result = photo + np.array([0.3, 0.6, 0.9]) * (truth - photo)
    assert np.allclose(best_strength(photo, result, truth, each_channel=True), truth)
    one = metrics.psnr(truth, best_strength(photo, result, truth, each_channel=False))
    assert metrics.psnr(truth, result) < one < 40


def test_a_result_that_adds_nothing_stays_the_photo() -> None:
    room = pictures(0)
    photo, truth = display(room.photo), display(room.lit["red"])
    for each_channel in (False, True):
        assert np.array_equal(best_strength(photo, photo, truth, each_channel=each_channel), photo)


def test_the_models_figure_is_that_of_the_evaluation(folder: Path, room: ShownRoom) -> None:
    scores = evaluate(nano_pipeline(), sorted(folder.iterdir()), steps=STEPS, seed=SEEDS[0])
    found = room_limits(nano_pipeline(), room, STEPS)
    assert room.pasted
    assert {color: each.model for color, each in found.items()} == {
        score.color: score.psnr for score in scores if score.room == room.name
    }


def test_repairs_bring_no_result_further_from_the_truth(room: ShownRoom) -> None:
    for each in room_limits(nano_pipeline(), room, STEPS).values():
        assert each.model < each.strength < metrics.PSNR_LIMIT
        assert each.model < each.tint < metrics.PSNR_LIMIT
        assert 0 < each.seeds < metrics.PSNR_LIMIT


def test_the_true_latent_asks_nothing_of_the_denoiser(
    room: ShownRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (room_limits(nano_pipeline(), room, steps) for steps in (1, STEPS))
    for color in COLORS:
        assert one[color].true_latent == two[color].true_latent
        assert one[color].model != two[color].model
    monkeypatch.setattr(limits, "SEEDS", (0, 0))
    same = room_limits(nano_pipeline(), room, STEPS)
    assert {each.seeds for each in same.values()} == {metrics.PSNR_LIMIT}


def test_the_table_ends_with_the_mean_over_colours() -> None:
    means = {"red": Limits(20, 21, 22, 30, 44), "blue": Limits(22, 23, 25, 31, 45)}
    assert mean_limits(list(means.values())) == Limits(21, 22, 23.5, 30.5, 44.5)
    rows = table(means).splitlines()
    assert rows[-1] == "| *mean* | 21.00 | 22.00 | 23.50 | 30.50 | 44.50 |"
    assert {row.count("|") for row in rows} == {7}


def test_the_command_prints_a_table_and_writes_everything(
    folder: Path, tmp_path: Path, nano_weights: None
) -> None:
    path = tmp_path / "new" / "limits.json"
    done = CliRunner().invoke(limits.main, ["--rooms", str(folder), "--count", "2", "--json", str(path)])
    assert done.exit_code == 0, done.output
    written = json.loads(path.read_text())
    assert written["settings"]["weights"] == "made-up weights" and written["settings"]["count"] == 2
    assert list(written["rooms"]) == ["room_000000", "room_000001"]
    values = [room["green"]["model"] for room in written["rooms"].values()]
    assert written["colors"]["green"]["model"] == pytest.approx(np.mean(values))
    assert f"| green | {np.mean(values):.2f} |" in done.stdout


def test_the_table_in_the_documentation_is_the_measured_one() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs/training.md").read_text()
    measured = json.loads((root / "benchmarks/results/mini_limits.json").read_text())
    assert table({color: Limits(**means) for color, means in measured["colors"].items()}) in text
    assert f"--rooms {measured['settings']['rooms']} --count {measured['settings']['count']}`" in text


def test_too_few_rooms_are_an_error_in_one_sentence(folder: Path, nano_weights: None) -> None:
    done = CliRunner().invoke(limits.main, ["--rooms", str(folder), "--count", "3"])
    assert done.exit_code == 1
    assert "holds 2 rooms, 3 were asked for" in done.stderr
