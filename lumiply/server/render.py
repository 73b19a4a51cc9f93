"""One render on its way, and the jobs that wait for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

from PIL import Image

from lumiply.engine.protocol import Progress
from lumiply.errors import CancelledError
from lumiply.server.record import Recipe

Pictures = dict[str, Image.Image]
RenderState = Literal["queued", "running", "ended"]


@dataclass(eq=False)
class Render:
    """A photo in some colours, to be rendered once for all who ask for it.

    Attributes:
        job_id: of the job that asked first; the queue is fair between jobs.
        photo: decoded; None while it waits long, to save memory.
        photo_file: the photo as PNG, which becomes the job's `off.png`.
        todo: groups of colours that have yet to go to the engine; one, unless memory ran out.
        pictures: what has come so far, by colour.
        attempt: counts up each time the engine is given a part; answers to earlier ones are ignored.
        failures: attempts that ended in an error.
        result: all pictures, or why there are none.
        on_stage: told (stage, seconds) as a stage ends, for the statistics.
    """

    recipe: Recipe
    colors: tuple[str, ...]
    job_id: str
    photo: Image.Image | None
    photo_file: Future[bytes] = field(default_factory=Future)
    todo: deque[tuple[str, ...]] = field(default_factory=deque)
    pictures: Pictures = field(default_factory=dict)
    attempt: int = 0
    failures: int = 0
    state: RenderState = "queued"
    result: Future[Pictures] = field(default_factory=Future)
    rendering: Future[Pictures] | None = None
    tickets: list[Ticket] = field(default_factory=list)
    on_stage: Callable[[str, float], None] = lambda stage, seconds: None
    stage: str = "queued"
    stage_began: float = field(default_factory=time.monotonic)
    steps_done: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        self.steps = self.recipe.steps
        if not self.todo:
            self.todo.append(self.colors)

    def decoded(self) -> Image.Image:
        """The photo, decoded again if it was let go."""
        photo = self.photo
        if photo is None:
            with Image.open(BytesIO(self.photo_file.result())) as image:
                photo = image.convert("RGB")
        return photo

    def let_go_of_pixels(self) -> None:
        """Keep the PNG alone while the render waits."""
        if self.state == "queued" and self.photo_file.done() and self.photo_file.exception() is None:
            self.photo = None

    def release(self) -> None:
        """Let go of all that takes memory, once nobody will ask for it: futures and their callbacks form cycles."""
        self.photo = self.rendering = None
        self.pictures.clear()
        self.photo_file = Future()
        self.photo_file.set_exception(CancelledError("the render has been let go of"))

    def enter(self, stage: str) -> None:
        """Note that a stage begins, and how long the one before took."""
        if stage != self.stage:
            now = time.monotonic()
            self.on_stage(self.stage, now - self.stage_began)
            self.stage, self.stage_began = stage, now

    def progress(self, now: Progress) -> None:
        """Called from the engine's thread as it goes on."""
        if now.stage == "queued":
            return
        self.state = "running"
        self.enter(now.stage)
        if now.stage == "denoise":
            self.steps_done, self.steps = now.step, now.steps or self.steps
        elif now.stage in ("decode", "done"):
            self.steps_done = self.steps


@dataclass(eq=False)
class Ticket:
    """One job's claim on a render.

    Attributes:
        colors: those of the render's that the job wants.
        done: set once they stand in the job's folder, or to the reason why they do not.
        waiting: requests that wait for it now.
        begun: whether the job's record says that it is under way.
    """

    job_id: str
    render: Render
    colors: frozenset[str]
    done: Future[None] = field(default_factory=Future)
    waiting: int = 0
    begun: bool = False

    @property
    def is_live(self) -> bool:
        """Whether the job still wants it."""
        return not self.done.done()
