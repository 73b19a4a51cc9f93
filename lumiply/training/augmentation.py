"""More training data from few photos: mirrored, and with the unlit photo made darker or brighter.

Two kinds of data are made from folders of scenes that are not split yet. For the cross-attention: left-right flips,
and brightness steps on the unlit photo alone, so that one lit picture is learned from a dim and from a bright room;
95 % of the scenes train. For the adaptors: left-right flips; 80 % train. Nothing is ever turned upside down: rooms
have floors.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps
from tqdm import tqdm

from lumiply.colors import BASE_COLOR
from lumiply.errors import ImageError, UserError
from lumiply.files import sync_folder, write_whole
from lumiply.images import encode_png, read_photo
from lumiply.sheet import contact_sheet
from lumiply.training.photos import MOST_MEGAPIXELS, SPLITS, Skipped
from lumiply.training.scenes import ROOM_MARK, Scene
from lumiply.training.split import choose_validation

#: Says in the folder that was written which plan wrote it.
RECORD: Final = ".lumiply-augment.json"

#: Of the brightness factors that may be asked for.
LEAST_BRIGHTNESS, MOST_BRIGHTNESS = 0.05, 4.0


@dataclass(frozen=True)
class Kind:
    """What the data is for.

    Attributes:
        train_share: of the scenes; the rest validates.
        brightness: default factors of the unlit photo, beside 1; none where brightness is left alone.
    """

    train_share: float
    brightness: tuple[float, ...]


KINDS: Final[dict[str, Kind]] = {"crossattn": Kind(0.95, (0.6, 0.8, 1.2)), "adaptor": Kind(0.80, ())}


@dataclass(frozen=True)
class Augmented:
    """One scene to be written: `scene` mirrored or not, its unlit photo scaled by `brightness`."""

    scene: Scene
    split: str
    flip: bool
    brightness: float

    @property
    def variant(self) -> str:
        """What was done, as it stands in the folder's name; empty for the scene as it is."""
        flip = "flip" if self.flip else ""
        brightness = "" if self.brightness == 1 else f"off{round(100 * self.brightness):03d}"
        return ROOM_MARK.join(filter(None, (flip, brightness)))

    @property
    def name(self) -> str:
        """Of the folder; a variant counts as the same room (see `Scene.room`)."""
        return ROOM_MARK.join(filter(None, (self.scene.name, self.variant)))

    @property
    def photos(self) -> dict[str, Path]:
        """Source files by the name they get: off, on, red, ..."""
        lit = {"on" if color == BASE_COLOR else color: path for color, path in self.scene.lit.items()}
        return {"off": self.scene.off, **lit}

    def brightness_of(self, name: str) -> float:
        """The factor of one photo: lit ones keep theirs."""
        return self.brightness if name == "off" else 1.0


@dataclass(frozen=True)
class Plan:
    """What is to be written; variants of a scene stand together."""

    kind: str
    seed: int
    brightness: tuple[float, ...]
    items: tuple[Augmented, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Augmented]:
        return iter(self.items)

    def scenes(self, split: str) -> tuple[Scene, ...]:
        """The distinct scenes of a split."""
        return tuple({item.scene.name: item.scene for item in self.items if item.split == split}.values())

    def text(self) -> str:
        """The plan for people."""
        total = sum(len(self.scenes(split)) for split in SPLITS)
        steps = ", ".join(f"{100 * factor:g} %" for factor in self.brightness)
        done = "left-right flips" + (f", off photos at {steps}" if steps else "")
        lines = [f"{self.kind}, seed {self.seed}: {done}"]
        for split in SPLITS:
            items = [item for item in self.items if item.split == split]
            scenes, files = len(self.scenes(split)), sum(len(item.photos) for item in items)
            share = f"{100 * scenes / total:.0f} %"
            lines.append(
                f"  {split:<11}{scenes} of {total} scenes ({share}), written as {len(items)}: {files} files"
                f" (such as {split}/{items[-1].name})"
            )
        return "\n".join(lines)

    def digest(self) -> str:
        """Names the plan: the same photos (by name and size in bytes) and the same choices give the same digest."""
        rows = [
            [item.split, item.name, {k: [p.name, p.stat().st_size] for k, p in item.photos.items()}]
            for item in self.items
        ]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Written:
    """What a run did.

    Attributes:
        scenes: folders written by this run.
        already: folders that an earlier run had written.
        files: photos written by this run.
        skipped: photos that turned out to be damaged.
    """

    scenes: int
    already: int
    files: int
    skipped: tuple[Skipped, ...]

    def text(self) -> str:
        """The result for people."""
        before = f", {self.already} were there already" if self.already else ""
        lines = [f"written: {self.scenes} scenes, {self.files} files{before}"]
        return "\n".join(lines + [f"  skipped {skipped}" for skipped in self.skipped])


