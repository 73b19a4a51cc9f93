"""A start as a user sees it, in a fresh process: to an engine that is ready, and to its first pictures.

    python -m benchmarks.cold --ckpt-dir ckpt --adaptors-dir adaptors --out FILE.json

Nothing is captured before. What is compiled lies in `--cache-dir`; without it, all is compiled anew, in the
background, as in the server. With it, the last figures are those with compiled code, and the peak of GPU memory.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lumiply.colors import COLORS

if TYPE_CHECKING:
    from lumiply.engine.local import LocalEngine

BEGAN = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-dir", type=Path, default=Path("ckpt"))
    parser.add_argument("--adaptors-dir", type=Path, default=Path("adaptors"))
    parser.add_argument("--model", default="full", choices=("full", "mini"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto", choices=("auto", "float16", "float8"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)

    import torch

    from benchmarks.bench import photo_of
    from benchmarks.measure import Results, machine, peak_memory
    from lumiply.engine.start import initialize_engine
    from lumiply.settings import Settings

    results = Results(given.out, machine(torch.device(given.device)))
    results.put("import_s", time.perf_counter() - BEGAN)
    photo = photo_of(860, 860)
    with tempfile.TemporaryDirectory() as cache:
        settings = Settings(
            model=given.model, device=given.device, ckpt_dir=given.ckpt_dir, adaptors_dir=given.adaptors_dir,
            precision=given.precision, steps=given.steps, cache_dir=given.cache_dir or Path(cache),
        )  # fmt: skip
        with hearing("lumiply.engine.clock") as parts:
            began = time.perf_counter()
            engine = initialize_engine(settings)
            results.put("ready_s", time.perf_counter() - began)
        results.put("ready_parts", parts)
        results.put("weights", engine.info.weights)
        for name, colors in (("first_image_s", COLORS[:1]), ("seven_s", COLORS), ("seven_again_s", COLORS)):
            began = time.perf_counter()
            engine.submit(photo, engine.info.colors[: len(colors)]).result()
            results.put(name, time.perf_counter() - began)
        if given.cache_dir is not None:
            compiled = wait_for_compiled(engine)
            results.put("compiled_after_s", compiled)
            engine.submit(photo, engine.info.colors).result()  # captured
            with peak_memory(torch.device(given.device)) as memory:
                began = time.perf_counter()
                engine.submit(photo, engine.info.colors).result()
                results.put("seven_compiled_s", time.perf_counter() - began)
            for name, value in memory.items():
                results.put(name, value)
    engine.close(10)
    results.put("ended", True)


@contextmanager
def hearing(name: str) -> Iterator[list[str]]:
    """What a logger says meanwhile, its details included."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, listener = logging.getLogger(name), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def wait_for_compiled(engine: LocalEngine) -> float | None:
    """Seconds until seven colours are denoised by compiled code, or nothing is compiled any more; None: not within a
    minute."""
    began = time.perf_counter()
    compiler = engine._compiler
    while compiler is not None and (waited := time.perf_counter() - began) < 60:
        if len(COLORS) in engine._pipeline.stepper._compiled or compiler.wait(0.05):
            return waited
    return None


if __name__ == "__main__":
    os.setpgrp()  # whoever started this ends its compiler's processes with it
    main()
    os._exit(0)
