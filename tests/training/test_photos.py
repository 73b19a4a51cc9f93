"""People's own photos: what a scan finds, what it leaves out and says so, and the tensors made of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lumiply.colors import COLORS
from lumiply.engine.pixels import bypass_picture, hint_picture
from lumiply.errors import UserError
from lumiply.images import read_photo
from lumiply.training.photos import NAMES, PhotoPairs, PhotoSample, PhotoSet, scan, scan_flat
from tests.photos import SIZE, make_scene, make_scenes, make_split, room_photo


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_split(tmp_path / "data")


def reasons(found: PhotoSet) -> dict[str, str]:
    return {skipped.where: skipped.reason for skipped in found.report.skipped}


def test_scenes_are_found_in_both_splits_with_their_colours_in_order(root: Path) -> None:
    found = scan(root)
    assert [scene.name for scene in found.split("train")] == ["room00", "room01", "room02"]
    assert [tuple(scene.lit) for scene in found.split("validation")] == [COLORS]
    assert found.scenes[0].lit["white"] == root / "train" / "room00" / "on.png"
    assert found.report.skipped == ()


def test_the_report_counts_scenes_and_colours(root: Path) -> None:
    text = scan(str(root)).report.text()
    assert "4 scenes" in text
    assert "train      3 scenes: white 3, red 3\n" in text
    assert "validation 1 scene: white 1, red 1, orange 1" in text
    assert text.endswith("skipped: nothing")


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "avif", "JPG", "Png"])
def test_every_extension_is_read_in_any_case(tmp_path: Path, extension: str) -> None:
    if f".{extension.lower()}" not in Image.registered_extensions():
        pytest.skip("this Pillow lacks the format")
    folder = make_scene(tmp_path / "room", "off", "on", extension=extension.lower())
    for name in ("off", "on"):
        (folder / f"{name}.{extension.lower()}").rename(folder / f"{name.upper()}.{extension}")
    (scene,) = scan_flat(tmp_path).scenes
    assert scene.off.name == f"OFF.{extension}"
    assert PhotoPairs([scene], 8)[0].off.shape == (3, 8, 8)


def test_white_is_another_name_for_on(tmp_path: Path) -> None:
    make_scene(tmp_path / "room", "off", "white")
    assert scan_flat(tmp_path).scenes[0].lit["white"].name == "white.png"


def test_everything_left_out_is_told_with_its_reason(root: Path) -> None:
    train = root / "train"
    room = train / "room00"
    (train / "empty").mkdir()
    (train / "notes.txt").write_text("hello")
    make_scene(train / "dark", "on")
    make_scene(train / "unlit", "off")
    make_scene(train / "broken", "off", "on")
    (train / "broken" / "off.png").write_bytes(b"no photo")
    make_scene(train / "inner" / "deep")
    make_scene(root / "test" / "room")
    room_photo(0, "red").save(room / "red.jpg")
    room_photo(0, "on").save(room / "white.png")
    room_photo(0, "blue").save(room / "bleu.png")
    room_photo(0, "green").save(room / "table.png")
    room_photo(0, "green", (24, 17)).save(room / "green.png")
    (room / "yellow.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9)
    (room / "notes.md").write_text("hello")
    assert reasons(scan(root)) == {
        "test": "neither train nor validation",
        "train/broken": "no usable off photo",
        "train/broken/off.png": "unreadable (not a photo)",
        "train/dark": "no usable off photo",
        "train/empty": "empty folder",
        "train/inner": "no usable off photo",
        "train/inner/deep": "a folder inside a scene",
        "train/notes.txt": "a file outside the scenes' folders",
        "train/room00/bleu.png": "unknown name, did you mean blue?",
        "train/room00/green.png": "24 x 17, but off.png is 24 x 16",
        "train/room00/notes.md": "not one of .png, .jpg, .jpeg, .webp, .avif",
        "train/room00/red.jpg": "shows the same as red.png",
        "train/room00/table.png": f"unknown name, known are {', '.join(NAMES)}",
        "train/room00/white.png": "shows the same as on.png",
        "train/room00/yellow.png": reasons(scan(root))["train/room00/yellow.png"],
        "train/unlit": "no usable lit photo",
    }
    assert reasons(scan(root))["train/room00/yellow.png"].startswith("unreadable")


def test_a_long_report_is_cut_and_says_by_how_much(root: Path) -> None:
    for index in range(9):
        (root / "train" / f"empty{index}").mkdir()
    text = scan(root).report.text(most=4)
    assert "skipped: 9\n" in text and text.endswith("and 5 more")
    assert text.count("empty folder") == 4


def test_hidden_files_are_not_worth_a_word(root: Path) -> None:
    (root / ".DS_Store").write_bytes(b"x")
    (root / "train" / ".room09.part").mkdir()
    (root / "train" / "room00" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "room00" / "._red.jpg").write_bytes(b"x")
    assert scan(root).report.skipped == ()


def test_an_unreadable_photo_makes_way_for_its_duplicate(tmp_path: Path) -> None:
    folder = make_scene(tmp_path / "room", "off", "on")
    (folder / "off.png").write_bytes(b"no photo")
    room_photo(0).save(folder / "off.jpg")
    found = scan_flat(tmp_path)
    assert found.scenes[0].off.name == "off.jpg"
    assert list(reasons(found)) == ["room/off.png"]


def test_sizes_are_compared_as_the_camera_was_held(tmp_path: Path) -> None:
    folder = make_scene(tmp_path / "room", "off")
    exif = Image.Exif()
    exif[0x0112] = 6
    room_photo(0, "on").transpose(Image.Transpose.ROTATE_90).save(folder / "on.jpg", exif=exif)
    (scene,) = scan_flat(tmp_path).scenes
    assert read_photo(scene.lit["white"]).size == SIZE


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path) -> None:
    make_scene(tmp_path / "small", size=(10, 10))
    make_scene(tmp_path / "large", size=(40, 30))
    found = scan_flat(tmp_path, max_megapixels=0.001)
    assert [scene.name for scene in found.scenes] == ["small"]
    assert reasons(found)["large/off.png"] == "40 x 30, more than 0.001 megapixels"


def test_a_picture_made_to_exhaust_the_memory_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(tmp_path / "small", size=(10, 10))
    make_scene(tmp_path / "large", size=(40, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    assert reasons(scan_flat(tmp_path))["large/off.png"] == "more than 50 megapixels"


def test_a_room_in_both_splits_is_told(root: Path) -> None:
    make_scene(root / "validation" / "room01__evening", seed=7)
    report = scan(root).report
    assert report.shared_rooms == ("room01",)
    assert "in train and in validation, move one of the two: room01" in report.text()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda root: shutil.rmtree(root), "cannot be read"),
        (lambda root: shutil.rmtree(root / "train"), "has no folder train, only: validation"),
        (
            lambda root: (root / "validation").rename(root / "val"),
            "has no folder validation, only: train, val",
        ),
        (lambda root: shutil.rmtree(root / "validation" / "room03"), "no usable scene (it is empty)"),
        (lambda root: (root / "validation/room03/off.png").unlink(), "room03: no usable off photo"),
    ],
)
def test_a_data_set_that_cannot_be_is_an_error_that_shows_the_layout(root: Path, spoil, part: str) -> None:
    spoil(root)
    with pytest.raises(UserError) as caught:
        scan(root)
    assert part in str(caught.value)
    assert "Expected: <root>/train/<scene>/off.jpg" in str(caught.value)


def test_an_empty_folder_of_scenes_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable scene .* Expected: <folder>/<scene>/off.jpg"):
        scan_flat(tmp_path)


def test_pairs_are_sized_exactly_as_inference_sizes_a_photo(root: Path) -> None:
    scene = scan(root).scenes[0]
    sample = PhotoPairs([scene], 8)[1]
    off, lit = read_photo(scene.off), read_photo(scene.lit["red"])
    assert torch.equal(sample.hint, hint_picture(off, 8)[0])
    assert torch.equal(sample.on, hint_picture(lit, 8)[0])
    assert torch.equal(sample.bypass, bypass_picture(off, 8)[0])
    assert torch.equal(sample.target, 2 * sample.on - 1)
    assert COLORS[int(sample.color)] == "red"
    assert float(sample.off.min()) >= 0 and float(sample.off.max()) <= 1 and float(sample.bypass.min()) < 0


def test_there_is_one_pair_a_lit_photo_in_the_colours_asked_for(root: Path) -> None:
    scenes = scan(root).scenes
    assert len(PhotoPairs(scenes, 8)) == 3 * 2 + 7
    red = PhotoPairs(scenes, 8, colors=["red"])
    assert len(red) == 4 and {int(sample.color) for sample in red} == {COLORS.index("red")}
    with pytest.raises(UserError, match="none of 3 scenes is lit in blue"):
        PhotoPairs(scan(root).split("train"), 8, colors=["blue"])


def test_flips_are_drawn_from_seed_epoch_and_index(tmp_path: Path) -> None:
    scenes = scan_flat(make_scenes(tmp_path, 8)).scenes
    plain = [sample.off for sample in map(PhotoPairs(scenes, 8).__getitem__, range(8))]

    def flips(seed: int, epoch: int) -> list[bool]:
        pairs = PhotoPairs(scenes, 8, flip=True, seed=seed)
        pairs.set_epoch(epoch)
        return [not torch.equal(pairs[index].off, plain[index]) for index in range(8)]

    drawn = {(seed, epoch): flips(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert flips(0, 0) == drawn[0, 0]
    assert len(set(map(tuple, drawn.values()))) == 4
    assert any(drawn[0, 0]) and not all(drawn[0, 0])


def test_a_flip_mirrors_the_whole_pair_left_and_right(tmp_path: Path) -> None:
    scenes = scan_flat(make_scenes(tmp_path, 8)).scenes
    plain, flipped = PhotoPairs(scenes, 8), PhotoPairs(scenes, 8, flip=True)
    for index in range(8):
        before, after = plain[index], flipped[index]
        mirrored = not torch.equal(after.off, before.off)
        for one, other in zip(before[:3], after[:3], strict=True):
            assert torch.equal(other, one.flip(-1) if mirrored else one)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_give_the_same_samples_and_follow_the_epoch(root: Path) -> None:
    pairs = PhotoPairs(scan(root).scenes, 8, flip=True)
    loader = DataLoader(pairs, batch_size=13, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        pairs.set_epoch(epoch)
        (batch,) = loader
        assert isinstance(batch, PhotoSample) and batch.target.shape == (13, 3, 8, 8)
        alone = torch.stack([pairs[index].off for index in range(13)])
        assert torch.equal(batch.off, alone)
        assert batch.color.dtype == torch.int64


def test_a_file_damaged_behind_its_header_is_named_when_it_is_read(tmp_path: Path) -> None:
    folder = make_scene(tmp_path / "room", size=(60, 60))
    data = (folder / "on.png").read_bytes()
    (folder / "on.png").write_bytes(data[: len(data) // 2])
    pairs = PhotoPairs(scan_flat(tmp_path).scenes, 8)
    with pytest.raises(UserError, match=r"room/on\.png cannot be read"):
        pairs[0]


def test_a_damaged_exif_block_counts_as_none(tmp_path: Path) -> None:
    folder = make_scene(tmp_path / "room", "off", extension="jpg")
    room_photo(0, "on").save(folder / "on.jpg", exif=b"Exif\0\0rubbish")
    assert np.asarray(read_photo(scan_flat(tmp_path).scenes[0].lit["white"])).shape == (*SIZE[::-1], 3)
