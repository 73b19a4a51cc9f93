"""Your own photos as training data: `<root>/train|validation/<scene>/off.*, on.*, red.*, ...`.

A scene is one photo of a room with its lamp off, and the same view with the lamp on in one or more colours; `on`
and `white` mean the same. A folder is scanned once, by file headers; what cannot be used is left out and told.
Scenes named `kitchen` and `kitchen__2` show the same room: the room is the part before two underscores.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import Dataset

from lumiply.colors import BASE_COLOR, COLORS, in_palette_order
from lumiply.engine.pixels import bypass_picture, hint_picture
from lumiply.errors import ImageError, UserError
from lumiply.images import FORMATS, read_photo
from lumiply.refusals import in_english
from lumiply.training.scenes import Scene, rooms_of

SPLITS: Final = ("train", "validation")

#: File names without extension, and what they show. Of two that show the same, the first is kept.
NAMES: Final[dict[str, str]] = {"off": "off", "on": BASE_COLOR, **{color: color for color in COLORS}}

#: Of two files that differ in their extension only, the first in this order is kept.
EXTENSIONS: Final = (".png", ".jpg", ".jpeg", ".webp", ".avif")

#: Largest photo, in millions of pixels: what the server accepts by default.
MOST_MEGAPIXELS: Final = 50.0

LAYOUT: Final = (
    "Expected: <root>/train/<scene>/off.jpg with on.jpg, red.jpg, orange.jpg, yellow.jpg, green.jpg, blue.jpg or"
    " purple.jpg beside it, and <root>/validation/<scene>/ likewise (docs/data.md)."
)
FLAT_LAYOUT: Final = (
    "Expected: <folder>/<scene>/off.jpg with on.jpg, red.jpg, orange.jpg, yellow.jpg, green.jpg, blue.jpg or"
    " purple.jpg beside it (docs/data.md)."
)

_NOT_OURS: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # hidden files of other systems
_ON_ITS_SIDE: Final = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Skipped:
    """What a scan left out: `where` is relative to the folder that was scanned."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What a scan found, and what it left out and why."""

    root: Path
    scenes: tuple[Scene, ...]
    skipped: tuple[Skipped, ...]

    @property
    def shared_rooms(self) -> tuple[str, ...]:
        """Rooms that stand on both sides of the split, which makes validation too kind; all the names of each."""
        both = [
            scenes for scenes in rooms_of(self.scenes) if {scene.split for scene in scenes} >= set(SPLITS)
        ]
        return tuple(sorted(" = ".join(sorted({scene.room for scene in scenes})) for scenes in both))

    def text(self, most: int = 20) -> str:
        """The report for people; `most` limits the lines about what was skipped."""
        lines = [f"{self.root}: {_count(len(self.scenes), 'scene')}"]
        for split in (None, *SPLITS):
            scenes = [scene for scene in self.scenes if scene.split == split]
            if scenes:
                lines.append(f"  {split or 'all':<11}{_count(len(scenes), 'scene')}: {_colors_of(scenes)}")
        if self.shared_rooms:
            lines.append(f"in train and in validation, move one of the two: {', '.join(self.shared_rooms)}")
        lines.append(f"skipped: {len(self.skipped) or 'nothing'}")
        lines += [f"  {skipped}" for skipped in self.skipped[:most]]
        if len(self.skipped) > most:
            lines.append(f"  and {len(self.skipped) - most} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class PhotoSet:
    """The usable scenes of a folder, sorted by name."""

    root: Path
    scenes: tuple[Scene, ...]
    report: Report

    def split(self, name: str) -> tuple[Scene, ...]:
        """The scenes of one of `SPLITS`."""
        return tuple(scene for scene in self.scenes if scene.split == name)


def scan(root: str | Path, *, max_megapixels: float = MOST_MEGAPIXELS) -> PhotoSet:
    """Find the scenes of a folder that is split into train and validation.

    Raises:
        UserError: no such folder, a split is not there, or a split holds no usable scene.
    """
    scanner = _Scanner(Path(root), max_megapixels, LAYOUT)
    entries = {entry.name: entry for entry in scanner.entries(scanner.root)}
    missing = [split for split in SPLITS if split not in entries or not entries[split].is_dir()]
    if missing:
        found = ", ".join(sorted(entries)[:8]) or "nothing"
        raise UserError(f"{root} has no folder {' and no folder '.join(missing)}, only: {found}. {LAYOUT}")
    for name, entry in entries.items():
        if name not in SPLITS:
            scanner.skip(entry, "neither train nor validation")
    for split in SPLITS:
        scanner.read_split(scanner.root / split, split)
    return scanner.photo_set()


def scan_flat(folder: str | Path, *, max_megapixels: float = MOST_MEGAPIXELS) -> PhotoSet:
    """Find the scenes of a folder that is not split yet, `<folder>/<scene>/off.*, on.*, ...`.

    Raises:
        UserError: no such folder, or no usable scene in it.
    """
    scanner = _Scanner(Path(folder), max_megapixels, FLAT_LAYOUT)
    scanner.read_split(scanner.root, None)
    return scanner.photo_set()


class PhotoSample(NamedTuple):
    """One pair for training, sized as inference sizes a photo; a batch of them has (b, ...) in front.

    Attributes:
        off: (3, H, W) in [0, 1] by bicubic, the hint.
        on: (3, H, W) in [0, 1] by bicubic.
        bypass: the unlit photo, (3, H, W) in [-1, 1] by plain bilinear.
        color: () int64, index into `COLORS`.
    """

    off: Tensor
    on: Tensor
    bypass: Tensor
    color: Tensor

    @property
    def hint(self) -> Tensor:
        return self.off

    @property
    def target(self) -> Tensor:
        """The lit picture in [-1, 1]."""
        return 2 * self.on - 1


class PhotoPairs(Dataset[PhotoSample]):
    """Every (off, lit) pair of some scenes, scene by scene, colours in the order of `COLORS`."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        size: int,
        *,
        colors: Collection[str] = COLORS,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        """Args:
        size: width and height of the tensors.
        colors: only pairs lit in these.
        flip: mirror left and right by chance, both pictures of a pair together; drawn from (seed, epoch, index).

        Raises:
            UserError: no scene is lit in any of `colors`.
        """
        self.size, self.flip, self.seed = size, flip, seed
        wanted = in_palette_order(colors)
        self.pairs = tuple((scene, color) for scene in scenes for color in wanted if color in scene.lit)
        if not self.pairs:
            raise UserError(
                f"No pair to train on: none of {len(scenes)} scenes is lit in {', '.join(wanted)}."
            )
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change

    def set_epoch(self, epoch: int) -> None:
        """Draw other flips from now on; call it before each pass."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PhotoSample:
        """Raises:
        UserError: a file is damaged behind its header, or gone since the scan.
        """
        scene, color = self.pairs[index]
        off, lit = _decode(scene.off), _decode(scene.lit[color])
        hint, target = hint_picture(off, self.size)[0], hint_picture(lit, self.size)[0]
        bypass = bypass_picture(off, self.size)[0]
        if self.flip and self._is_flipped(index % len(self)):
            hint, target, bypass = hint.flip(-1), target.flip(-1), bypass.flip(-1)
        return PhotoSample(hint, target, bypass, torch.tensor(COLORS.index(color)))

    def _is_flipped(self, index: int) -> bool:
        chance = np.random.default_rng((self.seed, int(self._epoch), index))
        return bool(chance.random() < 0.5)


def _decode(path: Path) -> Image.Image:
    try:
        return read_photo(path, MOST_MEGAPIXELS)
    except ImageError as exc:
        why = in_english(exc.code, exc.figures)
        raise UserError(
            f"{path} cannot be read: replace it, or remove it from the data set. ({why})"
        ) from exc


class _UnusableError(Exception):
    """Why a file is left out."""


class _Scanner:
    """Collects scenes, and reasons for what is none."""

    def __init__(self, root: Path, max_megapixels: float, layout: str) -> None:
        self.root, self.max_megapixels, self.layout = root, max_megapixels, layout
        self.scenes: list[Scene] = []
        self.skipped: list[Skipped] = []

    def photo_set(self) -> PhotoSet:
        """What was collected; refuses a split without a scene."""
        for split in SPLITS if self.layout == LAYOUT else (None,):
            if not any(scene.split == split for scene in self.scenes):
                where = self.root / split if split else self.root
                reasons = "; ".join(map(str, self.skipped[:3])) or "it is empty"
                raise UserError(f"{where} holds no usable scene ({reasons}). {self.layout}")
        scenes = tuple(self.scenes)
        return PhotoSet(self.root, scenes, Report(self.root, scenes, tuple(self.skipped)))

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(path.relative_to(self.root).as_posix(), reason))

    def entries(self, folder: Path) -> list[Path]:
        """What stands in a folder, sorted, without hidden files.

        Raises:
            UserError: there is no such folder, or it cannot be read.
        """
        try:
            names = sorted(os.listdir(folder))
        except OSError as exc:
            raise UserError(f"{folder} cannot be read ({exc.strerror}). {self.layout}") from exc
        return [folder / name for name in names if name[0] != "." and name.lower() not in _NOT_OURS]

    def read_split(self, folder: Path, split: str | None) -> None:
        for entry in self.entries(folder):
            if entry.is_dir():
                self.read_scene(entry, split)
            else:
                self.skip(entry, "a file outside the scenes' folders")

    def read_scene(self, folder: Path, split: str | None) -> None:
        try:
            entries = self.entries(folder)
        except UserError:
            return self.skip(folder, "a folder that cannot be read")
        if not entries:
            return self.skip(folder, "empty folder")
        candidates = self._by_content(entries)
        off = self._choose(candidates.get("off", []))
        if off is None:
            return self.skip(folder, "no usable off photo")
        lit = {color: self._choose(candidates.get(color, []), like=off) for color in COLORS}
        usable = {color: chosen[0] for color, chosen in lit.items() if chosen is not None}
        if not usable:
            return self.skip(folder, "no usable lit photo")
        self.scenes.append(Scene(folder.name, split, off[0], usable))

    def _by_content(self, entries: Sequence[Path]) -> dict[str, list[Path]]:
        """Files by what their names say they show, the preferred one first."""
        found: dict[str, list[Path]] = {}
        for path in entries:
            name = path.stem.lower()
            if path.is_dir():
                self.skip(path, "a folder inside a scene")
            elif path.suffix.lower() not in EXTENSIONS:
                self.skip(path, f"not one of {', '.join(EXTENSIONS)}")
            elif name not in NAMES:
                self.skip(path, f"unknown name{_suggestion(name)}")
            else:
                found.setdefault(NAMES[name], []).append(path)
        order = [*NAMES]
        for paths in found.values():
            paths.sort(
                key=lambda p: (order.index(p.stem.lower()), EXTENSIONS.index(p.suffix.lower()), p.name)
            )
        return found

    def _choose(
        self, paths: Sequence[Path], like: tuple[Path, tuple[int, int]] | None = None
    ) -> tuple[Path, tuple[int, int]] | None:
        """The first usable file and the size of its upright picture, which must be that of `like`."""
        chosen: tuple[Path, tuple[int, int]] | None = None
        for path in paths:
            if chosen is not None:
                self.skip(path, f"shows the same as {chosen[0].name}")
                continue
            try:
                size = _upright_size(path, self.max_megapixels)
            except _UnusableError as exc:
                self.skip(path, str(exc))
                continue
            if like is not None and size != like[1]:
                self.skip(path, f"{_pixels(size)}, but {like[0].name} is {_pixels(like[1])}")
            else:
                chosen = (path, size)
        return chosen


