"""Engines to be measured, in replicas over Ray and in this process: how they load, what they say of themselves."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest import mock

import torch

from lumiply.engine.local import LocalEngine
from lumiply.engine.protocol import Engine, EngineInfo
from lumiply.engine.start import initialize_engine, speed_up
from lumiply.errors import WeightsError
from lumiply.settings import Settings
from lumiply.weights import find_weights

#: Seconds that a replica may take to say what it is.
ANSWER_S: Final = 60.0


def has_weights(settings: Settings) -> bool:
    try:
        find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model)
    except WeightsError:
        return False
    return True


@dataclass(frozen=True)
class LoadSubject:
    """Loads an engine of the model to measure, compiled if the settings say so; in a replica, or here.

    Attributes:
        sizes: batches that are compiled.
        slots: parts that are compiled at once.
        until: when, by the clock on the wall, weights and compiled code are no longer waited for.
    """

    model: str
    settings: Settings
    sizes: tuple[int, ...]
    slots: int | None
    until: float

    def __call__(self) -> LocalEngine:
        engine = self._nano() if self.model == "nano" else self._of_files()
        pipeline = engine._pipeline
        compiler = engine._compiler = speed_up(
            pipeline, self.settings, sizes=self.sizes, slots=self.slots, pauses=engine.pauses
        )
        if compiler is not None and not compiler.wait(max(0.0, self.until - time.time())):
            compiler.close()
        steps, stages = sorted(pipeline.stepper._compiled), len(pipeline._compiled)
        compiled = f"compiled: steps of {steps} pictures, {stages} other stages"
        engine._info = replace(engine.info, weights=f"{engine.info.weights}; {compiled}", device=_place())
        return engine

    def _of_files(self) -> LocalEngine:
        while not has_weights(self.settings) and time.time() < self.until:  # another process writes them
            time.sleep(0.1)
        return initialize_engine(self.settings.replace(compile="off"))

    def _nano(self) -> LocalEngine:
        from tests.nano import nano_pipeline

        pipeline = nano_pipeline()
        info = EngineInfo("nano", "filled by name", "nano", "cpu", "float32", pipeline.picture_size, 2)
        return LocalEngine(pipeline, info, max_batch=7, queue_size=self.settings.queue_size)


def _place() -> str:
    """Which process this is, and which GPU it has."""
    if not torch.cuda.is_available():
        return f"process {os.getpid()}"
    properties = torch.cuda.get_device_properties(0)
    return f"process {os.getpid()}, {properties.name} {getattr(properties, 'uuid', '')}"


def engines_behind(engine: Engine, replicas: int) -> list[str]:
    """What each replica says of its place and of what is compiled there; asked until all have answered, surely."""
    if isinstance(engine, LocalEngine):
        return [f"{engine.info.device}; {engine.info.weights}"]
    from ray import serve

    from lumiply.cluster.deployment import APPLICATION, DEPLOYMENT

    handle = serve.get_deployment_handle(DEPLOYMENT, APPLICATION)
    infos = [handle.info.remote().result(timeout_s=ANSWER_S) for _ in range(10 * replicas)]
    return sorted({f"{info.device}; {info.weights}" for info in infos})


@contextlib.contextmanager
def replicas_stay() -> Iterator[None]:
    """A new number of replicas leaves those that run as they are, where Serve would start all of them anew."""
    import lumiply.cluster.start  # noqa: F401 (it says what Ray may report, before Ray is imported)

    with mock.patch("ray.serve._private.client.get_random_string", return_value="measured"):
        yield


def meanwhile(function: Callable[[], Any]) -> Future[Any]:
    """Call it on a thread that nobody has to wait for at the end."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
