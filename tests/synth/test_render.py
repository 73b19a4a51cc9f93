"""Rendering layers: deterministic, additive, resumable. Small and noisy on purpose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lumiply.errors import UserError
from lumiply.synth import scene as scenes
from lumiply.synth.backend import RendererUnavailable, load_mitsuba
from lumiply.synth.command import synth
from lumiply.synth.render import Renderer, RoomLayers, remove_fireflies
from lumiply.synth.rooms import sample_room
from lumiply.synth.spec import LAMP_KINDS, RoomSpec
from lumiply.synth.stream import render_to_folder, room_path, share


def fake_layers(value: float = 0.25, side: int = 8) -> RoomLayers:
    picture = np.full((side, side, 3), value, np.float32)
    return RoomLayers(picture, picture, picture, picture[..., 0], picture)


class FakeRenderer:
    def __init__(self) -> None:
        self.seeds: list[int] = []

    def render(self, spec: RoomSpec) -> RoomLayers:
        self.seeds.append(spec.seed)
        return fake_layers()


def test_layers_survive_a_file_and_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "room.npz"
    fake_layers(0.125).save(path)
    np.testing.assert_array_equal(RoomLayers.load(path).lamp, fake_layers(0.125).lamp)
    assert [p.name for p in path.parent.iterdir()] == ["room.npz"]
    np.savez(tmp_path / "other.npz", ambient=np.zeros(3))
    with pytest.raises(ValueError, match="lacks ambient_without_lamp"):
        RoomLayers.load(tmp_path / "other.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"room.npz is damaged .* render it again"):
        RoomLayers.load(path)


def test_a_folder_holds_rooms_of_one_split(tmp_path: Path) -> None:
    render_to_folder(tmp_path, [3], "train", FakeRenderer(), show_progress=False)
    renderer = FakeRenderer()
    with pytest.raises(UserError, match="holds rooms of the split train, not test"):
        render_to_folder(tmp_path, [3, 4], "test", renderer, show_progress=False)
    assert renderer.seeds == []


def test_a_second_run_skips_what_is_there(tmp_path: Path) -> None:
    renderer = FakeRenderer()
    first = render_to_folder(tmp_path, [3, 4], "train", renderer, show_progress=False)
    again = render_to_folder(tmp_path, [3, 4, 5], "train", renderer, show_progress=False)
    assert renderer.seeds == [3, 4, 5]
    assert first.skipped == () and again.skipped == first.rendered
    assert again.rendered == (tmp_path / "room_000005.npz",)


def test_workers_share_all_seeds_once() -> None:
    shares = [share(range(10), worker, 3) for worker in range(3)]
    assert sorted(seed for part in shares for seed in part) == list(range(10))
    with pytest.raises(ValueError, match="worker 3 of 3"):
        share(range(10), 3, 3)


def test_fireflies_go_and_edges_stay() -> None:
    picture = np.full((9, 9, 3), 0.2, np.float32)
    picture[5:, 5:] = 4.0
    clean = remove_fireflies(picture)
    np.testing.assert_allclose(clean, picture)
    picture[2, 2] = 50.0
    assert remove_fireflies(picture)[2, 2].max() < 0.6


def test_every_room_fills_the_same_slots() -> None:
    names = {tuple(slot.name for slot in scenes.assemble(sample_room(seed))) for seed in range(25)}
    assert len(names) == 1


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(RendererUnavailable, match="llvm_ad_rgb"):
        load_mitsuba("scalar_rgb")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    pytest.importorskip("mitsuba")
    try:
        load_mitsuba("llvm_ad_rgb")
    except RendererUnavailable as error:
        pytest.skip(str(error))
    return Renderer("llvm_ad_rgb", size=32, samples=16, denoise=False)


@pytest.fixture(scope="module")
def room() -> RoomSpec:
    return next(
        spec
        for spec in map(sample_room, range(100))
        if spec.light.mood == "overcast" and spec.lamp.kind == "table" and spec.lamp.glow > 0.3
    )


@pytest.fixture(scope="module")
def layers(renderer: Renderer, room: RoomSpec) -> RoomLayers:
    return renderer.render(room)


def test_layers_are_finite_never_negative_and_shaped(layers: RoomLayers) -> None:
    for name, value in vars(layers).items():
        assert value.dtype == np.float32 and value.shape == (
            (32, 32) if name == "lamp_alpha" else (32, 32, 3)
        )
        assert np.isfinite(value).all() and value.min() >= 0
    assert layers.lamp_alpha.max() <= 1 and 0.0005 < layers.lamp_alpha.mean() < 0.3
    assert layers.lamp.mean() > 0 and layers.ambient.mean() > 0


def test_the_lamp_is_white_where_it_is_seen(layers: RoomLayers) -> None:
    glow = layers.lamp.reshape(-1, 3)[layers.lamp.sum(-1).argmax()]
    assert glow.max() / glow.min() < 1.25


def test_the_same_room_renders_to_the_same_layers(
    renderer: Renderer, room: RoomSpec, layers: RoomLayers
) -> None:
    again = renderer.render(room)
    for name, value in vars(layers).items():
        np.testing.assert_allclose(getattr(again, name), value, rtol=1e-3, atol=1e-4)


def test_taking_out_the_lamp_changes_little_but_the_lamps_own_pixels(layers: RoomLayers) -> None:
    change = np.abs(layers.ambient - layers.ambient_without_lamp).mean(-1)
    covered = layers.lamp_alpha > 0.5
    assert np.median(change[~covered]) < 0.2 * np.median(layers.ambient)


def test_light_adds_up(renderer: Renderer, room: RoomSpec) -> None:
    mi = load_mitsuba("llvm_ad_rgb")
    slots = scenes.assemble(room)
    scene = scenes.to_mitsuba(mi, slots, room.camera, 32, 256, 6)
    switches, lights = mi.traverse(scene), {slot.name: slot for slot in slots if slot.radiance is not None}
    sums = []
    for lit in (scenes.AMBIENT_LIGHTS, scenes.LAMP_LIGHTS, scenes.AMBIENT_LIGHTS + scenes.LAMP_LIGHTS):
        renderer._shine(switches, lights, lit)
        sums.append(np.array(mi.render(scene, spp=256, seed=5)))
    ambient, lamp, both = sums
    assert both.mean() == pytest.approx(ambient.mean() + lamp.mean(), rel=0.05)
    assert np.median(np.abs(both - ambient - lamp) / (both + 1e-3)) < 0.1


@pytest.mark.parametrize("kind", LAMP_KINDS)
def test_every_lamp_kind_lights_its_room(renderer: Renderer, kind: str) -> None:
    spec = next(spec for spec in map(sample_room, range(100)) if spec.lamp.kind == kind)
    small = replace(spec, items=spec.items[:3])
    assert renderer.render(small).lamp.mean() > 1e-5


@pytest.mark.usefixtures("renderer")
def test_the_command_renders_a_folder_and_a_preview(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    arguments = (
        f"--out {tmp_path} --count 1 --size 16 --samples 4 --variant llvm_ad_rgb --preview {sheet}".split()
    )
    result = CliRunner().invoke(synth, arguments)
    assert result.exit_code == 0, result.output
    assert room_path(tmp_path, 0).exists() and sheet.exists()
