"""Everything to be measured on a GPU at full size, in one command of a few minutes.

    python -m benchmarks.h200 --out DIR

Weights are filled by name. The engine is used as the server uses it: it answers at once, compiles beside that, and is
measured again when that is done. DIR/h200.json is written after every part, a part that fails says why, and the most
important come first, so that a run that is cut short keeps what counts. `--model nano --device cpu --compile off`
goes the same way with a toy, in a minute. Other forms of the step are compared by `benchmarks.forms`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import original, stream
from benchmarks.bench import Bench, photo_of
from benchmarks.full_model import filled_model
from benchmarks.kernels import kernels
from benchmarks.measure import Results, machine, matrix_rate, peak_memory, seconds, table
from benchmarks.models import Subject
from benchmarks.published import write_published
from cldm import ControlLDMParams
from lumiply.colors import COLORS
from lumiply.engine.ahead import AheadOfTime
from lumiply.engine.compiling import BackgroundCompiler, Function, relative_error
from lumiply.engine.convert import picture_psnr
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import choose_float8
from lumiply.engine.stepper import CudaCapture
from lumiply.engine.tasks import compile_tasks, step_task
from lumiply.settings import Settings
from lumiply.weights import Header, save_converted

BUDGET_S: Final = 525.0
#: (what, the figure's place in the results, bar, whether less is better); see docs/performance.md.
BARS: Final = (
    ("seven colours, s", ("end_to_end", "7", "median"), 1.0, True),
    ("one colour, s", ("end_to_end", "1", "median"), 0.40, True),
    ("four photos at once, pictures/s", ("end_to_end", "28", "images_per_s"), 7.5, False),
    ("GPU memory, seven colours, GB", ("start, converted", "allocated_gb"), 5.0, True),
    ("picture against float32, dB", ("quality", "worst_db"), 45.0, False),
    ("ready from a converted file, s", ("start, converted", "ready_s"), 4.0, True),
    ("ready from the published files, s", ("start, published", "ready_s"), 10.0, True),
    ("first image after ready, nothing compiled, s", ("start, published", "first_image_s"), 3.0, True),
    ("first image after ready, compiled code kept, s", ("start, converted", "first_image_s"), 3.0, True),
    ("seven colours by `fast`, s", ("presets", "fast"), 0.5, True),
)


def params_of(model: str) -> ControlLDMParams:
    """Sizes of the full model, or of the toy that shows whether all this runs."""
    if model == "nano":
        from tests.nano import NANO

        return NANO
    return ControlLDMParams()


class Plan:
    """The parts, one after another until the time is up."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.device = torch.device(given.device)
        self.on_gpu = self.device.type == "cuda"
        self.began = time.perf_counter()
        self.half = torch.float16 if self.on_gpu else torch.float32
        self.photo = photo_of(860, 860) if given.model == "full" else photo_of(64, 48)
        self.results = Results(given.out / "h200.json", machine(self.device))
        self.compilers: list[BackgroundCompiler] = []

    def left(self) -> float:
        return float(self.given.budget - (time.perf_counter() - self.began))

    def part(self, name: str, measure: Callable[[], dict[str, Any] | None], needs_s: float = 5.0) -> None:
        """Keep what it gives, or why it gave nothing."""
        if self.left() < needs_s:
            reason = f"{self.left():.0f} s were left, {needs_s:.0f} are needed"
            self.results.put(name, {"skipped": reason})
            print(f"skipped: {name}, {reason}", flush=True)
            return
        began = time.perf_counter()
        try:
            found = measure()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        took = time.perf_counter() - began
        if found is not None:
            self.results.put(name, {**found, "took_s": took})
        self.results.put("elapsed_s", time.perf_counter() - self.began)
        print(f"{self.left():5.0f} s left  {name} ({took:.1f} s): {str(found)[:700]}", flush=True)

    def run(self) -> None:
        full = self.given.model == "full"
        self.part("matrix product", lambda: {"tflops": matrix_rate(self.device, self.half) / 1e12})
        self.part("build", self.build)
        if not hasattr(self, "pipeline"):
            return
        self.part("uncompiled", self.uncompiled, 20 if full else 5)
        self.part("engine", self.open_engine)
        if self.given.compile == "on":
            self.part("requests while it compiles", self.compile, 60)
            self.part("step", self.step)
        self.part("end to end", lambda: self.table_of(self.bench.end_to_end), 30 if full else 5)
        self.part("quality", self.quality)
        self.part("original", self.ratio)
        self.part("stages of a request", lambda: self.table_of(self.bench.stages), 25 if full else 5)
        self.part("presets of seven", lambda: self.table_of(self.bench.presets), 15 if full else 5)
        if self.given.compile == "on":
            self.part("files", self.write_files, 60)
            for kind in ("converted", "published"):
                self.part(f"start, {kind}", lambda kind=kind: self.start(kind), 40)  # type: ignore[misc]
        self.bench.repeats = 3 if full else 1
        self.part("growth with load", lambda: self.table_of(self.bench.growth), 30 if full else 5)
        self.part("engine closed", self.close, -math.inf)
        self.part("stream", self.stream, 60 if full else 5)
        self.results.put("finished", True)

    def build(self) -> dict[str, Any]:
        """The original's way first, while the model is in float32; then the pipeline of the same model."""
        began = time.perf_counter()
        model = filled_model(params_of(self.given.model))
        found = {"fill_s": time.perf_counter() - began}
        self.state = {name: value.detach() for name, value in model.state_dict().items()}
        model.to(self.device)
        with torch.inference_mode():
            for name in ("strict", "usual"):
                # cudnn computes float32 in TF32 unless told not to, as published
                torch.backends.cudnn.allow_tf32 = name == "usual"
                with peak_memory(self.device) as memory:
                    began = time.perf_counter()
                    picture = original.render(model, self.photo, COLORS[:1], steps=self.given.steps, seed=1)[
                        0
                    ]
                    if name == "strict":
                        self.reference = picture
                    found[f"original_{name}_s"] = time.perf_counter() - began
        found |= {f"original_{key}": value for key, value in memory.items()}
        self.original_s = found["original_usual_s"]
        one = Constants.of(model, {}, self.device)
        codes, tokens = one.palette.codes.repeat(7, 1), one.palette.tokens.repeat(7, 1, 1)
        self.constants = Constants(Palette(COLORS, codes, tokens), one.text)  # one light under seven names
        float8 = choose_float8(self.given.precision, self.device, gains=self.given.compile == "on")
        self.pipeline = Pipeline(model, self.constants, device=self.device, dtype=self.half, float8=float8)
        found["float8"] = self.pipeline.float8
        if self.on_gpu:
            torch.cuda.empty_cache()
            found["weights_gb"] = torch.cuda.memory_allocated() / 1e9
            self.pipeline.capture_with(CudaCapture)
        return found

    def uncompiled(self) -> dict[str, Any]:
        def render(colors: int) -> dict[str, Image.Image]:
            return self.pipeline.relight(self.photo, COLORS[:colors], seed=1, steps=self.given.steps)

        found: dict[str, Any] = {}
        for count in (7, 1):
            began = time.perf_counter()
            pictures = render(count)
            found[f"{count}, the first"] = time.perf_counter() - began
            found[str(count)] = seconds(lambda n=count: render(n), self.device, 3)  # type: ignore[misc]
        worst = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        return {**found, "worst_db": min(worst, 999.0)}

    def open_engine(self) -> None:
        settings = Settings(
            model="full", device=self.given.device, precision=self.given.precision, steps=self.given.steps
        )
        subject = Subject("filled by name", lambda *_: self.pipeline, filled_model, self.given.steps)
        bench = Bench(subject, settings, self.results, quick=self.given.model == "nano")
        bench.pipeline, bench.photo = self.pipeline, self.photo
        if self.on_gpu:
            torch.cuda.empty_cache()
        bench.open()
        self.bench = bench

    def compile(self) -> dict[str, Any]:
        """One request for seven colours after another until everything is compiled: what users meet meanwhile."""
        pauses = self.bench.engine.pauses
        cache = AheadOfTime(self.folder / "cache", pauses=pauses)
        began = time.perf_counter()
        compiler = BackgroundCompiler(
            compile_tasks(self.pipeline, self.given.sizes), cache, slots=self.given.slots, pauses=pauses
        )
        self.compilers.append(compiler)
        times: list[tuple[float, float]] = []
        while not compiler.wait(0) and self.left() > 200:
            asked = time.perf_counter()
            self.bench.request(7)
            times.append((asked - began, time.perf_counter() - asked))
        over = compiler.wait(0)
        compiled_s = time.perf_counter() - began
        if over and not self.pipeline.stepper._compiled:
            raise SystemExit("nothing could be compiled; see above")
        return {
            "over": over,
            "compiled_s": compiled_s,
            "requests": len(times),
            "longest_s": max((took for _, took in times), default=None),
            "requests_at_and_took_s": times,
            "taken over": sorted(self.pipeline.stepper._compiled),
            "stages": [f"{name}, {size}" for name, size in self.pipeline._compiled],
        }

    def step(self) -> dict[str, Any]:
        """Milliseconds of the step, captured: compiled, and as it stands."""
        found: dict[str, Any] = {}
        for size in self.given.sizes:
            with torch.inference_mode():
                inputs = step_task(self.pipeline, size).inputs()
            forms = {"plain": self.pipeline.network, "compiled": self.pipeline.stepper._compiled.get(size)}
            found[str(size)] = {name: self.timed(form, inputs) for name, form in forms.items() if form}
        return found

    def timed(self, function: Function, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
        return timed(function, inputs, self.pipeline.network, self.device)

    def table_of(self, measure: Callable[[], list[list[Any]]]) -> None:
        rows = measure()
        print(table([""] * len(rows[0]), rows), flush=True)

    def quality(self) -> dict[str, Any]:
        """Pictures as they are served now against float32 of the original's way."""
        pictures = self.bench.engine.submit(self.photo, COLORS, seed=1, steps=self.given.steps).result()
        pair = np.concatenate([np.asarray(self.reference), np.asarray(pictures["white"])], axis=1)
        Image.fromarray(pair).save(self.given.out / "pair.png")
        worst = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        alone = self.bench.engine.submit(self.photo, COLORS[:1], seed=1, steps=self.given.steps).result()
        company = min(picture_psnr(picture, alone["white"]) for picture in pictures.values())
        return {"worst_db": min(worst, 999.0), "alone and among seven, db": min(company, 999.0)}

    def ratio(self) -> dict[str, Any]:
        ours = self.results.tree["end_to_end"]["7"]["median"]
        return {"original_seven_s": 7 * self.original_s, "ours_s": ours, "ratio": 7 * self.original_s / ours}

    def write_files(self) -> dict[str, Any]:
        """Converted and published files of the same model, for the starts."""
        palette = self.constants.palette
        numbers = {"codes": palette.codes, "tokens": palette.tokens, "text": self.constants.text}
        ckpt = self.folder / "converted"
        ckpt.mkdir()
        variant = "full" if self.given.model == "full" else "mini"
        paths = save_converted(
            ckpt, self.state, {name: value.cpu() for name, value in numbers.items()},
            Header(variant, "-", palette.names), torch.float16,
        )  # fmt: skip
        with torch.device("meta"):
            model = type(self.pipeline._network)(self.pipeline.params)
            model.use_bypass_first_stage()
        model.load_state_dict(self.state, assign=True)
        published = write_published(model, self.folder / "published", self.folder / "adaptors")
        return {
            "converted_gb": sum(path.stat().st_size for path in paths) / 1e9,
            "published_gb": published / 1e9,
        }

    def start(self, kind: str) -> dict[str, Any]:
        """In a fresh process, with what was compiled before; the files were just written, so they are in memory."""
        out = self.folder / f"start-{kind}.json"
        folders = {
            "converted": (self.folder / "converted", self.folder / "none"),
            "published": (self.folder / "published", self.folder / "adaptors"),
        }
        ckpt, adaptors = folders[kind] if self.given.model == "full" else (Path("ckpt"), Path("adaptors"))
        command = [sys.executable, "-m", "benchmarks.cold", "--ckpt-dir", str(ckpt), "--adaptors-dir", str(adaptors),
                   "--model", "full" if self.given.model == "full" else "mini", "--device", self.given.device,
                   "--precision", self.given.precision, "--steps", str(self.given.steps),
                   "--out", str(out)]  # fmt: skip
        if kind == "converted":
            command += ["--cache-dir", str(self.folder / "cache")]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=max(20.0, self.left() - 10), check=False
        )
        if not out.is_file():
            return {"failed": ran.stderr[-1000:]}
        found: dict[str, Any] = json.loads(out.read_text())
        return found if found.get("ended") else {**found, "failed": ran.stderr[-1000:]}

    def close(self) -> None:
        for compiler in self.compilers:
            compiler.close()
        self.bench.close()

    def stream(self) -> dict[str, Any]:
        """The same random arrivals to continuous batching and to whole jobs."""
        most = 14 if self.given.model == "full" else 2
        loads = [0.5, 0.95] if self.left() > 120 else [0.85]
        return stream.compare(
            self.pipeline, steps=self.given.steps, max_batch=most, requests=24 if most == 14 else 3, single=0.5,
            loads=loads, seed=1,
        )  # fmt: skip

    def summary(self) -> None:
        """The bars, and how far they are reached."""
        rows = []
        for name, place, bar, less in BARS:
            value: Any = self.results.tree
            for key in place:
                value = value.get(key) if isinstance(value, dict) else None
            good = value is not None and (value <= bar if less else value >= bar)
            rows.append(
                [name, value, bar, "reached" if good else "not measured" if value is None else "MISSED"]
            )
        print(f"\n{table(['', 'measured', 'bar', ''], rows)}\n", flush=True)


