"""The functions that notebooks and scripts call: one current engine, one default colour."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lumiply.colors import BASE_COLOR, COLORS, require_color
from lumiply.engine.protocol import DEFAULT_SEED, Engine, ProgressCallback
from lumiply.errors import EngineClosedError, WeightsError
from lumiply.files import write_whole
from lumiply.images import encode_jpeg, read_photo
from lumiply.settings import Settings

#: Settings that an engine is loaded with. Others, such as the port, may change without loading it again.
LOADED_WITH: Final = (
    "engine", "ray_address", "replicas", "device", "precision", "model", "ckpt_dir", "adaptors_dir", "steps",
    "preset", "max_batch", "compile", "cache_dir", "queue_size", "stuck_after_s",
)  # fmt: skip


@dataclass
class _Current:
    """What `initialize_engine` and `switch_adapter` chose for this process."""

    engine: Engine | None = None
    settings: Settings = field(default_factory=Settings)
    loaded: Any = None  # see `_loaded`
    color: str = BASE_COLOR
    lock: threading.RLock = field(default_factory=threading.RLock)


_current = _Current()


def build_engine(settings: Settings) -> Engine:
    """A new engine, loaded: in this process, or over Ray, as the settings say. Imports what it needs for seconds.

    Raises:
        WeightsError, SettingsError: it cannot be had.
    """
    if settings.engine == "ray":
        from lumiply.cluster.start import connect

        return connect(settings)
    from lumiply.engine import start

    return start.initialize_engine(settings)


def initialize_engine(settings: Settings | None = None, **overrides: Any) -> Engine:
    """Load the engine and make it the current one.

    Called again, it loads nothing, unless a setting of `LOADED_WITH` has changed, other weights are there now, or the
    current one has ended.

    Args:
        settings: all settings; by default those of the environment.
        overrides: single settings that win over `settings`, such as `device="cpu"`.

    Raises:
        WeightsError, SettingsError: it cannot be had; the former engine, if it runs, is then still the current one.
    """
    settings = Settings.from_env(**overrides) if settings is None else settings.replace(**overrides)
    with _current.lock:
        loaded = _loaded(settings)
        if _current.engine is not None and has_ended(_current.engine):
            close_engine()
        if _current.engine is not None and _current.loaded == loaded:
            _current.settings = settings
            return _current.engine
        engine = build_engine(settings)
        former, _current.engine = _current.engine, engine
        _current.settings, _current.loaded = settings, loaded
    if former is not None:
        former.close()
    return engine


def replace_engine(settings: Settings) -> Engine:
    """Load another current engine in place of one that its server has given up, and closes; others wait for it.

    Raises:
        WeightsError, SettingsError: it cannot be had; there is none then.
    """
    with _current.lock:
        _current.engine = None  # first: what it holds is needed for the next one
        return initialize_engine(settings)


def has_ended(engine: Engine) -> bool:
    """Whether it renders nothing any more, as it was closed or its worker died."""
    return getattr(engine, "closed", False) or not getattr(engine, "alive", True)


def _loaded(settings: Settings) -> tuple[Any, ...]:
    """What an engine of these settings is made of: the same again, the same engine."""
    from lumiply.weights.find import find_weights

    try:
        weights = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model).fingerprint()
    except WeightsError:
        weights = ""  # loading them will say why
    return *(getattr(settings, name) for name in LOADED_WITH), weights


def close_engine() -> None:
    """Close the current engine, if there is one, and forget it. Safe to call twice."""
    with _current.lock:
        engine, _current.engine = _current.engine, None
    if engine is not None and not getattr(engine, "closed", False):  # one that hangs would be waited for
        engine.close()


def switch_adapter(color: str) -> str:
    """Choose the colour of calls that name none, and return it. The model itself is not touched.

    Raises:
        UnknownColorError: `color` is none of the seven.
    """
    _current.color = require_color(color)
    return color


def run_inference_single_image(
    off_path: str | Path,
    color: str | None = None,
    *,
    seed: int | None = None,
    steps: int | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Relight one photo in one colour with the current engine.

    Args:
        off_path: the photo.
        color: one of the seven; by default the one that `switch_adapter` chose.
        seed: of the noise; by default the setting's.
        steps: denoising steps; by default the setting's, else the model's own.
        progress: called as the render goes on.

    Returns:
        Path of `output_{color}.jpg`, beside the photo.

    Raises:
        EngineClosedError: `initialize_engine()` was not called.
        UserError: an unknown colour, or no usable photo.
    """
    color = require_color(color if color is not None else _current.color)
    with _current.lock:
        engine, settings = _current.engine, _current.settings
    if engine is None:
        raise EngineClosedError("No engine is loaded. Call initialize_engine() first.")
    saved = relight_file(
        engine,
        Path(off_path),
        Path(off_path).parent,
        [color],
        seed=settings.seed if seed is None else seed,
        steps=settings.steps if steps is None else steps,
        jpeg_quality=settings.jpeg_quality,
        max_megapixels=settings.max_megapixels,
        progress=progress,
    )
    return str(saved[color])


def relight_file(
    engine: Engine,
    photo: Path,
    folder: Path,
    colors: Sequence[str] = COLORS,
    *,
    seed: int = DEFAULT_SEED,
    steps: int | None = None,
    jpeg_quality: int = 95,
    max_megapixels: float = 50.0,
    progress: ProgressCallback | None = None,
) -> dict[str, Path]:
    """Relight one photo into `folder`, which is made if need be.

    Returns:
        Path of `output_{color}.jpg` by colour.

    Raises:
        UserError: an unknown colour, or no usable photo.
        BusyError, EngineClosedError, RenderError: the engine does not render it.
        OSError: a result cannot be written.
    """
    picture = read_photo(photo, max_megapixels)
    future = engine.submit(picture, colors, seed=seed, steps=steps, progress=progress)
    try:
        pictures = future.result()
    except BaseException:  # such as Ctrl-C while waiting
        future.cancel()
        raise
    folder.mkdir(parents=True, exist_ok=True)
    saved = {color: folder / f"output_{color}.jpg" for color in pictures}
    for color, path in saved.items():
        write_whole(path, encode_jpeg(pictures[color], jpeg_quality))
    return saved
