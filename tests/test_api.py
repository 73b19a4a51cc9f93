"""The functions of the original, over one current engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lumiply
from lumiply import api
from lumiply.errors import EngineClosedError, ImageError, UnknownColorError, WeightsError
from lumiply.images import read_photo
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_current_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(api, "_current", api._Current())
    yield
    api.close_engine()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    made: list[FakeEngine] = []

    def build(settings: Settings) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr(api, "build_engine", build)
    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "off.png"
    path.write_bytes(photo_bytes())
    return path


def test_the_same_settings_load_one_engine(engines: list[FakeEngine]) -> None:
    first = lumiply.initialize_engine(Settings())
    assert lumiply.initialize_engine(Settings()) is first
    assert len(engines) == 1


def test_other_settings_load_another_and_close_the_former(engines: list[FakeEngine]) -> None:
    first = lumiply.initialize_engine(Settings())
    second = lumiply.initialize_engine(Settings(), steps=7)
    assert first is not second
    assert [engine.closed for engine in engines] == [True, False]


def test_settings_that_the_engine_is_not_loaded_with_load_nothing_and_count_from_then_on(
    engines: list[FakeEngine], photo: Path
) -> None:
    first = lumiply.initialize_engine(Settings())
    assert lumiply.initialize_engine(Settings(), seed=7, port=1234, tunnel="none") is first
    lumiply.run_inference_single_image(photo)
    assert (len(engines), engines[0].renders[0].seed) == (1, 7)


def test_weights_that_came_since_are_loaded(engines: list[FakeEngine], tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "mini").symlink_to(ROOT / "ckpt" / "mini")
    settings = Settings(ckpt_dir=tmp_path / "ckpt", adaptors_dir=tmp_path / "adaptors")
    first = lumiply.initialize_engine(settings)
    for name in ("trained_crossattn.ckpt", "new_decoder.ckpt"):
        (tmp_path / "ckpt" / name).write_bytes(b"weights")
    assert lumiply.initialize_engine(settings) is not first and len(engines) == 2


def test_every_setting_that_engines_read_is_one_that_they_are_loaded_with() -> None:
    sources = [*ROOT.glob("lumiply/engine/*.py"), *ROOT.glob("lumiply/cluster/*.py")]
    read = {name for path in sources for name in re.findall(r"\bsettings\.(\w+)", path.read_text())}
    assert {"device", "steps", "replicas"} <= read
    assert read - {"replace"} <= set(api.LOADED_WITH)


@pytest.mark.parametrize("end", [{"closed": True}, {"alive": False}])
def test_an_engine_that_has_ended_is_loaded_again(engines: list[FakeEngine], end: dict[str, bool]) -> None:
    first = lumiply.initialize_engine(Settings())
    vars(first).update(end)
    assert lumiply.initialize_engine(Settings()) is engines[1]
    assert first.closed


def test_closing_does_not_wait_for_an_engine_that_was_closed_and_hangs(
    engines: list[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    lumiply.initialize_engine(Settings())
    engines[0].close()
    monkeypatch.setattr(engines[0], "close", lambda: pytest.fail("it was waited for"))
    api.close_engine()
    lumiply.initialize_engine(Settings())
    assert len(engines) == 2


def test_an_engine_that_cannot_be_had_leaves_the_former_in_place(
    engines: list[FakeEngine], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lumiply.initialize_engine(Settings())

    def refuse(settings: Settings) -> FakeEngine:
        raise WeightsError("no such file")

    monkeypatch.setattr(api, "build_engine", refuse)
    with pytest.raises(WeightsError):
        lumiply.initialize_engine(Settings(steps=1))
    assert lumiply.run_inference_single_image(photo, "red")
    assert not engines[0].closed


def test_a_result_is_saved_beside_its_photo(engines: list[FakeEngine], photo: Path) -> None:
    lumiply.initialize_engine(Settings(seed=3))
    path = lumiply.run_inference_single_image(str(photo), "red", steps=2)
    assert path == str(photo.parent / "output_red.jpg")
    assert read_photo(Path(path)).size == (40, 30)
    [render] = engines[0].renders
    assert (render.colors, render.seed, render.steps) == (("red",), 3, 2)


def test_switch_adapter_only_chooses_a_default(engines: list[FakeEngine], photo: Path) -> None:
    lumiply.initialize_engine(Settings())
    assert lumiply.run_inference_single_image(photo).endswith("output_white.jpg")
    lumiply.switch_adapter("purple")
    assert lumiply.run_inference_single_image(photo).endswith("output_purple.jpg")
    assert lumiply.run_inference_single_image(photo, "green").endswith("output_green.jpg")
    assert len(engines) == 1


def test_mistakes_are_named(engines: list[FakeEngine], photo: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineClosedError, match="initialize_engine"):
        lumiply.run_inference_single_image(photo)
    with pytest.raises(UnknownColorError, match="pink"):
        lumiply.switch_adapter("pink")
    lumiply.initialize_engine(Settings())
    with pytest.raises(UnknownColorError, match="pink"):
        lumiply.run_inference_single_image(photo, "pink")
    with pytest.raises(ImageError, match="nowhere.png"):
        lumiply.run_inference_single_image(tmp_path / "nowhere.png", "red")


def test_progress_is_passed_on(engines: list[FakeEngine], photo: Path) -> None:
    lumiply.initialize_engine(Settings())
    seen: list[float] = []
    lumiply.run_inference_single_image(photo, "red", progress=lambda now: seen.append(now.fraction))
    assert seen[-1] == 1.0
