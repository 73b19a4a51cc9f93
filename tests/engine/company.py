"""What tests of several renders at once share."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lumiply.engine.protocol import EngineInfo, Progress
from tests.nano import nano_pipeline

WAIT = 60.0
INFO = EngineInfo("nano", "filled by name", "nano-0", "cpu", "float32", 64, 6)
PHOTO = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8))
OTHER = Image.fromarray(np.random.default_rng(2).integers(0, 255, (30, 60, 3), dtype=np.uint8))


class Steps:
    """The pipeline's stepper, which notes the timesteps of every step."""

    def __init__(self) -> None:
        self.pipeline = nano_pipeline()
        self.real = self.pipeline.stepper
        self.seen: list[list[int]] = []

    def __call__(self, x, t, conditions):
        self.seen.append(t.tolist())
        return self.real(x, t, conditions)


class At:
    """A progress callback that does something once, when a denoising step is done."""

    def __init__(self, step: int, action) -> None:
        self.step, self.action, self.result = step, action, None

    def __call__(self, progress: Progress) -> None:
        if (progress.stage, progress.step) == ("denoise", self.step):
            self.result = self.action()


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def same(one: Image.Image, other: Image.Image) -> bool:
    """Equal but for values that rounding error moves over the edge between two levels."""
    difference = np.abs(levels(one) - levels(other))
    return difference.max() <= 1 and (difference > 0).mean() < 1e-3
