"""Losses and figures of pictures."""

from __future__ import annotations

import math

import pytest
import torch

from lumiply.training.losses import mean_hue_error, picture_loss, psnr
from lumiply.training.pairs import PairDataset, PairOptions


def test_the_loss_of_pictures_is_least_at_the_truth_and_weighs_dark_and_bright_rooms_alike():
    truth = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    at_truth, near, far = (float(picture_loss(truth + error, truth)) for error in (0.0, 0.05, 0.1))
    assert at_truth == pytest.approx(0.5 * math.log(1e-4), abs=1e-4)
    assert at_truth < near < far
    picture = truth.clone().requires_grad_(True)
    offset = torch.tensor([0.05, 0.2]).view(2, 1, 1, 1)
    picture_loss(picture + offset, truth).backward()
    by_picture = (picture.grad * offset).sum(dim=(1, 2, 3))
    assert by_picture[1] == pytest.approx(float(by_picture[0]), rel=0.2)


def test_the_hue_error_of_the_truth_is_none_and_that_of_another_lamp_is_large(pool):
    red = torch.tensor([[1.0, 0.06, 0.04]])
    options = PairOptions(colors_per_batch=1, pasted=0.0)
    batch = next(iter(PairDataset(pool, 4, seed=0, options=options, fixed_colors=red)))
    blue = next(iter(PairDataset(pool, 4, seed=0, options=options, fixed_colors=red.flip(1))))
    assert float(mean_hue_error(2 * batch.on - 1, batch)) == pytest.approx(0.0, abs=0.1)
    assert float(mean_hue_error(2 * blue.on - 1, batch)) > 60.0


def test_psnr_is_that_of_pictures_in_0_to_1():
    truth = torch.zeros(2, 3, 8, 8)
    assert psnr(truth + 0.2, truth) == pytest.approx(20.0, abs=1e-3)  # 0.1 on the scale of [0, 1]
    assert psnr(truth + 1.0 + 7.0, truth + 1.0) == pytest.approx(100.0)  # clamped, as when it is saved
