"""Composing pairs from layers: the camera's curve, the exposure, the arithmetic of light."""

import numpy as np
import pytest
import torch

from lumiply.synth.compose import (
    LAMP_PEAK,
    LAMP_TARGET,
    SHOULDER_START,
    LayerBatch,
    ambient_gain,
    compose,
    compress_highlights,
    lamp_gain,
    luminance,
    normalise_layers,
    shoulder,
    srgb_encode,
    tone_curve,
)


def random_layers(batch: int = 3, side: int = 12) -> LayerBatch:
    draw = torch.Generator().manual_seed(0)
    light = [torch.rand(batch, 3, side, side, generator=draw) for _ in range(4)]
    alpha = torch.zeros(batch, 1, side, side)
    alpha[..., 3:6, 4:8] = torch.rand(batch, 1, 3, 4, generator=draw)
    return LayerBatch(light[0] * 4, light[1] * 4, light[2] ** 6 * 30, alpha, light[3])


def settings(batch: int, are_pasted: bool, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    values = {
        "color": torch.ones(batch, 3), "strength": torch.ones(batch), "exposure": torch.ones(batch),
        "pasted": torch.full((batch,), are_pasted),
    }  # fmt: skip
    return values | changes


def composed(layers: LayerBatch, **values: torch.Tensor):
    return compose(
        layers.ambient,
        layers.ambient_without_lamp,
        layers.lamp,
        layers.lamp_alpha,
        layers.lamp_flat,
        **values,
    )


def test_tone_curve_is_monotone_and_stays_in_the_display_range() -> None:
    shown = tone_curve(torch.linspace(0, 20, 20001, dtype=torch.float64))
    assert (shown.diff() >= 0).all()
    assert shown.min() == 0 and shown.max() <= 1


def test_shoulder_is_the_identity_below_its_start_and_smooth_at_it() -> None:
    below = torch.linspace(0, SHOULDER_START, 100, dtype=torch.float64)
    assert torch.equal(shoulder(below), below)
    step = 1e-6
    around = torch.tensor([SHOULDER_START - step, SHOULDER_START, SHOULDER_START + step], dtype=torch.float64)
    left, right = (shoulder(around).diff() / step).tolist()
    assert left == pytest.approx(right, abs=1e-5)


def test_srgb_encode_agrees_with_known_values() -> None:
    assert srgb_encode(torch.tensor([0.0, 0.0031308, 0.18, 0.5, 1.0])).tolist() == pytest.approx(
        [0.0, 0.04045, 0.46135, 0.73536, 1.0], abs=1e-4
    )


def test_normalised_ambient_has_the_asked_median_and_keeps_both_layers_comparable() -> None:
    layers = random_layers()
    target = torch.tensor([0.03, 0.1, 0.25])
    scaled = normalise_layers(layers, target)
    assert torch.allclose(luminance(scaled.ambient).flatten(1).median(1).values, target, rtol=1e-4)
    ratio = scaled.ambient_without_lamp / layers.ambient_without_lamp
    assert torch.allclose(ratio, (scaled.ambient / layers.ambient), rtol=1e-4)


def test_normalised_lamp_has_the_asked_mean_of_clipped_luminance() -> None:
    scaled = normalise_layers(random_layers(), 0.1)
    assert luminance(scaled.lamp).clamp_max(1).mean((1, 2)).tolist() == pytest.approx(
        [LAMP_TARGET] * 3, rel=1e-3
    )


def test_a_lamp_or_a_room_without_light_stays_finite() -> None:
    dark = torch.zeros(1, 3, 4, 4)
    assert torch.isfinite(lamp_gain(dark)).all() and torch.isfinite(ambient_gain(dark, 0.1)).all()


def test_compressed_highlights_keep_hue_and_stay_below_the_peak() -> None:
    lamp = torch.tensor([0.2, 1.0, 5.0, 400.0]).reshape(1, 1, 1, 4) * torch.tensor([1.0, 0.5, 0.25]).reshape(
        1, 3, 1, 1
    )
    rolled = compress_highlights(lamp)
    assert torch.equal(rolled[..., 0], lamp[..., 0])
    assert torch.allclose(rolled[:, 1] / rolled[:, 0], torch.tensor(0.5))
    assert luminance(rolled).max() <= LAMP_PEAK + 1e-4
    assert (luminance(rolled).diff() > 0).all()


def test_compose_equals_a_computation_by_hand() -> None:
    one = torch.ones(1, 3, 1, 1)
    layers = LayerBatch(0.2 * one, 0.3 * one, 0.1 * one, torch.full((1, 1, 1, 1), 0.5), 0.4 * one)
    values = settings(
        1,
        True,
        color=torch.tensor([[1.0, 0.5, 0.0]]),
        strength=torch.tensor([2.0]),
        exposure=torch.tensor([1.5]),
    )
    pair = composed(layers, **values, paste_opacity=0.8)

    def display(value: float) -> float:
        return 1.055 * value ** (1 / 2.4) - 0.055

    assert pair.on.flatten().tolist() == pytest.approx([display(0.5), display(0.4), display(0.3)], abs=1e-5)
    assert pair.off.flatten().tolist() == pytest.approx(
        [0.4 * display(0.4) + 0.6 * display(0.45)] * 3, abs=1e-5
    )
    assert composed(layers, **(values | {"pasted": torch.tensor([False])})).off.flatten()[
        0
    ].item() == pytest.approx(display(0.3), abs=1e-5)


def test_a_pasted_lamp_leaves_the_rest_of_the_room_bit_for_bit() -> None:
    layers = random_layers()
    pair = composed(layers, **settings(3, True))
    empty = tone_curve(layers.ambient_without_lamp)
    elsewhere = (layers.lamp_alpha == 0).expand_as(empty)
    assert torch.equal(pair.off[elsewhere], empty[elsewhere])
    assert not torch.equal(pair.off, empty)


def test_pasting_is_chosen_per_room_and_a_batch_equals_its_single_rooms() -> None:
    layers = random_layers()
    pasted = torch.tensor([True, False, True])
    together = composed(layers, **settings(3, True, pasted=pasted))
    for k in range(3):
        single = LayerBatch(**{name: value[k : k + 1] for name, value in vars(layers).items()})
        alone = composed(single, **settings(1, bool(pasted[k])))
        assert torch.equal(alone.off[0], together.off[k]) and torch.equal(alone.on[0], together.on[k])


def test_turning_the_lamp_on_never_darkens_the_room() -> None:
    pair = composed(random_layers(), **settings(3, False))
    assert (pair.on >= pair.off).all()


@pytest.mark.parametrize(
    "wrong", [{"color": torch.ones(3)}, {"strength": torch.ones(2)}, {"pasted": torch.ones(3)}]
)
def test_settings_of_the_wrong_shape_or_type_are_refused(wrong: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        composed(random_layers(), **settings(3, False, **wrong))


def test_a_batch_is_stacked_channels_first_from_arrays() -> None:
    class Room:
        ambient = ambient_without_lamp = lamp = lamp_flat = np.arange(2 * 4 * 3, dtype=np.float32).reshape(
            2, 4, 3
        )
        lamp_alpha = np.ones((2, 4), np.float32)

    batch = LayerBatch.from_rooms([Room(), Room()])
    assert batch.ambient.shape == (2, 3, 2, 4) and batch.lamp_alpha.shape == (2, 1, 2, 4)
    assert batch.ambient[0, 1, 1, 2] == Room.ambient[1, 2, 1]
    with pytest.raises(ValueError, match="at least one"):
        LayerBatch.from_rooms([])
