"""One request to the in-process engine, from the queue to its future."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from cldm import StepConditions
from lumiply.engine.batching import Group
from lumiply.engine.presets import Sampling
from lumiply.engine.protocol import Progress, ProgressCallback, Stage
from lumiply.errors import CancelledError, EngineClosedError

Pictures = dict[str, Image.Image]


@dataclass(eq=False)
class Render:
    """A photo, its colours, and how far they are. Changed by the engine's worker only.

    Attributes:
        conditions: of all colours, once prepared.
        entered: how many of the colours have begun, in their order.
        hint, bypass: the photo as `Pipeline.conditions` and `Pipeline.features` take it, where that is made beside
            what the GPU does.
    """

    photo: Image.Image
    colors: tuple[str, ...]
    seed: int
    sampling: Sampling
    progress: ProgressCallback | None
    future: Future[Pictures] = field(default_factory=Future)
    conditions: StepConditions | None = None
    entered: int = 0
    hint: Future[Tensor] | None = None
    bypass: Future[Tensor] | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _ended: list[Tensor] = field(default_factory=list)
    _reported: int = 0

    def __post_init__(self) -> None:
        # without `self`: a future keeps its callbacks, and the cycle would keep the photo until a collection
        cancelled = self._cancelled
        self.future.add_done_callback(lambda future: cancelled.set() if future.cancelled() else None)

    @property
    def remaining(self) -> int:
        """Colours that have not begun."""
        return 0 if self.future.done() else len(self.colors) - self.entered

    @property
    def is_denoised(self) -> bool:
        return sum(len(latents) for latents in self._ended) == len(self.colors)

    def check(self, closing: threading.Event) -> None:
        """Raise if nobody wants this render any more.

        Raises:
            CancelledError, EngineClosedError: its future was cancelled, or the engine is closing.
        """
        if self._cancelled.is_set():
            raise CancelledError("the render was cancelled")
        if closing.is_set():
            raise EngineClosedError("the engine was shut down while this render ran")

    def report(self, stage: Stage, step: int, steps: int) -> None:
        """Tell the caller; whatever the callback raises ends this render."""
        if self.progress is not None:
            self.progress(Progress(stage, step, steps))

    def take(self, group: Group[Render]) -> None:
        """Keep what a group has denoised. Groups of one render end in the order in which they began."""
        assert group.latents is not None
        self._ended.append(group.latents)

    def report_steps(self, running: Iterable[Group[Render]]) -> None:
        """Report the steps taken, the mean over all colours, rounded down; only what is new."""
        steps = self.sampling.steps
        taken = sum(len(latents) for latents in self._ended) * steps
        taken += sum(group.done * group.rows for group in running)
        done = taken // len(self.colors)
        if done > self._reported:
            self._reported = done
            self.report("denoise", done, steps)

    def latents(self) -> Tensor:
        """(k, channels, h, w) of all colours, in their order."""
        return torch.cat(self._ended)

    def finish(self, pictures: Sequence[Future[Image.Image]]) -> None:
        """Answer as soon as all `pictures` are there; on the thread that makes the last of them."""
        made, waiting = list(pictures), len(pictures)
        lock = threading.Lock()

        def one_more(_: Future[Image.Image]) -> None:
            nonlocal waiting
            with lock:
                waiting -= 1
                if waiting:
                    return
            try:
                self.report("done", 1, 1)
                answer = dict(zip(self.colors, (picture.result() for picture in made), strict=True))
            except Exception as error:
                self.fail(error)
                return
            finally:
                made.clear()  # each of them keeps this callback
            with contextlib.suppress(Exception):  # cancelled at the last moment
                self.future.set_result(answer)

        for picture in pictures:
            picture.add_done_callback(one_more)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless nobody waits for one."""
        with contextlib.suppress(Exception):
            self.future.set_exception(error)
