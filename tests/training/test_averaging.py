"""The average over weights: what it is, where it stands in for them, and how it becomes the result."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lumiply.training.averaging import Averaging


class Learner(nn.Module):
    """One weight that learns, and one that does not."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.learns = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def trained(self) -> dict[str, nn.Parameter]:
        return {"learns": self.learns}


def trained(average: Averaging, values: list[float]) -> Learner:
    """A learner whose weight took these values, one a step."""
    learner, trainer = Learner(), SimpleNamespace(global_step=0)
    average.on_fit_start(trainer, learner)
    for value in values:
        learner.learns.data.fill_(value)
        trainer.global_step += 1
        average.on_train_batch_end(trainer, learner)
    return learner


def test_the_average_forgets_its_start_soon_and_then_decays_as_asked():
    average = Averaging(0.25)
    trained(average, [1.0, 2.0, 4.0])
    expected = 0.0
    for decay, value in ((2 / 11, 1.0), (0.25, 2.0), (0.25, 4.0)):
        expected = decay * expected + (1 - decay) * value
    assert average.average["learns"] == pytest.approx(expected)


def test_a_batch_that_ends_no_optimiser_step_counts_not():
    average = Averaging(0.5)
    learner = trained(average, [1.0])
    before = average.average["learns"].clone()
    learner.learns.data.fill_(100.0)
    average.on_train_batch_end(SimpleNamespace(global_step=1), learner)
    assert torch.equal(average.average["learns"], before)


def test_the_average_stands_in_for_the_weights_while_it_is_shown_and_while_it_validates():
    average = Averaging(0.5)
    learner = trained(average, [1.0, 3.0])
    expected = average.average["learns"].clone()
    with pytest.raises(ZeroDivisionError), average.shown(learner):
        assert torch.equal(learner.learns.data, expected)
        raise ZeroDivisionError
    assert learner.learns.tolist() == [3.0, 3.0]
    average.on_validation_start(None, learner)
    assert torch.equal(learner.learns.data, expected)
    average.on_validation_end(None, learner)
    assert learner.learns.tolist() == [3.0, 3.0] and learner.frozen.tolist() == [1.0, 1.0]


def test_the_average_becomes_the_weights():
    average = Averaging(0.5)
    learner = trained(average, [1.0, 3.0])
    average.adopt(learner)
    assert torch.equal(learner.learns.data, average.average["learns"])
    assert learner.learns.tolist() != [3.0, 3.0]


def test_before_the_first_step_there_is_nothing_to_show_or_to_adopt():
    learner, average = Learner(), Averaging(0.5)
    with average.shown(learner):
        average.adopt(learner)
    assert learner.learns.tolist() == [0.0, 0.0]
