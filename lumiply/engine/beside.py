"""What processors do beside the device: photos are made ready for it, and pictures are waited for and resized."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from PIL import Image

from lumiply.engine.devices import settle_on
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.reasons import reason_of
from lumiply.engine.render import Render
from lumiply.engine.threads import after
from lumiply.engine.transfer import Decoded


class Beside:
    """The threads of one engine that are not its worker."""

    def __init__(self, pipeline: Pipeline, closing: threading.Event) -> None:
        """`closing` is set when the engine closes: what is under way then ends."""
        self._pipeline, self._closing = pipeline, closing
        self._resizers = self._threads(min(8, os.cpu_count() or 1), "lumiply-resize")
        self._collector = self._threads(1, "lumiply-collect")  # one, so that pictures come in their order

    def _threads(self, count: int, name: str) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(count, name, initializer=partial(settle_on, self._pipeline.device))

    def begin(self, render: Render) -> None:
        """Where a GPU computes, make the photo ready for it, from now on and while others are denoised."""
        if self._pipeline.device.type == "cuda":
            render.hint = self._resizers.submit(self._pipeline.hint_input, render.photo)
            # needed last; it would keep the processors from the hint
            bypass_input = self._pipeline.bypass_input
            render.bypass = self._resizers.submit(after, render.hint, bypass_input, render.photo)

    def decode(self, render: Render) -> None:
        """Launch it, picture by picture, on the caller's thread; they are waited for on others, and it goes on."""
        photo = render.photo if render.bypass is None else render.bypass.result()
        features = self._pipeline.features(photo)
        pictures: list[Future[Image.Image]] = []
        for decoded in self._pipeline.decoding(render.latents(), features):
            render.check(self._closing)
            self._collector.submit(self._collect, render, decoded, pictures)

    def _collect(self, render: Render, decoded: Decoded, pictures: list[Future[Image.Image]]) -> None:
        """Wait for a picture and have it resized; after the last, answer."""
        if render.future.done():
            return
        try:
            levels = decoded.wait()
            pictures.append(self._resizers.submit(self._pipeline.picture, levels, render.photo.size))
            render.report("decode", len(pictures), len(render.colors))
            render.check(self._closing)
        except Exception as error:
            render.fail(reason_of(error))
            return
        if len(pictures) == len(render.colors):
            render.finish(pictures)

    def close(self) -> None:
        """Wait for what is under way."""
        self._collector.shutdown(wait=True)
        self._resizers.shutdown(wait=True)
