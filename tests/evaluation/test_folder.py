"""Scenes found, outputs compared, and every reason told where something cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiply.errors import UserError
from lumiply.evaluation import evaluate_folder
from lumiply.evaluation.folder import Score, find_scenes, kind_of
from lumiply.evaluation.metrics import PSNR_LIMIT
from tests.evaluation.conftest import make_scene, pictures, save


def by_output(folder: Path) -> tuple[dict[tuple[str, str], Score], list[str]]:
    report = evaluate_folder(folder)
    return {(score.scene, score.color): score for score in report.scores}, [str(p) for p in report.problems]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("lamp_01", "lamp"),
        ("Lamp", "lamp"),
        ("lamps/7", "lamp"),
        ("pendant-3", "pendant"),
        ("validation/stand/room 4", "stand"),
        ("lamp/pendant_02", "pendant"),
        ("standard_room", "other"),
        ("lampshade", "other"),
        ("bedroom_lamp", "other"),
        (".", "other"),
    ],
)
def test_the_lamp_kind_is_read_from_the_path(path: str, kind: str) -> None:
    assert kind_of(path) == kind


def test_scenes_are_found_at_any_depth_by_name(scenes: Path) -> None:
    (scenes / ".hidden").mkdir()
    save(scenes / ".hidden" / "off.png", pictures(0).photo)
    (scenes / "lamp_01" / "notes.txt").write_text("not a picture")
    (scenes / "lamp_01" / "off.txt").write_text("not a picture")
    found, problems = find_scenes(scenes)
    assert [(scene.name, scene.kind) for scene in found] == [
        ("lamp_01", "lamp"),
        ("pendant/02", "pendant"),
        ("stand-3", "stand"),
    ]
    assert problems == []
    assert sorted(found[0].truths) == sorted(found[0].outputs) == ["red", "white"]


def test_a_folder_that_is_a_scene_itself_is_named_by_a_dot_and_gives_the_kind(tmp_path: Path) -> None:
    make_scene(tmp_path / "pendant_9", 0)
    found, _ = find_scenes(tmp_path / "pendant_9")
    assert [(scene.name, scene.kind) for scene in found] == [(".", "pendant")]


def test_endings_and_capitals_do_not_matter(tmp_path: Path) -> None:
    room = pictures(0)
    save(tmp_path / "Off.JPG", room.photo)
    save(tmp_path / "ON.webp", room.lit["white"])
    save(tmp_path / "output_WHITE.jpeg", room.lit["white"])
    scores, problems = by_output(tmp_path)
    assert list(scores) == [(".", "white")] and problems == []
    assert scores[".", "white"].psnr is not None


def test_a_right_output_scores_full_marks_and_the_unlit_photo_does_not(scenes: Path) -> None:
    scores, problems = by_output(scenes)
    assert problems == [] and len(scores) == 6
    right, unlit = scores["lamp_01", "white"], scores["lamp_01", "red"]
    assert (right.psnr, right.rmse) == (PSNR_LIMIT, 0)
    assert right.hue_error == pytest.approx(0, abs=1e-3)
    assert right.ssim is not None and right.ssim < 0.99  # off against output: the lamp is on
    assert unlit.ssim == pytest.approx(1)
    assert unlit.hue_error == 90
    assert unlit.psnr is not None and unlit.psnr < 30
    assert right.lpips is None


def test_rmse_lies_between_0_and_1(tmp_path: Path) -> None:
    save(tmp_path / "on.png", np.full((16, 16, 3), 255, np.uint8))
    save(tmp_path / "output_white.png", np.zeros((16, 16, 3), np.uint8))
    scores, _ = by_output(tmp_path)
    assert scores[".", "white"].rmse == 1
    assert scores[".", "white"].psnr == pytest.approx(0, abs=1e-5)


def test_without_the_truth_there_is_still_ssim(scenes: Path) -> None:
    (scenes / "lamp_01" / "on.png").unlink()
    score = by_output(scenes)[0]["lamp_01", "white"]
    assert score.ssim is not None
    assert (score.psnr, score.rmse, score.hue_error) == (None, None, None)


def test_without_the_unlit_photo_there_are_still_psnr_and_rmse(scenes: Path) -> None:
    (scenes / "lamp_01" / "off.png").unlink()
    scores, problems = by_output(scenes)
    score = scores["lamp_01", "white"]
    assert (score.ssim, score.hue_error) == (None, None)
    assert score.psnr == PSNR_LIMIT
    assert problems == []


def test_a_damaged_output_is_listed_and_the_rest_is_scored(scenes: Path) -> None:
    (scenes / "lamp_01" / "output_red.png").write_text("no picture")
    scores, problems = by_output(scenes)
    assert len(scores) == 5 and ("lamp_01", "red") not in scores
    assert len(problems) == 1 and problems[0].startswith("lamp_01/output_red.png: no readable picture")


def test_a_link_to_a_folder_is_listed_and_not_followed(scenes: Path, tmp_path: Path) -> None:
    (scenes / "linked").symlink_to(scenes / "lamp_01", target_is_directory=True)
    scores, problems = by_output(scenes)
    assert len(scores) == 6
    assert problems == ["linked: a link to a folder; links are not followed"]


def test_a_damaged_unlit_photo_is_listed_once_and_the_truth_still_counts(scenes: Path) -> None:
    (scenes / "lamp_01" / "off.png").write_text("no picture")
    scores, problems = by_output(scenes)
    assert len(scores) == 6
    assert [problem.partition(":")[0] for problem in problems] == ["lamp_01/off.png"]
    assert scores["lamp_01", "white"].ssim is None and scores["lamp_01", "white"].psnr == PSNR_LIMIT


def test_sizes_that_differ_are_listed_with_both_sizes(scenes: Path) -> None:
    off = scenes / "lamp_01" / "off.png"
    with Image.open(off) as opened:
        resized = opened.resize((30, 20))
    resized.save(off)
    scores, problems = by_output(scenes)
    assert problems == [
        f"lamp_01/output_{color}.png: 48 x 48 pixels, but off.png has 30 x 20; they are not compared"
        for color in ("white", "red")
    ]
    assert scores["lamp_01", "white"].ssim is None and scores["lamp_01", "white"].psnr == PSNR_LIMIT


def test_a_picture_too_small_for_ssim_is_listed(tmp_path: Path) -> None:
    for name in ("off.png", "output_red.png"):
        save(tmp_path / name, np.zeros((6, 40, 3), np.uint8))
    scores, problems = by_output(tmp_path)
    assert scores == {}
    assert problems[0] == "off.png: 40 x 6 pixels; sides need 7 or more"


def test_files_that_cannot_be_meant_are_listed(scenes: Path) -> None:
    scene = scenes / "lamp_01"
    save(scene / "output_pink.png", pictures(0).photo)
    save(scene / "off.jpg", pictures(1).photo)
    save(scene / "white.png", pictures(1).photo)
    save(scenes / "empty" / "off.png", pictures(0).photo)
    save(scenes / "alone" / "output_red.png", pictures(0).photo)
    scores, problems = by_output(scenes)
    assert problems == [
        "lamp_01/off.png: left aside, off.jpg is used",
        "lamp_01/output_pink.png: 'pink' is none of white, red, orange, yellow, green, blue, purple",
        "lamp_01/white.png: left aside, on.png is used",
        "alone/output_red.png: neither off.* nor the truth of red is there",
        "empty: no output_<color>.* to compare",
    ]
    assert len(scores) == 6


def test_no_folder_and_an_empty_folder_are_errors_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        evaluate_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no scenes.*off\.\*, output_<color>"):
        evaluate_folder(tmp_path)


def test_lpips_is_asked_with_truth_and_output(scenes: Path) -> None:
    report = evaluate_folder(scenes, lpips=lambda truth, output: float(np.abs(truth - output).max()))
    values = {(score.scene, score.color): score.lpips for score in report.scores}
    assert values["lamp_01", "white"] == 0
    assert values["lamp_01", "red"] is not None and values["lamp_01", "red"] > 0.1


def test_a_picture_that_lpips_cannot_take_keeps_its_other_figures(scenes: Path) -> None:
    def refuse(truth: np.ndarray, output: np.ndarray) -> float:
        raise RuntimeError("Output size is too small")

    report = evaluate_folder(scenes, lpips=refuse)
    assert len(report.scores) == len(report.problems) == 6
    assert "no LPIPS: Output size is too small" in str(report.problems[0])
    assert all(score.lpips is None and score.rmse is not None for score in report.scores)