def _upright_size(path: Path, max_megapixels: float) -> tuple[int, int]:
    """(width, height) by the file's header alone.

    Raises:
        _UnusableError: with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                on_its_side = _orientation(image) in _ON_ITS_SIDE
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _UnusableError(f"more than {max_megapixels:g} megapixels") from exc
    except OSError as exc:
        raise _UnusableError(f"unreadable ({exc.strerror or 'not a photo'})") from exc
    except Exception as exc:  # KeyError: a Pillow without one of the formats; else whatever a decoder raises
        raise _UnusableError("unreadable (not a photo, or a format that this Pillow lacks)") from exc
    if width * height > max_megapixels * 1e6:
        raise _UnusableError(f"{_pixels((width, height))}, more than {max_megapixels:g} megapixels")
    return (height, width) if on_its_side else (width, height)


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; a damaged block counts as none, as when the photo is decoded."""
    try:
        exif = Image.Image.getexif(image)  # PNG's own would decode the whole picture first
        return exif.get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.7)
    return f", did you mean {near[0]}?" if near else f", known are {', '.join(NAMES)}"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _colors_of(scenes: Sequence[Scene]) -> str:
    counts = {color: sum(color in scene.lit for scene in scenes) for color in COLORS}
    return ", ".join(f"{color} {number}" for color, number in counts.items() if number)
