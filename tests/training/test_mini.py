"""The whole training of the mini model, as far as it goes without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lumiply.synth.render import RoomLayers
from lumiply.synth.rooms import sample_room
from lumiply.training import mini
from lumiply.training.averaging import Averaging
from lumiply.training.command import main
from lumiply.training.mini import STAGES, MiniPlan, MiniTraining, blended, render_rooms, room_orders
from lumiply.training.stage_base import Budget
from lumiply.training.stages import BaseStage
from lumiply.weights import read_state
from tests.nano import NANO
from tests.training.conftest import made_up_room


class MadeUpRenderer:
    """Renders nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def render(self, spec) -> RoomLayers:
        self.asked.append(spec)
        return made_up_room(len(self.asked))


@pytest.fixture
def plan(tmp_path: Path) -> MiniPlan:
    per_stage = dict.fromkeys(STAGES, 1)
    return MiniPlan(
        rooms=tmp_path / "train",
        validation=tmp_path / "validation",
        out=tmp_path / "mini",
        minutes={name: 1.0 for name in per_stage},
        steps=per_stage,
        batch=per_stage,
        validation_rooms=2,
    )


def test_rooms_are_rendered_into_both_folders_from_their_own_splits(plan):
    renderer = MadeUpRenderer()
    render_rooms(plan, 3, lambda: renderer)
    assert sorted(path.name for path in plan.rooms.glob("*.npz")) == [f"room_{n:06d}.npz" for n in range(3)]
    assert len(list(plan.validation.glob("*.npz"))) == 2
    validation = [sample_room(seed, "validation") for seed in range(2)]
    assert renderer.asked == [*validation, *(sample_room(seed, "train") for seed in range(3))]


def test_rooms_that_are_there_are_not_rendered_again(plan):
    render_rooms(plan, 2, MadeUpRenderer)
    again = MadeUpRenderer()
    render_rooms(plan, 3, lambda: again)
    assert again.asked == [sample_room(2, "train")]


def test_rooms_that_are_rendered_beside_training_are_the_same_ones(plan):
    validation, train = room_orders(plan, 3, samples=16, first=100)
    assert (validation.split, validation.first, validation.count) == ("validation", 0, plan.validation_rooms)
    assert (train.split, train.first, train.count, train.samples) == ("train", 100, 3, 16)
    assert train.folder == plan.rooms and validation.folder == plan.validation


@pytest.mark.filterwarnings("default")
def test_refinement_ends_with_an_average_of_its_last_weights(plan, monkeypatch):
    monkeypatch.setattr(mini, "load_config", lambda path: NANO)
    averages: list[Averaging] = []

    class Watched(Averaging):
        def __init__(self, decay: float) -> None:
            super().__init__(decay)
            averages.append(self)

    monkeypatch.setattr(mini, "Averaging", Watched)
    render_rooms(plan, 2, MadeUpRenderer)
    cpu = replace(plan, steps=dict.fromkeys(STAGES, 3), device="cpu", precision="32-true", least_rooms=1)
    training = MiniTraining(cpu)
    training.refine()
    [average] = averages
    assert average.steps == 3 and average.decay == mini.REFINED_DECAY
    saved = read_state(plan.out / mini.MODEL_FILE)
    found = {name.removeprefix("model."): value.half() for name, value in average.average.items()}
    assert all(torch.equal(saved[name], value) for name, value in found.items())
    assert any("decoder" in name for name in found)


@pytest.mark.parametrize("averaged", [True, False])
def test_what_is_saved_in_the_middle_of_a_stage_is_the_average_where_there_is_one(
    plan, monkeypatch, averaged: bool
):
    monkeypatch.setattr(mini, "load_config", lambda path: NANO)
    render_rooms(plan, 2, MadeUpRenderer)
    training = MiniTraining(replace(plan, device="cpu", precision="32-true", least_rooms=1))
    stage = BaseStage(training.model, Budget(1))
    average = Averaging(0.5)
    average.average = {name: torch.full_like(value, 2.0) for name, value in stage.trained().items()}
    training.save_trained(stage, average if averaged else None)
    saved = read_state(plan.out / mini.MODEL_FILE)
    names = [name.removeprefix("model.") for name in stage.trained()]
    assert all(bool((saved[name] == 2.0).all()) for name in names) == averaged


def test_blended_weights_lie_between_those_before_and_those_after():
    before, after = {"w": torch.tensor([0.0, 2.0]).half()}, {"w": torch.tensor([1.0, -2.0]).half()}
    assert torch.equal(blended(before, after, 0.25)["w"], torch.tensor([0.25, 1.0]).half())
    assert torch.equal(blended(before, after, 1.0)["w"], after["w"])
    assert torch.equal(blended(before, after, 0.0)["w"], before["w"])
    with pytest.raises(ValueError, match="from 0 to 1, got 1.5"):
        blended(before, after, 1.5)


def test_without_rooms_the_command_says_what_to_do(tmp_path):
    folders = ["--rooms", str(tmp_path / "none"), "--validation", str(tmp_path / "none")]
    result = CliRunner().invoke(main, [*folders, "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert result.exit_code == 1
    assert "lumiply synth --out" in result.output and "Traceback" not in result.output
