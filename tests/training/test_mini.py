"""The whole training of the mini model, as far as it goes without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lumiply.synth.render import RoomLayers
from lumiply.synth.rooms import sample_room
from lumiply.training.command import main
from lumiply.training.mini import STAGES, MiniPlan, blended, render_rooms, room_orders
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
    assert sorted(path.name for path in plan.rooms.iterdir()) == [f"room_{n:06d}.npz" for n in range(3)]
    assert len(list(plan.validation.iterdir())) == 2
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