def plan(
    scenes: Sequence[Scene], kind: str, *, seed: int = 0, brightness: Iterable[float] | None = None
) -> Plan:
    """Choose the sides and the variants of scenes; nothing is written.

    Scenes of one room stay on one side: those whose names say so, and those whose unlit photos are the same file.

    Args:
        kind: one of `KINDS`.
        seed: of the choice of validation rooms; the order and place of the scenes have no part in it.
        brightness: factors on the unlit photo's 8-bit values, 0.05 to 4; by default those of the kind.

    Raises:
        UserError: unknown kind, brightness where there is none or out of its limits, fewer than two rooms, or
            names that collide.
    """
    if kind not in KINDS:
        raise UserError(f"There is no kind {kind!r} of data; known are {', '.join(KINDS)}.")
    factors = _factors(kind, brightness)
    held_out = choose_validation(scenes, KINDS[kind].train_share, seed)
    items = tuple(
        Augmented(scene, "validation" if scene.name in held_out else "train", flip, factor)
        for scene in sorted(scenes, key=lambda scene: scene.name)
        for factor in (1.0, *factors)
        for flip in (False, True)
    )
    twice = [name for name, count in Counter(item.name for item in items).items() if count > 1]
    if twice:
        raise UserError(f"Two scenes would both be written as {twice[0]}; rename one of them.")
    return Plan(kind, seed, factors, items)


def write(plan: Plan, out: str | Path, *, progress: bool = True) -> Written:
    """Write the scenes of a plan under `out`/train and `out`/validation; each folder appears whole, or not at all.

    Photos that stay as they are are copied byte for byte; changed ones are written as PNG, without loss. What
    an earlier run of the same plan has written is kept, so that a run that was stopped goes on. A damaged photo is
    left out and told; if it is the unlit one, or no lit one is left, so is its scene.

    Args:
        progress: show a bar on stderr.

    Raises:
        UserError: `out` holds anything but this plan's work, overlaps the source, or cannot be written; or all
            photos of a side are damaged.
    """
    out = Path(out)
    files: list[int] = []  # of each folder
    already = 0
    skipped: list[Skipped] = []
    try:
        _claim(plan, out)
        with tqdm(total=len(plan), desc=out.name, unit="scene", disable=not progress) as bar:
            for _, variants in itertools.groupby(plan, key=lambda item: item.scene.name):
                items = list(variants)
                missing = [item for item in items if not (out / item.split / item.name).exists()]
                already += len(items) - len(missing)
                files += _write_scene(missing, out, skipped)
                bar.update(len(items))
    except OSError as exc:
        raise UserError(
            f"Writing {out} stopped: {exc}. What was finished is kept; once this is solved, the same command goes on"
            " from there."
        ) from exc
    for side in SPLITS:
        if not any((out / side).glob("[!.]*")):
            damaged = ", ".join(found.where for found in skipped)
            raise UserError(
                f"{out} has nothing for {side}, since photos are damaged: {damaged}. Replace or remove them, delete"
                f" {out}, and run again."
            )
    return Written(len(files), already, sum(files), tuple(skipped))


