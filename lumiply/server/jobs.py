"""From an upload to stored results: one render a job, shared by all who ask for it.

A job's folder belongs to the request that came last. Whoever asks for the same job, photo and settings shares its
render; another photo under the same job id takes the folder over, and what ran before ends without writing.
All writing is done by one thread, so a folder never sees two writers.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from lumiply.engine.protocol import Engine
from lumiply.errors import CancelledError, EngineClosedError, RenderTimeoutError, ReplacedError
from lumiply.images import encode_png, read_photo
from lumiply.server.slot import EngineSlot
from lumiply.server.store import Encoded, JobStore, Recipe
from lumiply.settings import Settings

log = logging.getLogger(__name__)

Pictures = dict[str, Image.Image]


@dataclass(eq=False)
class Render:
    """One render under way.

    Attributes:
        stored: done once the results stand on disk, or failed with the reason why they do not.
        rendering: the engine's future, once submitted.
        publishing: its results are being written; too late to stop it.
    """

    job_id: str
    recipe: Recipe
    stored: Future[None] = field(default_factory=Future)
    rendering: Future[Pictures] | None = None
    publishing: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.job_id, self.recipe.fingerprint


class Jobs:
    """Answers "these results, please" from the disk, from a render under way, or by a new one."""

    def __init__(self, store: JobStore, engine: EngineSlot, settings: Settings) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], Render] = {}
        self._owners: dict[str, Render] = {}  # by job id: the render that may write the job's folder
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lumiply-store")

    def ensure(self, job_id: str, upload: bytes, color: str, timeout: float) -> None:
        """Return once the results of this photo stand in the job's folder, in `color` and all others.

        Args:
            job_id: a valid one.
            upload: the photo's file.
            color: one of the seven; if the engine has no weights for it, the request is refused.
            timeout: seconds to wait for a render. One that takes longer goes on and is stored.

        Raises:
            LoadingError, EngineClosedError, BusyError: no render can be had now.
            UserError: the upload is no usable photo, or the engine lacks the colour.
            RenderTimeoutError: not done in time.
            ReplacedError: another photo took the job over.
            RenderError: the render failed.
        """
        engine = self._engine.get()
        recipe = self._recipe(engine, upload, color)
        render, is_new = self._join(job_id, recipe)
        if render is None:
            return
        if is_new:
            self._start(engine, render, upload)
        done, _ = concurrent.futures.wait([render.stored], timeout)
        if not done:
            raise RenderTimeoutError(timeout)
        render.stored.result()

    def close(self) -> None:
        """Finish writing what is rendered. Close the engine first. Safe to call twice."""
        self._writer.shutdown(wait=True)

    def _recipe(self, engine: Engine, upload: bytes, color: str) -> Recipe:
        info = engine.info
        loaded = info.colors  # fewer where adaptors are missing
        return Recipe(
            photo=hashlib.sha256(upload).hexdigest(),
            colors=loaded if color in loaded else (color,),  # alone, so that the engine can say why not
            seed=self._settings.seed,
            steps=self._settings.steps or info.steps,
            jpeg_quality=self._settings.jpeg_quality,
            engine=info.fingerprint,
        )

    def _join(self, job_id: str, recipe: Recipe) -> tuple[Render | None, bool]:
        """The render to wait for (None: the results are there already), and whether it has yet to be started."""
        with self._lock:
            render = self._under_way.get((job_id, recipe.fingerprint))
            if render is not None:
                return render, False
            owner = self._owners.get(job_id)
            if self._store.holds(job_id, recipe.fingerprint) and not (owner and owner.publishing):
                self._owners.pop(job_id, None)
                render, is_new = None, False
            else:
                owner = None  # stays the owner until the new render is accepted
                render, is_new = Render(job_id, recipe), True
                self._under_way[render.key] = render
        if owner is not None:
            self._stop(owner)
        return render, is_new

    def _start(self, engine: Engine, render: Render, upload: bytes) -> None:
        """Hand a render to the engine; a failure to do so fails all who wait for it."""
        try:
            photo = read_photo(upload, self._settings.max_megapixels)
            render.rendering = engine.submit(
                photo, render.recipe.colors, seed=render.recipe.seed, steps=render.recipe.steps
            )
        except BaseException as exc:
            self._finish(render, exc)
            return
        with self._lock:
            previous = self._owners.get(render.job_id)
            self._owners[render.job_id] = render
        if previous is not None:
            self._stop(previous)
        try:
            photo_file = encode_png(photo)  # here, while the engine renders
        except BaseException as exc:
            self._finish(render, exc)
            render.rendering.cancel()
            return
        render.rendering.add_done_callback(lambda _: self._hand_over(render, photo_file))

    def _stop(self, render: Render) -> None:
        """End a render that lost its folder."""
        if render.publishing:
            return
        self._finish(render, ReplacedError())
        if render.rendering is not None:
            render.rendering.cancel()

    def _hand_over(self, render: Render, photo_file: bytes) -> None:
        """Called on the engine's thread: leave encoding and writing to the writer's."""
        try:
            self._writer.submit(self._publish, render, photo_file)
        except RuntimeError:  # the writer is shut down
            self._finish(render, EngineClosedError("서버가 종료되고 있습니다. 잠시 후 다시 요청해 주세요."))

    def _publish(self, render: Render, photo_file: bytes) -> None:
        try:
            assert render.rendering is not None
            pictures = render.rendering.result()
            encoded = Encoded.of(photo_file, pictures, render.recipe.jpeg_quality)
            with self._lock:
                render.publishing = self._owners.get(render.job_id) is render
            if not render.publishing:
                raise ReplacedError
            self._store.write(render.job_id, render.recipe, encoded)
        except concurrent.futures.CancelledError:
            self._finish(render, CancelledError("렌더링이 취소되었습니다. 다시 요청해 주세요."))
        except BaseException as exc:
            self._finish(render, exc)
        else:
            self._finish(render, None)

    def _finish(self, render: Render, error: BaseException | None) -> None:
        """Take a render off the tables, then wake those who wait. Only the first call counts."""
        with self._lock:
            if render.stored.done():
                return
            if self._under_way.get(render.key) is render:
                del self._under_way[render.key]
            if self._owners.get(render.job_id) is render:
                del self._owners[render.job_id]
            if error is None:
                render.stored.set_result(None)
            else:
                render.stored.set_exception(error)
