"""Score a folder of relit photos: find its scenes, compare each output with the unlit photo and with the truth."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lumiply.colors import BASE_COLOR, COLORS
from lumiply.errors import UserError
from lumiply.evaluation import metrics
from lumiply.evaluation.perceptual import Distance
from lumiply.images import read_photo
from lumiply.refusals import in_english

KINDS: Final = ("lamp", "pendant", "stand")
OTHER_KIND: Final = "other"
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")

_KIND_AT_START: Final = re.compile(rf"({'|'.join(KINDS)})s?(?![a-z])", re.IGNORECASE)
_TRUTH_NAMES: Final = {"on": BASE_COLOR, **{color: color for color in COLORS}}
_OUTPUT_PREFIX: Final = "output_"

Display = NDArray[np.float32]


@dataclass(frozen=True)
class Problem:
    """Something that was not compared: a file or folder, relative to the folder asked for, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Scene:
    """The pictures of one folder.

    Attributes:
        name: its path, relative to the folder asked for; "." for that folder itself.
        kind: of the lamp, one of `KINDS` or `OTHER_KIND`.
        truths, outputs: file by colour.
    """

    name: str
    kind: str
    off: Path | None = None
    truths: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One output. A figure is None where a picture that it needs is absent or does not fit.

    Attributes:
        ssim: of the unlit photo and the output, in grey.
        psnr, rmse, lpips: of the truth and the output, in dB, in [0, 1], and without unit.
        hue_error: of the added light, in degrees.
    """

    scene: str
    kind: str
    color: str
    ssim: float | None = None
    psnr: float | None = None
    rmse: float | None = None
    lpips: float | None = None
    hue_error: float | None = None


@dataclass(frozen=True)
class FolderReport:
    """What a folder scored, and what of it could not be compared."""

    scenes: list[Scene]
    scores: list[Score]
    problems: list[Problem]


def evaluate_folder(folder: Path | str, *, lpips: Distance | None = None) -> FolderReport:
    """Score every `output_<color>.*` in `folder` and below. What cannot be read or compared becomes a problem.

    Raises:
        UserError: `folder` is none, or holds no scene.
    """
    folder = Path(folder)
    scenes, problems = find_scenes(folder)
    scores: list[Score] = []
    for scene in tqdm(scenes, desc="scenes", unit="scene", disable=None):
        comparison = _Comparison(folder, scene, lpips, problems)
        scores += comparison.scores()
    return FolderReport(scenes, scores, problems)


def find_scenes(folder: Path) -> tuple[list[Scene], list[Problem]]:
    """The folders, `folder` too, that hold an `off.*` or an `output_*.*`, by name; and files that were left aside.

    Raises:
        UserError: `folder` is none, or holds no scene.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found: list[Scene] = []
    problems: list[Problem] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if Path(place, name).is_symlink()]:
            problems.append(_problem(folder, Path(place, name), "a link to a folder; links are not followed"))
        scene = _scene(folder, Path(place), sorted(files), problems)
        if scene.off is not None or scene.outputs:
            found.append(scene)
    if not found:
        raise UserError(
            f"{folder} holds no scenes. A scene is a folder with off.*, output_<color>.* and, where the truth is "
            f"known, on.* or <color>.*; pictures end in {', '.join(SUFFIXES)}"
        )
    return found, problems


def kind_of(path: str) -> str:
    """The kind of lamp that the last part of a path names which begins with one, such as "pendant_03"."""
    for part in reversed(Path(path).parts):
        match = _KIND_AT_START.match(part)
        if match:
            return match[1].lower()
    return OTHER_KIND


def read_display(path: Path) -> Display:
    """A photo as display values (H, W, 3) in [0, 1].

    Raises:
        ImageError, ImageTooLargeError: it cannot be read.
    """
    return np.asarray(read_photo(path), np.float32) / np.float32(255)


