"""`lumiply demo --once`: the files that must stand, what is printed, and that it never shows stale results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from lumiply.cli import main
from lumiply.colors import COLORS
from lumiply.demo import find_sample
from lumiply.errors import UserError
from lumiply.images import read_photo
from lumiply.sheet import contact_sheet
from tests.fakes import FakeEngine, photo_bytes

NAMES = ["off.png", *(f"output_{color}.jpg" for color in COLORS), "sheet.jpg"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("LUMIPLY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "sample_room.png").write_bytes(photo_bytes(size=(120, 90)))
    return tmp_path


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    made: list[FakeEngine] = []

    def build(settings: object) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr("lumiply.api.build_engine", build)
    return made


def run_once(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["demo", "--once", "--port", "0", *arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_photo_results_and_sheet_stand_and_are_named(here: Path, engines: list[FakeEngine]) -> None:
    lines = run_once().splitlines()
    assert lines[1:10] == [f"images/inference/demo/{name}" for name in NAMES]
    assert all((here / line).is_file() for line in lines[1:10])
    assert any(line.startswith("URL: http://127.0.0.1:") for line in lines)
    assert any(line.startswith("curl -F image=@images/sample_room.png") for line in lines)
    assert any(line.startswith("Time: ") for line in lines)


def test_results_under_signed_addresses_are_named_by_their_files(
    here: Path, engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMIPLY_SIGN_URLS", "true")
    assert run_once().splitlines()[1:10] == [f"images/inference/demo/{name}" for name in NAMES]


def test_all_seven_colours_take_one_render(engines: list[FakeEngine]) -> None:
    run_once()
    assert len(engines[0].renders) == 1


def test_a_second_run_renders_anew(engines: list[FakeEngine]) -> None:
    run_once()
    run_once()
    assert [len(engine.renders) for engine in engines] == [1, 1]


def test_another_photo_and_folder_can_be_named(here: Path, engines: list[FakeEngine]) -> None:
    (here / "mine.png").write_bytes(photo_bytes(red=7))
    run_once("--photo", "mine.png", "--results-dir", "there")
    assert read_photo(here / "there" / "demo" / "off.png").getpixel((0, 0)) == (7, 100, 50)


def test_a_public_address_of_the_environment_does_not_lead_the_demo_astray(
    engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMIPLY_PUBLIC_URL", "https://nowhere.invalid")
    assert "nowhere" not in run_once()


def test_the_first_sample_is_taken(here: Path) -> None:
    (here / "images" / "sample_a.png").write_bytes(photo_bytes())
    assert find_sample() == Path("images/sample_a.png")
    with pytest.raises(UserError, match="--photo"):
        find_sample(here)


def test_the_sheet_has_a_labelled_cell_for_every_picture() -> None:
    off = Image.new("RGB", (160, 120), (90, 90, 90))
    pictures = {"off": off, **{color: Image.new("RGB", (160, 120), (200, 40, 40)) for color in COLORS}}
    sheet = contact_sheet(pictures, cell=200)
    assert sheet.width == 4 * 200 + 5 * 8
    assert sheet.height == 2 * (150 + 22 + 8) + 8
    assert sheet.getpixel((100, 80)) == (90, 90, 90)
    assert sheet.getpixel((308, 80)) == (200, 40, 40)
    caption = sheet.crop((8, 158, 208, 180))
    assert caption.getextrema()[0][1] > 200  # light ink on dark paper


def test_a_sheet_of_pictures_of_other_shapes_keeps_their_aspect() -> None:
    pictures = {"off": Image.new("RGB", (200, 100)), "red": Image.new("RGB", (50, 200), (255, 0, 0))}
    assert contact_sheet(pictures, cell=100).width == 2 * 100 + 3 * 4