def mirrored(photo: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(photo)


def brightened(photo: Image.Image, factor: float) -> Image.Image:
    """The 8-bit RGB values times `factor`, rounded; what exceeds white is white."""
    return photo.point([min(255, math.floor(factor * level + 0.5)) for level in range(256)] * 3)


def before_and_after(plan: Plan, scene: str | None = None, *, cell: int = 240) -> Image.Image:
    """A sheet of one scene's variants, unlit and lit side by side, the scene as it is first.

    Args:
        scene: its name; by default the plan's first one.
        cell: width of a picture on the sheet, in pixels.

    Raises:
        UserError: the plan has no such scene.
        ImageError: one of its two photos is damaged.
    """
    items = [item for item in plan if item.scene.name == (scene or plan.items[0].scene.name)]
    if not items:
        raise UserError(
            f"The plan has no scene {scene!r}; it has, for example, {plan.items[0].scene.name!r}."
        )
    lit, path = next(iter(items[0].scene.lit.items()))
    photos = {"off": read_photo(items[0].scene.off, MOST_MEGAPIXELS), lit: read_photo(path, MOST_MEGAPIXELS)}
    pictures = {
        f"{item.variant.replace(ROOM_MARK, ', ') or 'as it is'}: {name}": _changed(photo, item, name)
        for item in items
        for name, photo in photos.items()
    }
    return contact_sheet(pictures, cell=cell)


def _write_scene(items: Sequence[Augmented], out: Path, skipped: list[Skipped]) -> list[int]:
    """Write variants of one scene; return how many files each got. Damaged photos are added to `skipped`."""
    if not items:
        return []
    source = _Source(items[0], skipped)
    if not source.usable:
        return []
    return [_write_folder(out / item.split, item.name, source.files(item)) for item in items]


class _Source:
    """One scene's photos, decoded once for all its variants, and the files made of them."""

    def __init__(self, item: Augmented, skipped: list[Skipped]) -> None:
        self.photos: dict[str, Image.Image] = {}
        self._made: dict[tuple[str, bool, float], bytes] = {}
        for name, path in item.photos.items():
            try:
                self.photos[name] = read_photo(path, MOST_MEGAPIXELS)
            except ImageError:
                skipped.append(
                    Skipped(f"{item.scene.name}/{path.name}", "its header is right, but not its pixels")
                )

    @property
    def usable(self) -> bool:
        return "off" in self.photos and len(self.photos) > 1

    def files(self, item: Augmented) -> dict[str, bytes]:
        """File names and contents of one variant."""
        return dict(self._file(item, name) for name in self.photos)

    def _file(self, item: Augmented, name: str) -> tuple[str, bytes]:
        path, brightness = item.photos[name], item.brightness_of(name)
        if not item.flip and brightness == 1:
            return name + path.suffix.lower(), path.read_bytes()
        key = (name, item.flip, brightness)  # lit photos are the same in every brightness
        if key not in self._made:
            self._made[key] = encode_png(_changed(self.photos[name], item, name))
        return f"{name}.png", self._made[key]


def _changed(photo: Image.Image, item: Augmented, name: str) -> Image.Image:
    """The photo called `name` as the variant shows it."""
    photo = mirrored(photo) if item.flip else photo
    factor = item.brightness_of(name)
    return photo if factor == 1 else brightened(photo, factor)


def _factors(kind: str, brightness: Iterable[float] | None) -> tuple[float, ...]:
    """The factors beside 1, in percent steps, each once, rising."""
    if brightness is None:
        return KINDS[kind].brightness
    given = tuple(brightness)
    if given and not KINDS[kind].brightness:
        raise UserError(f"{kind} data is only mirrored: leave the brightness away, or choose another kind.")
    for factor in given:
        if not LEAST_BRIGHTNESS <= factor <= MOST_BRIGHTNESS:  # refuses NaN as well
            raise UserError(
                f"A brightness of {factor:g} is out of range; choose {LEAST_BRIGHTNESS:g} to {MOST_BRIGHTNESS:g}."
            )
    return tuple(sorted({round(factor, 2) for factor in given} - {1.0}))


def _claim(plan: Plan, out: Path) -> None:
    """Make `out` this plan's own, or find that it is.

    Raises:
        UserError: it is someone else's, or overlaps the source.
    """
    for source in {item.scene.off.parent.parent.resolve() for item in plan}:
        here = out.resolve()
        if here.is_relative_to(source) or source.is_relative_to(here):
            raise UserError(f"{out} overlaps the photos in {source}; choose a folder outside it.")
    record = out / RECORD
    content = {"kind": plan.kind, "seed": plan.seed, "brightness": plan.brightness, "digest": plan.digest()}
    if not out.is_dir() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(content, indent=1).encode())
        return
    former = _read_record(record)
    if former is None:
        raise UserError(f"{out} is not empty, and nothing is overwritten; choose another folder.")
    if former.get("digest") != content["digest"]:
        raise UserError(
            f"{out} was written from other photos or with other choices (kind {former.get('kind')}, seed"
            f" {former.get('seed')}, brightness {former.get('brightness')}); choose another folder, or delete it."
        )


def _read_record(record: Path) -> Mapping[str, object] | None:
    try:
        content = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write_folder(parent: Path, name: str, files: Mapping[str, bytes]) -> int:
    """Write a folder beside its place, then move it there; return how many files it has."""
    beside = parent / f".{name}.part"  # what a killed run left is ours, and hidden from every scan
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for file, data in files.items():
            write_whole(beside / file, data)
        beside.rename(parent / name)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(parent)
    return len(files)
