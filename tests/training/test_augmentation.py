"""Augmentation: what is made of a scene, which side it goes to, and how it gets to the disk."""

from __future__ import annotations

import errno
import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lumiply.cli import main
from lumiply.colors import COLORS
from lumiply.errors import UserError
from lumiply.images import read_photo
from lumiply.training import augmentation
from lumiply.training.augmentation import (
    KINDS,
    RECORD,
    Plan,
    before_and_after,
    brightened,
    mirrored,
    plan,
    write,
)
from lumiply.training.photos import PhotoPairs, scan, scan_flat
from lumiply.training.scenes import Scene, rooms_of
from tests.photos import make_scene, make_scenes, room_photo

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_scenes(tmp_path / "photos", 4, "off", "on", "red", extension="jpg")


def scenes_in(folder: Path) -> tuple[Scene, ...]:
    return scan_flat(folder).scenes


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read_photo(path)).astype(int)


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, ...]:
    return scenes_in(make_scenes(tmp_path_factory.mktemp("many"), 41))


# what is made of a scene


def test_a_flip_of_a_flip_is_the_photo() -> None:
    for seed in range(5):
        photo = room_photo(seed, size=(17 + seed, 12))
        assert mirrored(mirrored(photo)) == photo
        assert np.array_equal(np.asarray(mirrored(photo)), np.asarray(photo)[:, ::-1])


def test_brightness_scales_every_value_and_stops_at_white() -> None:
    photo = Image.frombytes("RGB", (256, 1), bytes(level for level in range(256) for _ in range(3)))
    for factor in (0.05, 0.5, 0.8, 1.0, 1.2, 4.0):
        expected = np.minimum(255, np.floor(factor * np.arange(256) + 0.5))
        assert np.array_equal(np.asarray(brightened(photo, factor))[0, :, 1], expected)


def test_crossattn_data_is_flipped_and_its_off_photo_dimmed(source: Path) -> None:
    made = {item.variant: (item.flip, item.brightness) for item in plan(scenes_in(source), "crossattn")}
    assert made == {
        "": (False, 1.0),
        "flip": (True, 1.0),
        "off060": (False, 0.6),
        "flip__off060": (True, 0.6),
        "off080": (False, 0.8),
        "flip__off080": (True, 0.8),
        "off120": (False, 1.2),
        "flip__off120": (True, 1.2),
    }


