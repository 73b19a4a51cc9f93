"""The two fine-tunings of a model on a person's own photos, from folders to files that a server loads."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lumiply.colors import BASE_COLOR, in_palette_order
from lumiply.engine.start import DEFAULT_STEPS
from lumiply.errors import WeightsError
from lumiply.files import write_whole
from lumiply.training import photos
from lumiply.training.adaptors import AdaptorTuning, adaptors_of
from lumiply.training.batches import pairs_of
from lumiply.training.checkpoints import writing
from lumiply.training.crossattn import CrossAttentionTuning, model_names
from lumiply.training.tuning_base import Base, find_base, load_base
from lumiply.training.tuning_run import Result, Tuning, tune
from lumiply.weights import Adaptor, find_adaptors, read_adaptor, save_adaptor
from lumiply.weights.find import CHECKPOINTS, MINI_CHECKPOINT, MINI_FOLDER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What both fine-tunings are told.

    Attributes:
        data: folder of photos, split into train and validation.
        base: "mini" or a checkpoint; config: its configuration, if it is neither of the two shipped ones.
        ckpt_dir: where "mini" lies; adaptors_dir: where a server looks for those of the full-size model.
        flip: mirror pairs by chance; for photos that were not augmented.
        recompute: gradient checkpointing.
        picture_steps: denoising steps of the validation picture; None for those that the model renders with.
    """

    data: Path
    base: str
    tuning: Tuning
    learning_rate: float
    ckpt_dir: Path = Path("ckpt")
    adaptors_dir: Path = Path("adaptors")
    config: Path | None = None
    flip: bool = False
    recompute: bool = False
    picture_steps: int | None = None


@dataclass(frozen=True)
class Written:
    """A run's result and the files that hold it."""

    result: Result
    files: tuple[Path, ...]

    def text(self) -> str:
        """For people."""
        r = self.result
        lines = [
            f"epoch {r.epoch} of {r.epochs} is the best: validation loss {r.loss:.4f}, {r.before:.4f} before training"
        ]
        return "\n".join([*lines, *(f"written: {path}" for path in self.files)])


def train_crossattn(job: Job, result: Path | None = None) -> Written:
    """Fine-tune every SpatialTransformer on the pairs lit in white, and write the whole model.

    Args:
        result: the file to write; by default `trained_crossattn.ckpt` in the run's folder, or for the mini model
            `ckpt/mini/lumiply_mini.safetensors` there, with its adaptors beside it.

    Raises:
        UserError, WeightsError, ConfigError, SettingsError: as `tune`, `scan` and `load_base`.
    """
    base, data = _open(job)
    train, validation = pairs_of(
        data, base.model.params.picture_size, [BASE_COLOR], flip=job.flip, seed=job.tuning.seed
    )
    module = CrossAttentionTuning(
        base.model, learning_rate=job.learning_rate, seed=job.tuning.seed, recompute=job.recompute
    )
    _say(module.trained(), len(train), len(validation))
    run = {"training": "crossattn", "base": base.files.fingerprint()}
    tuned = tune(module, train, validation, _tuning(job, base), run)
    path = result or _default_result(job, base)
    with writing(str(path), job.tuning.checkpoints):
        path.parent.mkdir(parents=True, exist_ok=True)
        base.save(path, model_names(dict(tuned.trained)))
        if result is None and base.files.variant == "mini":
            _copy_mini(base, path.parent, model=False)
    return Written(tuned, (path,))


