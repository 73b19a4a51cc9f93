"""`lumiply evaluate`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lumiply.cli import main
from tests.evaluation.conftest import StandIn, make_scene

Install = Callable[[object], None]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_lpips: Install) -> Path:
    """A folder of its own, no settings from outside, no lpips."""
    for name in list(os.environ):
        if name.startswith("LUMIPLY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    install_lpips(None)
    return tmp_path


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a test's time."""
    monkeypatch.setattr("lumiply.commands.evaluate.write_charts", lambda scores, folder: [])


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["evaluate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_it_prints_tables_and_writes_files_and_charts(scenes: Path, here: Path) -> None:
    code, out, err = run("scenes")
    assert code == 0
    for name in ("all", "lamp", "pendant", "stand", "white", "red", "lamp_01", "pendant/02", "stand-3"):
        assert f"\n| {name} | " in out
    charts = ["ssim.png", "psnr.png", "rmse.png", "hue_error.png"]
    assert out.splitlines()[-7:] == [
        f"evaluation/{name}" for name in ("scores.csv", "means.csv", "scores.json", *charts)
    ]
    assert all((here / line).is_file() for line in out.splitlines()[-7:])
    assert err.count("LPIPS is left out") == 1


def test_json_goes_to_the_output_and_nothing_else_does(scenes: Path, here: Path, no_charts: None) -> None:
    code, out, err = run("scenes", "--json", "--out", "there/new")
    assert code == 0
    assert json.loads(out) == json.loads((here / "there/new/scores.json").read_text())
    assert len(json.loads(out)["scores"]) == 6
    assert "there/new/scores.csv" in err


def test_lpips_is_measured_where_it_can_be_had(
    scenes: Path, install_lpips: Install, here: Path, no_charts: None
) -> None:
    install_lpips(StandIn)
    _, out, err = run("scenes", "--json")
    values = [score["lpips"] for score in json.loads(out)["scores"]]
    assert values[0] == 0 and values[1] > 0
    assert "LPIPS" not in err
    _, out, err = run("scenes", "--json", "--no-lpips")
    assert json.loads(out)["scores"][1]["lpips"] is None and "LPIPS" not in err


def test_what_cannot_be_compared_is_listed_and_ends_with_1_after_the_rest(
    scenes: Path, here: Path, no_charts: None
) -> None:
    (scenes / "lamp_01" / "output_red.png").write_text("no picture")
    (scenes / "stand-3" / "output_red.png").unlink()
    code, out, err = run("scenes")
    assert code == 1
    assert err.count("not compared: ") == 1 and "not compared: lamp_01/output_red.png" in err
    assert "| all | 4 |" in out and (here / "evaluation" / "scores.csv").is_file()


def test_nothing_to_compare_is_an_error_of_the_user(here: Path) -> None:
    (here / "empty").mkdir()
    code, out, err = run("empty")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("lumiply: error: empty holds no scenes")
    make_scene(here / "bad", 0, colors=("white",))
    (here / "bad" / "output_white.png").write_text("no picture")
    code, out, err = run("bad")
    assert (code, out) == (2, "")
    assert "not compared: output_white.png" in err and "no output in bad could be compared" in err
    assert run("nowhere")[0] == 2


def test_without_matplotlib_there_are_all_but_the_charts(
    scenes: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # type: ignore[arg-type]
    code, out, err = run("scenes")
    assert code == 0
    assert "No bar charts" in err and "pip install matplotlib" in err
    assert (here / "evaluation" / "scores.csv").is_file() and "| all | 6 |" in out


def test_many_scenes_are_cut_short_on_the_terminal_only(
    scenes: Path, here: Path, monkeypatch: pytest.MonkeyPatch, no_charts: None
) -> None:
    monkeypatch.setattr("lumiply.commands.evaluate.SHOWN_SCENES", 1)
    _, out, _ = run("scenes")
    assert "| lamp_01 |" in out and "| stand-3 |" not in out
    assert "and 2 scenes more, in means.csv" in out
    assert "scene,stand-3,2" in (here / "evaluation" / "means.csv").read_text(encoding="utf-8")