def test_adaptor_data_is_only_flipped(source: Path) -> None:
    made = plan(scenes_in(source), "adaptor")
    assert len(made) == 8 and {item.variant for item in made} == {"", "flip"}
    assert {item.brightness for item in made} == {1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_written_photos_are_exactly_what_the_plan_says(source: Path, tmp_path: Path, kind: str) -> None:
    made = plan(scenes_in(source), kind)
    write(made, tmp_path / "out", progress=False)
    for item in made:
        folder = tmp_path / "out" / item.split / item.name
        assert sorted(path.stem for path in folder.iterdir()) == ["off", "on", "red"]
        for name, path in item.photos.items():
            expected = pixels(path)[:, ::-1] if item.flip else pixels(path)
            if name == "off":
                expected = np.minimum(255, np.floor(item.brightness * expected + 0.5))
            (written,) = folder.glob(f"{name}.*")
            assert np.array_equal(pixels(written), expected)


def test_off_and_lit_photos_stay_aligned(source: Path, tmp_path: Path) -> None:
    """The light that the lamp adds falls off from the left, in mirrored scenes from the right, never up or down."""
    write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    for scene in scan(tmp_path / "out").scenes:
        assert list(scene.lit) == ["white", "red"]
        for lit in scene.lit.values():
            added = (pixels(lit) - pixels(scene.off))[..., 0]
            left, right = added[:, :4].mean(), added[:, -4:].mean()
            assert (right > left + 20) if "flip" in scene.name else (left > right + 20)
        off = pixels(scene.off)
        assert off[:4].mean() > off[-4:].mean() + 10  # bright at the top, as it was taken


def test_unchanged_photos_are_copied_and_changed_ones_are_png(source: Path, tmp_path: Path) -> None:
    made = plan(scenes_in(source), "crossattn")
    write(made, tmp_path / "out", progress=False)
    for item in made:
        folder = tmp_path / "out" / item.split / item.name
        for name, path in item.photos.items():
            if item.flip or (name == "off" and item.brightness != 1):
                assert (folder / f"{name}.png").is_file()
            else:
                assert (folder / f"{name}.jpg").read_bytes() == path.read_bytes()


def test_brightness_steps_can_be_chosen(source: Path) -> None:
    made = plan(scenes_in(source), "crossattn", brightness=[0.9, 0.5, 1.0, 0.5])
    assert made.brightness == (0.5, 0.9)
    assert len(made) == 4 * 3 * 2
    assert "off photos at 50 %, 90 %" in made.text()


@pytest.mark.parametrize(
    ("kind", "options", "part"),
    [
        ("colour", {}, "known are crossattn, adaptor"),
        ("adaptor", {"brightness": [0.5]}, "only mirrored"),
        ("crossattn", {"brightness": [0.0]}, "choose 0.05 to 4"),
        ("crossattn", {"brightness": [float("nan")]}, "choose 0.05 to 4"),
    ],
)
def test_what_cannot_be_made_is_refused(source: Path, kind: str, options: dict, part: str) -> None:
    with pytest.raises(UserError, match=part):
        plan(scenes_in(source), kind, **options)


# which side a scene goes to


@pytest.mark.parametrize("kind", KINDS)
def test_for_every_seed_the_sides_share_no_room_and_have_their_share(
    many: tuple[Scene, ...], kind: str
) -> None:
    chosen = set()
    for seed, count in itertools.product(range(20), (2, 3, 10, 41)):
        made = plan(many[:count], kind, seed=seed)
        train, validation = ({scene.name for scene in made.scenes(side)} for side in ("train", "validation"))
        assert train and validation and not train & validation
        assert train | validation == {scene.name for scene in many[:count]}
        assert abs(len(train) - KINDS[kind].train_share * count) < 1
        chosen.add(frozenset(validation))
    assert len(chosen) > 20


def test_all_variants_of_a_scene_stand_on_one_side(many: tuple[Scene, ...]) -> None:
    for seed in range(10):
        sides: dict[str, set[str]] = {}
        for item in plan(many, "crossattn", seed=seed):
            sides.setdefault(item.scene.name, set()).add(item.split)
        assert all(len(side) == 1 for side in sides.values())


def test_scenes_of_one_room_stay_together(tmp_path: Path) -> None:
    for room, view in itertools.product(range(6), range(3)):
        make_scene(tmp_path / f"room{room}__view{view}", seed=10 * room + view)
    scenes = scenes_in(tmp_path)
    for seed in range(20):
        made = plan(scenes, "adaptor", seed=seed)
        train, validation = ({scene.room for scene in made.scenes(side)} for side in ("train", "validation"))
        assert train and validation and not train & validation


def test_scenes_with_the_same_off_photo_are_one_room_whatever_their_names(tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 2, "b__2": 1, "c": 2, "d": 3}.items():
        make_scene(tmp_path / name, seed=seed)
    rooms = [sorted(scene.name for scene in room) for room in rooms_of(scenes_in(tmp_path))]
    assert rooms == [["a", "b", "b__2", "c"], ["d"]]


def test_the_order_and_place_of_scenes_do_not_matter(source: Path, tmp_path: Path) -> None:
    scenes = scenes_in(source)
    moved = scenes_in(source.rename(tmp_path / "elsewhere"))
    names = [(item.split, item.name) for item in plan(moved, "adaptor", seed=3)]
    assert [(item.split, item.name) for item in plan(moved[::-1], "adaptor", seed=3)] == names
    assert scenes != moved


def test_a_scene_that_is_added_moves_at_most_one_other(many: tuple[Scene, ...]) -> None:
    for count in range(2, 40):
        before, after = (
            {scene.name for scene in plan(many[:size], "adaptor").scenes("validation")}
            for size in (count, count + 1)
        )
        assert len(before - after) <= 1


def test_one_room_alone_cannot_be_split(many: tuple[Scene, ...]) -> None:
    with pytest.raises(UserError, match="Add photos of another room"):
        plan(many[:1], "adaptor")


def test_names_that_would_collide_are_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("room", "room__flip", "other")):
        make_scene(tmp_path / name, seed=seed)
    with pytest.raises(UserError, match="both be written as room__flip"):
        plan(scenes_in(tmp_path), "adaptor")


