"""Rooms in memory and the pairs drawn from them."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lumiply.colors import COLORS
from lumiply.errors import UserError
from lumiply.synth.compose import LAMP_TARGET, LayerBatch, luminance
from lumiply.training.pairs import (
    PairDataset,
    PairOptions,
    draw_pairs,
    lamp_middle,
    random_colors,
    seven_colors,
    vary_colors,
    zoom,
)
from lumiply.training.pool import RoomPool
from tests.training.conftest import SIZE, made_up_room


def first_batch(pool: RoomPool, seed: int = 0, **options):
    return next(iter(PairDataset(pool, 6, seed=seed, options=PairOptions(colors_per_batch=3, **options))))


def test_the_pool_normalises_ambient_and_lamp(pool):
    layers = pool.layers(torch.arange(6))
    medians = luminance(layers.ambient).flatten(1).median(dim=1).values
    assert torch.allclose(medians, torch.ones(6), atol=2e-3)
    strengths = luminance(layers.lamp).clamp(max=1).mean(dim=(1, 2))
    assert torch.allclose(strengths, torch.full((6,), LAMP_TARGET), atol=1e-3)


def test_the_pool_takes_in_files_that_come_later_and_each_once(pool, rooms):
    assert pool.refresh() == 0
    made_up_room(6).save(rooms / "room_000006.npz")
    assert pool.refresh() == 1 and len(pool) == 7


def test_the_pool_stops_at_its_capacity(rooms):
    pool = RoomPool(rooms, capacity=4, size=SIZE, device="cpu")
    assert pool.refresh() == 4 and pool.refresh() == 0


def test_training_does_not_wait_for_rooms_that_are_being_read(rooms, monkeypatch):
    pool, may_read = RoomPool(rooms, capacity=16, size=SIZE, device="cpu"), threading.Event()
    read = pool._read
    monkeypatch.setattr(pool, "_read", lambda path: read(path) if may_read.wait(60) else None)
    assert pool.refresh(wait=False) == 0
    may_read.set()
    assert pool.refresh() == 6 and pool.refresh() == 0


def test_rooms_of_another_size_or_not_finite_are_skipped_and_said(rooms, caplog):
    made_up_room(7, size=32).save(rooms / "room_000007.npz")
    room = made_up_room(8)
    lamp = room.lamp.copy()
    lamp[3, 3] = np.nan
    dataclasses.replace(room, lamp=lamp).save(rooms / "room_000008.npz")
    pool = RoomPool(rooms, capacity=16, size=SIZE, device="cpu")
    assert pool.refresh() == 6
    assert "room_000007.npz skipped" in caplog.text and "room_000008.npz skipped" in caplog.text


def test_too_few_rooms_is_an_error_with_the_command_that_helps(tmp_path):
    pool = RoomPool(tmp_path, capacity=4, size=SIZE, device="cpu")
    with pytest.raises(UserError, match="lumiply synth --out"):
        pool.wait_for(2, timeout=0.0)


def test_pairs_are_pictures_and_the_lit_one_is_brighter(pool):
    batch = first_batch(pool, pasted=0.0)
    for picture in (batch.off, batch.on):
        assert picture.shape == (6, 3, SIZE, SIZE)
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1
    assert (batch.on >= batch.off - 1e-6).all()
    assert (batch.on - batch.off).mean() > 0.01


def test_the_same_seed_draws_the_same_pairs(pool):
    first, again, other = (first_batch(pool, seed) for seed in (1, 1, 2))
    assert torch.equal(first.on, again.on) and torch.equal(first.colors, again.colors)
    assert not torch.equal(first.on, other.on)


def test_a_pair_is_mirrored_left_and_right_together_and_never_up_and_down(pool):
    layers = pool.layers(torch.zeros(64, dtype=torch.long))  # one room, many times
    options = PairOptions(colors_per_batch=1, free_colors=0.0, pasted=0.0)
    batch = draw_pairs(layers, options, torch.Generator().manual_seed(0), fixed_colors=torch.ones(1, 3))
    # the lamp's centre of light, which the ambient level does not move much
    weight = (batch.on - batch.off).mean(dim=1)
    grid = torch.linspace(0, 1, SIZE)
    x = (weight.mean(dim=1) * grid).sum(1) / weight.mean(dim=1).sum(1)
    y = (weight.mean(dim=2) * grid).sum(1) / weight.mean(dim=2).sum(1)
    assert (x > 0.5).any() and (x < 0.5).any()
    assert (y > 0.5).all() or (y < 0.5).all()


def test_every_pair_is_lit_in_the_colour_it_names(pool):
    layers = pool.layers(torch.arange(6))
    options = PairOptions(pasted=0.0, flip=False)
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    batch = draw_pairs(layers, options, torch.Generator().manual_seed(0), fixed_colors=colors)
    added = (batch.on - batch.off).mean(dim=(2, 3))
    for index, which in enumerate(batch.which.tolist()):
        lit, unlit = (0, 2) if which == 0 else (2, 0)
        assert added[index, lit] > 0.01 and abs(added[index, unlit]) < 1e-6


def test_free_colours_have_a_full_component_and_no_light_is_negative():
    colors = random_colors(500, torch.Generator().manual_seed(0))
    assert torch.allclose(colors.max(dim=1).values, torch.ones(500))
    assert float(colors.min()) >= 0 and float(colors.min()) < 0.05
    assert seven_colors("cpu").shape == (len(COLORS), 3)


def test_exchanged_materials_and_tinted_daylight_leave_the_lamps_light_additive(pool):
    layers = pool.layers(torch.arange(6))
    varied = vary_colors(layers, PairOptions(recolor=1.0, tint=0.3), torch.Generator().manual_seed(1))
    for name in ("lamp", "lamp_flat"):  # the same channels, in another order
        before, after = getattr(layers, name), getattr(varied, name)
        assert torch.equal(before.sort(dim=1).values, after.sort(dim=1).values)
    ratio = varied.ambient / varied.ambient_without_lamp
    expected = layers.ambient / layers.ambient_without_lamp
    assert torch.allclose(ratio.mean(dim=1), expected.mean(dim=1), rtol=1e-3)  # both daylights, one tint
    assert not torch.allclose(varied.ambient, layers.ambient)


def test_without_recolouring_and_tint_rooms_stay_as_they_are(pool):
    layers = pool.layers(torch.arange(6))
    varied = vary_colors(layers, PairOptions(recolor=0.0, tint=0.0), torch.Generator().manual_seed(1))
    assert torch.equal(varied.ambient, layers.ambient) and torch.equal(varied.lamp, layers.lamp)


def test_crops_are_of_the_side_that_was_asked_for_and_aligned(pool):
    layers = pool.layers(torch.arange(6))
    options = PairOptions(pasted=0.0, crop=24, colors_per_batch=1, free_colors=0.0)
    black = torch.zeros(1, 3)
    batch = draw_pairs(layers, options, torch.Generator().manual_seed(3), fixed_colors=black)
    assert batch.off.shape == batch.on.shape == (6, 3, 24, 24)
    assert torch.equal(batch.off, batch.on)  # a black lamp adds nothing, where both show the same place


def test_a_zoomed_view_holds_the_lamps_middle_and_fills_the_picture(pool):
    layers = pool.layers(torch.zeros(200, dtype=torch.long))
    everywhere = torch.zeros_like(layers.lamp_alpha)
    everywhere[:, :, 10:14, 40:44] = 1.0  # a small lamp, right and above
    layers = dataclasses.replace(layers, lamp_alpha=everywhere, lamp_flat=torch.ones_like(layers.lamp_flat))
    seen = zoom(layers, PairOptions(zoomed=1.0), torch.Generator().manual_seed(0))
    area = seen.lamp_alpha.mean(dim=(1, 2, 3)) / layers.lamp_alpha.mean(dim=(1, 2, 3))
    assert float(area.max()) <= 1 / 0.6**2 + 0.1  # no window is smaller than it may be
    assert float(area.min()) > 0.2 and float(area.mean()) > 1.2
    middles = lamp_middle(seen.lamp_alpha)
    assert float(middles.std(dim=0).min()) > 0.04  # it moves about
    assert torch.allclose(
        seen.lamp_flat, torch.ones_like(seen.lamp_flat), atol=1e-5
    )  # nothing beyond the picture's edge


def test_all_layers_of_a_room_are_zoomed_alike_and_some_not_at_all(pool):
    layers = pool.layers(torch.zeros(40, dtype=torch.long))
    layers = dataclasses.replace(layers, lamp=layers.ambient, lamp_flat=layers.ambient)
    seen = zoom(layers, PairOptions(zoomed=0.5), torch.Generator().manual_seed(0))
    assert torch.equal(seen.lamp, seen.ambient) and torch.equal(seen.lamp_flat, seen.ambient)
    kept = (seen.ambient - layers.ambient).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert 8 < int(kept.sum()) < 32


class Moves(TorchDispatchMode):
    """Notes what is computed on one device and brought to another; on a GPU the host waits for that."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if function is torch.ops.aten._to_copy.default and args[0].device != result.device:
            self.seen.append(args[0].shape)
        return result


