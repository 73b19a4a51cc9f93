"""Every figure against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lumiply.evaluation import metrics
from lumiply.evaluation.metrics import (
    PSNR_LIMIT,
    added_light,
    best_gain_and_tint,
    hue_error,
    identity_ssim,
    luminance,
    psnr,
    rmse,
    ssim_grey,
    ssim_grey_map,
    to_display,
    to_linear,
)
from lumiply.synth.compose import srgb_encode


def plain(*rgb: float, size: int = 16) -> np.ndarray:
    """A picture, or added light, of one colour."""
    return np.broadcast_to(np.array(rgb, float), (size, size, 3)).copy()


def noise(seed: int = 0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.02, high, (32, 32, 3))


def test_rmse_and_psnr_of_a_known_difference() -> None:
    a, b = plain(0.5, 0.5, 0.5), plain(0.6, 0.6, 0.6)
    assert rmse(a, b) == pytest.approx(0.1)
    assert psnr(a, b) == pytest.approx(20.0)
    assert rmse(a, plain(0.5, 0.5, 0.8)) == pytest.approx(0.3 / 3**0.5)


def test_equal_pictures_have_no_error_and_a_finite_psnr() -> None:
    assert rmse(noise(), noise()) == 0
    assert psnr(noise(), noise()) == PSNR_LIMIT
    assert psnr(noise(), noise() + 1e-9) == PSNR_LIMIT


def test_ssim_of_plain_pictures_is_that_of_their_means() -> None:
    dark, bright, c1 = 0.2, 0.8, 0.01**2
    expected = (2 * dark * bright + c1) / (dark**2 + bright**2 + c1)
    assert ssim_grey(plain(dark, dark, dark), plain(bright, bright, bright)) == pytest.approx(expected)


def test_ssim_is_1_for_equal_pictures_and_sees_structure_not_colour() -> None:
    picture = noise()
    assert ssim_grey(picture, picture) == pytest.approx(1.0)
    assert ssim_grey(picture, np.rot90(picture).copy()) < 0.2
    red = plain(0.5, 0.2, 0.2)
    grey = plain(*[metrics.rgb2gray(red)[0, 0]] * 3)
    assert ssim_grey(red, grey) == pytest.approx(1.0)


def test_the_ssim_map_is_low_just_where_pictures_differ() -> None:
    picture, changed = noise(), noise()
    changed[:, 20:] = 1 - changed[:, 20:]
    mean, similarity = ssim_grey_map(picture, changed)
    assert similarity.shape == (32, 32)
    assert similarity[:, :16].min() == pytest.approx(1.0)
    assert similarity[:, 24:].max() < 0
    assert mean == pytest.approx(similarity[3:-3, 3:-3].mean())


def test_transfer_functions_agree_with_the_renderers_and_undo_each_other() -> None:
    linear = np.linspace(0, 1, 101)
    np.testing.assert_allclose(to_display(linear), srgb_encode(torch.from_numpy(linear)).numpy(), atol=1e-12)
    np.testing.assert_allclose(to_linear(to_display(linear)), linear, atol=1e-7)
    assert to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)
    assert to_display(np.array([-1.0, 2.0])) == pytest.approx(np.array([0, 1]))


def test_single_precision_stays_single() -> None:
    picture = noise().astype(np.float32)
    for result in (to_linear(picture), to_display(picture), best_gain_and_tint(picture, picture)):
        assert result.dtype == np.float32


def test_added_light_is_the_difference_in_linear_light() -> None:
    added = added_light(plain(0.5, 0.5, 0.0), plain(0.0, 0.5, 0.0))
    np.testing.assert_allclose(added, plain(0.21404, 0, 0), atol=1e-5)
    assert luminance(added)[0, 0] == pytest.approx(0.2126 * 0.21404, abs=1e-5)


RED, YELLOW, GREEN, CYAN, BLUE = (0.5, 0, 0), (0.5, 0.5, 0), (0, 0.5, 0), (0, 0.5, 0.5), (0, 0, 0.9)


@pytest.mark.parametrize(
    ("predicted", "degrees"),
    [
        (RED, 0),
        ((0.1, 0, 0), 0),  # too dark
        ((0.5, 0.2, 0.2), 0),  # too pale
        (YELLOW, 60),
        (GREEN, 120),
        (BLUE, 120),
        (CYAN, 180),
        ((-0.5, 0, 0), 180),  # red light taken away
        ((0, 0, 0), 90),  # nothing added
        ((0.4, 0.4, 0.4), 90),  # grey added
    ],
)
def test_hue_error_of_red_light_is_the_angle_on_the_colour_circle(
    predicted: tuple[float, ...], degrees: float
) -> None:
    assert hue_error(plain(*predicted), plain(*RED)) == pytest.approx(degrees, abs=1e-4)


def test_hue_error_of_the_exact_truth_is_0() -> None:
    off, on = noise(1, 0.4), noise(2)
    assert hue_error(added_light(on, off), added_light(on, off)) == pytest.approx(0, abs=1e-9)


def test_hue_error_is_a_mean_over_lit_and_coloured_pixels_only() -> None:
    true, predicted = plain(*RED), plain(*RED)
    predicted[:8] = YELLOW
    assert hue_error(predicted, true) == pytest.approx(30)
    true[:4] = (0.049 / 0.2126, 0, 0)  # just too dark to be judged
    assert hue_error(predicted, true) == pytest.approx(60 * 4 / 12)
    true[:4] = (0.051 / 0.2126, 0, 0)
    assert hue_error(predicted, true) == pytest.approx(30)
    true[4:8] = (0.5, 0.46, 0.46)  # grey
    assert hue_error(predicted, true) == pytest.approx(60 * 4 / 12)


def test_hue_error_needs_a_lamp() -> None:
    assert hue_error(plain(*RED), plain(0, 0, 0)) is None
    assert hue_error(plain(*RED), plain(0.5, 0.5, 0.5)) is None


def test_identity_counts_only_what_the_lamp_leaves_alone() -> None:
    similarity, added = np.ones((16, 16)), plain(0, 0, 0)
    similarity[:, 8:] = 0.5
    assert identity_ssim(similarity, added) == pytest.approx(0.75)
    added[:, 8:] = 0.011
    assert identity_ssim(similarity, added) == 1
    added[:, 8:] = 0.009
    assert identity_ssim(similarity, added) == pytest.approx(0.75)
    added[:, 8:] = -0.5  # a lamp that was pasted brightly, and is gone
    assert identity_ssim(similarity, added) == 1


def test_identity_leaves_out_the_border_and_needs_a_dark_place() -> None:
    similarity = np.zeros((16, 16))
    similarity[3:-3, 3:-3] = 1
    assert identity_ssim(similarity, plain(0, 0, 0)) == 1
    assert identity_ssim(similarity, plain(1, 1, 1)) is None


@pytest.mark.parametrize("linear", [False, True])
def test_gain_and_tint_recover_a_tinted_picture(linear: bool) -> None:
    photo, factors = noise(high=0.5), np.array([1.6, 0.7, 1.1])
    truth = to_display(to_linear(photo) * factors) if linear else photo * factors
    assert psnr(truth, best_gain_and_tint(photo, truth)) > 90
    assert psnr(truth, photo) < 30


def test_gain_and_tint_never_lose_to_the_photo_and_stay_pictures() -> None:
    for seed in range(5):
        photo, truth = noise(seed), noise(seed + 100)
        fitted = best_gain_and_tint(photo, truth)
        assert psnr(truth, fitted) >= psnr(truth, photo)
        assert fitted.min() >= 0 and fitted.max() <= 1


def test_gain_and_tint_cannot_light_a_black_channel() -> None:
    photo, truth = plain(0, 0.2, 0.2), plain(0.5, 0.4, 0.2)
    np.testing.assert_allclose(best_gain_and_tint(photo, truth), plain(0, 0.4, 0.2), atol=1e-6)