# how it gets to the disk


def test_what_is_written_is_a_data_set(source: Path, tmp_path: Path) -> None:
    done = write(plan(scenes_in(source), "crossattn"), tmp_path / "out", progress=False)
    assert done.text() == "written: 32 scenes, 96 files"
    found = scan(tmp_path / "out")
    assert found.report.skipped == () and found.report.shared_rooms == ()
    assert len(found.split("train")) == 24 and len(found.split("validation")) == 8
    assert len(PhotoPairs(found.split("train"), 8)) == 48


def test_the_same_plan_again_writes_nothing(source: Path, tmp_path: Path) -> None:
    write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    before = files_under(tmp_path / "out")
    done = write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    assert done.text() == "written: 0 scenes, 0 files, 8 were there already"
    assert files_under(tmp_path / "out") == before


@pytest.mark.parametrize("stop_at", [1, 4, 5, 11])
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    made = plan(scenes_in(source), "adaptor")
    write(made, tmp_path / "whole", progress=False)
    calls = itertools.count()

    def full_disk(path: Path, data: bytes) -> None:
        if next(calls) == stop_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(augmentation, "write_whole", full_disk)
        with pytest.raises(UserError, match="No space left on device.*same command goes on"):
            write(made, tmp_path / "out", progress=False)
    assert all(len(list(path.iterdir())) == 3 for path in (tmp_path / "out").glob("*/*"))
    write(made, tmp_path / "out", progress=False)
    assert files_under(tmp_path / "out") == files_under(tmp_path / "whole")


def test_what_a_killed_run_left_is_cleared_away(source: Path, tmp_path: Path) -> None:
    made = plan(scenes_in(source), "adaptor")
    write(made, tmp_path / "out", progress=False)
    first = tmp_path / "out" / made.items[0].split / made.items[0].name
    left = first.rename(first.with_name(f".{first.name}.part"))
    (left / "on.jpg").write_bytes(b"half")
    assert write(made, tmp_path / "out", progress=False).scenes == 1
    assert not left.exists()
    assert read_photo(first / "on.jpg")


def test_other_peoples_files_are_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty, and nothing is overwritten"):
        write(plan(scenes_in(source), "adaptor"), out, progress=False)
    (out / RECORD).write_text("no record")
    with pytest.raises(UserError, match="is not empty"):
        write(plan(scenes_in(source), "adaptor"), out, progress=False)
    assert sorted(files_under(out)) == [RECORD, "thesis.txt"]


def test_another_plan_is_refused_where_one_has_written(source: Path, tmp_path: Path) -> None:
    write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    before = files_under(tmp_path / "out")
    with pytest.raises(UserError, match="other choices .kind adaptor, seed 0"):
        write(plan(scenes_in(source), "crossattn"), tmp_path / "out", progress=False)
    make_scene(source / "room09", seed=9)
    with pytest.raises(UserError, match="written from other photos"):
        write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    assert files_under(tmp_path / "out") == before


@pytest.mark.parametrize("where", ["photos", "photos/out", "."])
def test_photos_are_never_written_among_their_sources(source: Path, tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match="overlaps the photos"):
        write(plan(scenes_in(source), "adaptor"), tmp_path / where, progress=False)
    assert len(files_under(tmp_path)) == 12


