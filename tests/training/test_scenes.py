"""Which scenes show the same room, and that a room never stands on both sides of a split."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lumiply.errors import UserError
from lumiply.training.augmentation import plan, write
from lumiply.training.photos import scan, scan_flat
from lumiply.training.scenes import Scene, rooms_of
from lumiply.training.split import choose_validation
from tests.photos import make_scene, make_split


def view(name: str, folder: Path) -> Scene:
    """A scene with an unlit photo of its own."""
    off = folder / f"{name}.png"
    off.write_text(name)
    return Scene(name, None, off, {"white": off})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Kitchen__1", "kitchen__2"),
        (unicodedata.normalize("NFC", "거실__1"), unicodedata.normalize("NFD", "거실__2")),
    ],
)
def test_a_room_is_the_same_however_a_system_writes_its_name(one: str, other: str, tmp_path: Path) -> None:
    scenes = [view(name, tmp_path) for name in (one, other, "c", "d", "e", "f")]
    assert [scenes[0], scenes[1]] in [sorted(room, key=scenes.index) for room in rooms_of(scenes)]
    for seed in range(40):
        chosen = choose_validation(scenes, 0.7, seed)
        assert (one in chosen) == (other in chosen)


def test_one_photo_on_both_sides_is_told_by_all_its_names(tmp_path: Path) -> None:
    root = make_split(tmp_path / "data", train=2)
    make_scene(root / "train" / "hall", seed=99)
    make_scene(root / "validation" / "corridor", seed=99)
    assert scan(root).report.shared_rooms == ("corridor = hall",)


def test_a_side_whose_photos_are_all_damaged_is_an_error_that_names_them(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for seed in range(3):
        make_scene(source / f"room{seed}", "off", "on", seed=seed, size=(60, 60))
    made = plan(scan_flat(source).scenes, "adaptor")
    [held_out] = {item.scene.name for item in made if item.split == "validation"}
    data = (source / held_out / "off.png").read_bytes()
    (source / held_out / "off.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"nothing for validation.*{held_out}/off.png.*run again"):
        write(made, tmp_path / "out", progress=False)