def test_a_view_is_drawn_where_the_rooms_are():
    def layer(channels):
        return torch.zeros(2, channels, 8, 8, device="meta")

    layers = LayerBatch(layer(3), layer(3), layer(3), layer(1), layer(3))
    with Moves() as moves:
        seen = zoom(layers, PairOptions(zoomed=0.5), torch.Generator())
        assert moves.seen == []
        torch.ones(()).to("meta")
        assert moves.seen == [()]  # such a one would have been seen
    assert seen.lamp.device.type == "meta"


def test_a_zoomed_pair_has_the_lamp_strength_of_any_other(pool):
    layers = pool.layers(torch.arange(6))
    options = PairOptions(zoomed=1.0, pasted=0.0, recolor=0.0, tint=0.0, flip=False)
    white = torch.ones(1, 3)
    zoomed = draw_pairs(layers, options, torch.Generator().manual_seed(0), fixed_colors=white)
    whole = draw_pairs(
        layers, dataclasses.replace(options, zoomed=0.0), torch.Generator().manual_seed(0), fixed_colors=white
    )
    assert zoomed.off.shape == whole.off.shape and not torch.allclose(zoomed.off, whole.off)
    for batch in (zoomed, whole):
        assert (batch.on >= batch.off - 1e-6).all() and (batch.on - batch.off).mean() > 0.01


def test_more_rooms_than_memory_holds_are_an_error_with_the_next_step(tmp_path):
    with pytest.raises(
        UserError, match=r"take \d+ GB of memory, which cpu does not have free; .*--most-rooms"
    ):
        RoomPool(tmp_path, capacity=10**9, size=256, device="cpu")