def test_damaged_photos_are_left_out_and_told(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for seed in range(3):
        make_scene(source / f"room{seed}", "off", "on", "red", seed=seed, size=(60, 60))
    for where in ("room0/red.png", "room1/off.png"):
        data = (source / where).read_bytes()
        (source / where).write_bytes(data[: len(data) // 2])
    done = write(plan(scenes_in(source), "adaptor"), tmp_path / "out", progress=False)
    assert [skipped.where for skipped in done.skipped] == ["room0/red.png", "room1/off.png"]
    assert "skipped room0/red.png" in done.text()
    written = {path.parent.name + "/" + path.name for path in (tmp_path / "out").glob("*/*/*")}
    assert "room0/on.png" in written and "room0/red.png" not in written
    assert not any(path.startswith("room1") for path in written)


def test_before_and_after_is_one_picture_of_all_variants(source: Path) -> None:
    made: Plan = plan(scenes_in(source), "crossattn")
    sheet = before_and_after(made, "room01", cell=60)
    assert sheet.width > 4 * 60 and sheet.height > 4 * 40
    assert before_and_after(made, cell=60) != sheet
    with pytest.raises(UserError, match="no scene 'attic'; it has, for example, 'room00'"):
        before_and_after(made, "attic")


# the command, and the page that explains it


@pytest.fixture
def here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_reports_and_writes(here: Path) -> None:
    code, out, err = run("augment", "photos", "data", "--kind", "adaptor", "--seed", "5")
    assert code == 0 and "100%" in err
    assert "4 scenes: white 4, red 4" in out
    assert "train      3 of 4 scenes (75 %), written as 6: 18 files (such as train/room" in out
    assert out.endswith("written: 8 scenes, 24 files\n")
    assert len(scan(here / "data").scenes) == 8


def test_a_dry_run_writes_nothing(here: Path) -> None:
    code, out, _ = run("augment", "photos", "data", "--kind", "crossattn", "--brightness", "0.5", "--dry-run")
    assert code == 0
    assert "off photos at 50 %" in out and out.endswith("dry run: nothing is written\n")
    assert not (here / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["photos", "data"], "--kind"),
        (["nowhere", "data", "--kind", "adaptor"], "nowhere"),
        (["photos", "data", "--kind", "base"], "base"),
        (["photos", "data", "--kind", "adaptor", "--brightness", "0.5"], "only mirrored"),
        (["photos", "photos/data", "--kind", "adaptor"], "overlaps the photos"),
        (["photos/room00", "data", "--kind", "adaptor"], "Expected: <folder>/<scene>/off.jpg"),
    ],
)
def test_mistakes_are_one_line_on_stderr_and_end_with_2(here: Path, arguments: list[str], part: str) -> None:
    code, _, err = run("augment", *arguments)
    assert code == 2
    assert err.startswith("lumiply: error: ") and part in err and err.count("\n") == 1


def test_help_names_the_kinds_and_the_default_steps() -> None:
    code, out, _ = run("augment", "--help")
    assert code == 0
    words = " ".join(out.split())
    assert all(
        word in words
        for word in ("crossattn", "adaptor", "95 %", "80 %", "0.6, 0.8, 1.2", "never upside down")
    )


def test_every_command_of_the_page_runs(here: Path) -> None:
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for kind, block in blocks if kind == "sh" for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "lumiply"
        code, _, err = run(*arguments)
        assert code == 0, err
    assert sorted(path.name for path in (here / "data").iterdir()) == ["adaptor", "crossattn", "dim"]
    (code_block,) = [block for kind, block in blocks if kind == "python"]
    exec(code_block, {})


def test_the_page_gives_the_true_defaults() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
        steps = sorted((*kind.brightness, 1.0))
        assert (
            ("unchanged" in row) if len(steps) == 1 else (", ".join(f"{100 * s:g} %" for s in steps) in row)
        )
        assert f"| {100 * kind.train_share:g} % | {2 * len(steps)} |" in row
    assert all(color in page for color in COLORS)
