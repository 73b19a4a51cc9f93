"""Means, tables, files and pictures of scores."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lumiply.evaluation as evaluation
from lumiply.evaluation import (
    FolderReport,
    Problem,
    Score,
    bar_chart,
    evaluate_folder,
    group,
    table,
    worst,
    worst_sheet,
    write_charts,
    write_tables,
)

SCORES = [
    Score("a", "lamp", "white", ssim=0.5, psnr=20.0, rmse=0.1, hue_error=10.0),
    Score("a", "lamp", "red", ssim=0.7, psnr=30.0, rmse=0.3, hue_error=None),
    Score("b", "stand", "red", ssim=0.9),
]


def test_everything_promised_can_be_imported() -> None:
    assert all(hasattr(evaluation, name) for name in evaluation.__all__)


def test_means_are_over_the_outputs_that_have_the_figure() -> None:
    everything = group(SCORES, "all")[0]
    assert (everything.outputs, everything.means["ssim"].value) == (3, pytest.approx(0.7))
    assert (everything.means["psnr"].value, everything.means["psnr"].count) == (25.0, 2)
    assert (everything.means["lpips"].value, everything.means["lpips"].count) == (None, 0)


def test_groups_come_in_their_own_order_and_empty_ones_not_at_all() -> None:
    turned = SCORES[::-1]
    assert [(each.name, each.outputs) for each in group(turned, "kind")] == [("lamp", 2), ("stand", 1)]
    assert [(each.name, each.outputs) for each in group(turned, "color")] == [("white", 1), ("red", 2)]
    assert [(each.name, each.outputs) for each in group(turned, "scene")] == [("b", 1), ("a", 2)]
    assert group([], "all") == group([], "kind") == []


def test_the_worst_are_the_low_ones_or_the_high_ones() -> None:
    assert worst(SCORES, "ssim", 2) == [SCORES[0], SCORES[1]]
    assert worst(SCORES, "rmse", 5) == [SCORES[1], SCORES[0]]
    assert worst(SCORES, "lpips", 5) == []


def test_the_table_counts_where_a_figure_is_not_everywhere() -> None:
    rows = table(group(SCORES, "all")).splitlines()
    assert rows[2] == "| all | 3 | 0.700 | 25.00 (2) | 0.2000 (2) | - | 10.0 (1) |"
    assert len({row.count("|") for row in rows}) == 1
    assert "a\\|b" in table(group([replace(SCORES[0], scene="a|b")], "scene"))


def test_files_hold_every_score_mean_and_problem(tmp_path: Path) -> None:
    report = FolderReport(
        [], [replace(SCORES[0], scene="거실 1"), *SCORES[1:]], [Problem("c/off.png", "damaged")]
    )
    files = write_tables(report, tmp_path / "new" / "out")
    assert [path.name for path in files] == ["scores.csv", "means.csv", "scores.json"]
    scores, means = (
        list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())) for path in files[:2]
    )
    assert (scores[0]["scene"], scores[0]["psnr"], scores[0]["lpips"]) == ("거실 1", "20", "")
    assert [(row["by"], row["name"]) for row in means] == [
        ("all", "all"), ("kind", "lamp"), ("kind", "stand"), ("color", "white"), ("color", "red"),
        ("scene", "거실 1"), ("scene", "a"), ("scene", "b"),
    ]  # fmt: skip
    assert means[1]["ssim"] == "0.6"
    written = json.loads(files[2].read_text(encoding="utf-8"))
    assert written["problems"] == [{"path": "c/off.png", "reason": "damaged"}]
    assert written["scores"][2]["psnr"] is None
    assert written["means"]["color"][1]["means"]["ssim"] == {"value": pytest.approx(0.8), "count": 2}


def test_a_bar_stands_higher_for_a_higher_mean() -> None:
    def red_pixels(ssim: float) -> int:
        both = [Score("a", "lamp", "white", ssim=1.0), Score("a", "lamp", "red", ssim=ssim)]
        r, g, b = np.moveaxis(np.asarray(bar_chart(both, "ssim")).astype(int), -1, 0)
        return int(((r > 240) & (g < 100) & (b < 100)).sum())

    assert red_pixels(0.9) > 2 * red_pixels(0.3) > 0


def test_a_chart_is_written_for_every_figure_that_there_is(tmp_path: Path) -> None:
    files = write_charts(SCORES, tmp_path)
    assert [path.name for path in files] == ["ssim.png", "psnr.png", "rmse.png", "hue_error.png"]
    for path in files:
        with Image.open(path) as chart:
            chart.load()
    assert bar_chart([], "lpips").mode == "RGB"


def test_the_worst_are_shown_beside_what_they_were_compared_with(scenes: Path) -> None:
    report = evaluate_folder(scenes)
    by_ssim, by_rmse = (
        worst_sheet(report, "ssim", count=2, cell=50),
        worst_sheet(report, "rmse", count=2, cell=50),
    )
    assert by_ssim is not None and by_rmse is not None
    assert by_ssim.width == 2 + 3 * (50 + 2) and by_rmse.width == 2 + 4 * (50 + 2)
    left, right = (np.asarray(by_rmse)[2:52, x : x + 50] for x in (2, 54))
    lit = np.asarray(
        Image.open(scenes / worst(report.scores, "rmse", 1)[0].scene / "red.png").resize((50, 50))
    )
    assert np.abs(left.astype(int) - lit).mean() < 2 < np.abs(right.astype(int) - lit).mean()
    assert worst_sheet(report, "lpips") is None