def _scene(folder: Path, place: Path, files: list[str], problems: list[Problem]) -> Scene:
    relative = place.relative_to(folder)
    scene_path = folder.resolve().name if relative == Path(".") else str(relative)
    off: dict[str, Path] = {}
    truths: dict[str, Path] = {}
    outputs: dict[str, Path] = {}
    for name in files:
        path, stem = place / name, Path(name).stem.lower()
        if path.suffix.lower() not in SUFFIXES:
            continue
        if stem == "off":
            slot, key = off, "off"
        elif stem in _TRUTH_NAMES:
            slot, key = truths, _TRUTH_NAMES[stem]
        elif stem.startswith(_OUTPUT_PREFIX):
            slot, key = outputs, stem.removeprefix(_OUTPUT_PREFIX)
            if key not in COLORS:
                problems.append(_problem(folder, path, f"{key!r} is none of {', '.join(COLORS)}"))
                continue
        else:
            continue
        taken = slot.setdefault(key, path)
        if taken != path:
            problems.append(_problem(folder, path, f"left aside, {taken.name} is used"))
    return Scene(relative.as_posix(), kind_of(scene_path), off.get("off"), truths, outputs)


def _problem(folder: Path, path: Path, reason: str) -> Problem:
    return Problem(path.relative_to(folder).as_posix(), reason)


class _Comparison:
    """Compares the pictures of one scene; problems are appended to the list given."""

    def __init__(self, folder: Path, scene: Scene, lpips: Distance | None, problems: list[Problem]) -> None:
        self.folder, self.scene, self.lpips, self.problems = folder, scene, lpips, problems

    def scores(self) -> Iterator[Score]:
        scene = self.scene
        if not scene.outputs:
            self.problems.append(Problem(scene.name, "no output_<color>.* to compare"))
            return
        off = self._read(scene.off)
        for color in COLORS:
            if color in scene.outputs:
                score = self._score(color, scene.outputs[color], off)
                if score is not None:
                    yield score

    def _score(self, color: str, path: Path, off: Display | None) -> Score | None:
        """None, and a problem, where nothing can be said about this output."""
        scene = self.scene
        if scene.off is None and color not in scene.truths:
            self.problems.append(
                _problem(self.folder, path, f"neither off.* nor the truth of {color} is there")
            )
            return None
        output = self._read(path)
        if output is None:
            return None
        truth = self._read(scene.truths.get(color))
        off = off if self._fits(path, output, scene.off, off) else None
        truth = truth if self._fits(path, output, scene.truths.get(color), truth) else None
        if off is None and truth is None:
            return None
        ssim = psnr = rmse = lpips = hue_error = None
        if off is not None:
            ssim = metrics.ssim_grey(off, output)
        if truth is not None:
            psnr, rmse = metrics.psnr(truth, output), metrics.rmse(truth, output)
            lpips = self._lpips(path, truth, output)
        if off is not None and truth is not None:
            true_added = metrics.added_light(truth, off)
            hue_error = metrics.hue_error(metrics.added_light(output, off), true_added)
        return Score(scene.name, scene.kind, color, ssim, psnr, rmse, lpips, hue_error)

    def _read(self, path: Path | None) -> Display | None:
        """The picture; None, and a problem, where there is a file that cannot be used."""
        if path is None:
            return None
        try:
            picture = read_display(path)
        except UserError as exc:
            why = in_english(exc.code, exc.figures) or str(exc)
            self.problems.append(_problem(self.folder, path, why))
            return None
        if min(picture.shape[:2]) < metrics.SSIM_WINDOW:
            least = metrics.SSIM_WINDOW
            self.problems.append(
                _problem(self.folder, path, f"{_size(picture)} pixels; sides need {least} or more")
            )
            return None
        return picture

    def _fits(self, path: Path, output: Display, other: Path | None, picture: Display | None) -> bool:
        """Whether an output can be compared with another picture; where only the sizes differ, a problem."""
        if other is None or picture is None:
            return False
        if output.shape != picture.shape:
            reason = f"{_size(output)} pixels, but {other.name} has {_size(picture)}; they are not compared"
            self.problems.append(_problem(self.folder, path, reason))
            return False
        return True

    def _lpips(self, path: Path, truth: Display, output: Display) -> float | None:
        if self.lpips is None:
            return None
        try:
            return self.lpips(truth, output)
        except RuntimeError as exc:  # a picture too small for the network, or too large for the memory
            self.problems.append(_problem(self.folder, path, f"no LPIPS: {exc}"))
            return None


def _size(picture: Display) -> str:
    height, width = picture.shape[:2]
    return f"{width} x {height}"