def train_adaptors(
    job: Job, colors: Sequence[str], folder: Path | None = None, start: Path | None = None
) -> Written:
    """Train the adaptors of `colors` in one run, and write `adaptor_{color}.pth` for each.

    A file of that name that holds something else is kept as `adaptor_{color}.pth.before`, `.before1`, ...

    Args:
        folder: where they go; by default `adaptors_dir`, or for the mini model `ckpt/mini` in the run's folder, with
            the model and its other adaptors beside them.
        start: folder of adaptors to go on from; by default, and where it lacks one, the model's own white light.

    Raises:
        UserError, WeightsError, ConfigError, SettingsError: as `tune`, `scan` and `load_base`.
    """
    base, data = _open(job)
    wanted = in_palette_order(colors)
    train, validation = pairs_of(
        data, base.model.params.picture_size, wanted, flip=job.flip, seed=job.tuning.seed
    )
    started = _starts(base, wanted, start)
    params = base.model.params
    module = AdaptorTuning(
        base.model,
        wanted,
        start={color: read_adaptor(path, params) for color, path in started.items()},
        learning_rate=job.learning_rate,
        seed=job.tuning.seed,
        recompute=job.recompute,
    )
    _say(module.trained(), len(train), len(validation))
    run = {
        "training": f"adaptors {' '.join(wanted)}",
        "base": base.files.fingerprint(),
        "start": str(start),  # its path: what stands there may be what this very run has written
    }
    tuned = tune(module, train, validation, _tuning(job, base), run)
    mini = folder is None and base.files.variant == "mini"
    folder = folder or (job.tuning.out / "ckpt" / MINI_FOLDER if mini else job.adaptors_dir)
    files = []
    with writing(str(folder), job.tuning.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
        if mini:
            _copy_mini(base, folder, model=True)
        for color, adaptor in adaptors_of(tuned.trained).items():
            path = folder / f"adaptor_{color}.pth"
            _keep_former(path, adaptor, base)
            save_adaptor(path, adaptor)
            files.append(path)
    return Written(tuned, tuple(files))


def _open(job: Job) -> tuple[Base, photos.PhotoSet]:
    """The data before the model: it is scanned in seconds, and wrong more often."""
    files = find_base(job.base, job.ckpt_dir, job.config)
    data = photos.scan(job.data)
    log.info("%s", data.report.text())
    base = load_base(files)
    with_bypass = f" with {files.bypass.name}" if files.bypass else ""
    log.info("base: %s%s", files.checkpoint, with_bypass)
    return base, data


def _tuning(job: Job, base: Base) -> Tuning:
    steps = job.picture_steps or DEFAULT_STEPS[base.files.variant]
    return replace(job.tuning, picture_steps=steps)


def _say(trained: Mapping[str, Tensor], train: int, validation: int) -> None:
    count = sum(value.numel() for value in trained.values())
    log.info("%.1f million weights learn from %d pairs; %d pairs validate", count / 1e6, train, validation)


def _default_result(job: Job, base: Base) -> Path:
    if base.files.variant == "mini":
        return job.tuning.out / "ckpt" / MINI_FOLDER / MINI_CHECKPOINT
    return job.tuning.out / CHECKPOINTS[0]


def _copy_mini(base: Base, folder: Path, *, model: bool) -> None:
    """Make `folder` one that a server can start from: the base's adaptors and, if asked, its model, if missing."""
    source = base.files.checkpoint.parent
    wanted = [*find_adaptors(source).values(), *([base.files.checkpoint] if model else [])]
    for path in wanted:
        place = folder / path.name
        if not place.exists():
            write_whole(place, path.read_bytes())


def _starts(base: Base, colors: Sequence[str], start: Path | None) -> dict[str, Path]:
    """Adaptor files to go on from, by colour.

    Raises:
        WeightsError: the folder holds none of the colours.
    """
    if start is None:
        return {}
    found = {color: path for color, path in find_adaptors(start).items() if color in colors}
    if not found:
        raise WeightsError(f"{start}: holds no adaptor of {', '.join(colors)} to go on from.")
    for color in colors:
        log.info("%s goes on from %s", color, found.get(color, "the model's white light"))
    return found


def _keep_former(path: Path, adaptor: Adaptor, base: Base) -> None:
    """Rename a file that holds other weights, so that they are not lost."""
    if not path.exists():
        return
    try:
        former = read_adaptor(path, base.model.params)
    except WeightsError:
        former = None
    if former is None or not _equal(former, adaptor):
        names = (f"{path.name}.before{number or ''}" for number in itertools.count())
        path.replace(next(place for name in names if not (place := path.with_name(name)).exists()))


def _equal(one: Adaptor, other: Adaptor) -> bool:
    pairs = ((one.light_encoder, other.light_encoder), (one.light_decoder, other.light_decoder))
    return all(a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a) for a, b in pairs)