@torch.inference_mode()
def timed(
    function: Function, inputs: tuple[Tensor, ...], plain: Function, device: torch.device
) -> dict[str, Any]:
    """Milliseconds of a step, captured on a GPU, its error against `plain`, and where the time goes."""
    error = relative_error(function(*inputs), plain(*inputs))
    run: Callable[[], Any] = lambda: function(*inputs)  # noqa: E731
    replay = CudaCapture()(run) if device.type == "cuda" else run
    with peak_memory(device) as memory:
        time_s = seconds(replay, device, 30, warm_up=3)
    found = {"ms": time_s["median"] * 1e3, "min_ms": time_s["min"] * 1e3, "relative_error": error, **memory}
    return found | {"kernels": kernels(run, device)}


@contextmanager
def telling(name: str) -> Iterator[None]:
    """Print what a logger says meanwhile, the details of failed compilations included."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="full", choices=("full", "nano"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", default="on", choices=("on", "off"))
    parser.add_argument("--precision", default="auto", choices=("auto", "float16", "float8"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--slots", type=int, default=6, help="processes that compile at once")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[7, 1, 14], help="batches, the most important first"
    )
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    folder = Path(tempfile.mkdtemp(prefix="lumiply-h200-"))
    plan = Plan(given, folder)
    try:
        with telling("lumiply.engine"):
            plan.run()
    finally:
        for compiler in plan.compilers:
            compiler.close()
        plan.summary()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # what is being compiled is not waited for
