"""Stand-ins for what tests must not wait for: an engine that paints at once, a sender that only notes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from io import BytesIO

from PIL import Image

from lumiply.colors import COLORS, in_palette_order
from lumiply.engine.protocol import DEFAULT_SEED, EngineInfo, Progress, ProgressCallback
from lumiply.errors import BusyError, EngineClosedError, UserError

#: Longest that a test waits for another thread; passing tests never come near it.
PATIENCE_S = 10.0

INFO = EngineInfo(
    model="fake",
    weights="Paints plain pictures.",
    fingerprint="fake-1",
    device="cpu",
    precision="float32",
    image_size=64,
    steps=7,
    presets={"exact": 7, "fast": 2},
)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.002)


@dataclass(eq=False)
class FakeRender:
    """One call of `FakeEngine.submit`."""

    photo: Image.Image
    colors: tuple[str, ...]
    seed: int
    steps: int | None
    progress: ProgressCallback | None
    future: Future[dict[str, Image.Image]] = field(default_factory=Future)
    preset: str | None = None

    def finish(self) -> None:
        """Hand out the pictures, unless cancelled."""
        if self.future.set_running_or_notify_cancel():
            try:
                if self.progress:
                    self.progress(Progress("denoise", 1, 2))
                    self.progress(Progress("done", 0, 0))
            except Exception as error:
                self.future.set_exception(error)
                return
            self.future.set_result({color: paint(self.photo, color) for color in self.colors})

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class FakeEngine:
    """An `Engine` that renders from a thread of its own at once, or, if `manual`, when the test says so."""

    def __init__(
        self,
        *,
        manual: bool = False,
        queue_size: int = 100,
        info: EngineInfo = INFO,
        colors: Sequence[str] = COLORS,
    ) -> None:
        self.info = replace(info, colors=tuple(colors))
        self.manual = manual
        self.error: BaseException | None = None
        self.closed = False
        self.alive = True
        self.renders: list[FakeRender] = []
        self._queue_size = queue_size
        self._arrival = threading.Condition()

    @property
    def queue_length(self) -> int:
        return sum(not render.future.done() for render in self.renders)

    def submit(
        self,
        photo: Image.Image,
        colors: Sequence[str],
        *,
        seed: int = DEFAULT_SEED,
        steps: int | None = None,
        preset: str | None = None,
        progress: ProgressCallback | None = None,
    ) -> Future[dict[str, Image.Image]]:
        if self.closed:
            raise EngineClosedError("closed")
        if not set(colors) <= set(self.info.colors):
            raise UserError("no adaptor is loaded for it")
        if self.queue_length >= self._queue_size:
            raise BusyError("대기열이 가득 찼습니다.")
        render = FakeRender(photo, in_palette_order(colors), seed, steps, progress, preset=preset)
        with self._arrival:
            self.renders.append(render)
            self._arrival.notify_all()
        if self.error is not None:
            render.fail(self.error)
        elif not self.manual:
            threading.Thread(target=render.finish, daemon=True).start()
        return render.future

    def wait_for(self, count: int) -> FakeRender:
        """The `count`-th render, once it has been submitted."""
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self.renders) >= count, PATIENCE_S), "no render came"
        return self.renders[count - 1]

    def close(self, timeout: float | None = None) -> None:
        self.closed = True
        for render in self.renders:
            render.future.cancel()


class FakeSender:
    """A callback sender that keeps what it is given, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.called = threading.Event()
        self._error = error

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.sent.append((url, body))
        self.headers = headers
        self.called.set()
        if self._error:
            raise self._error
        return 200


def paint(photo: Image.Image, color: str) -> Image.Image:
    """A plain picture that tells photo (red) and colour (green) apart."""
    red = photo.getpixel((0, 0))[0]
    return Image.new("RGB", photo.size, (red, 30 * COLORS.index(color), 128))


def photo_bytes(red: int = 200, size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    """A small plain photo as a file."""
    buffer = BytesIO()
    Image.new("RGB", size, (red, 100, 50)).save(buffer, format)
    return buffer.getvalue()
