"""Everything to be measured on a GPU at full size, in one command of at most nine minutes.

    python -m benchmarks.h200 --out DIR

Weights are filled by name. Forms of the step and of the decoder are compiled by processes of their own
(`benchmarks.variants`) while this one measures what needs no compiler; then it takes the quickest forms over, from
the compiled code that they left on disk, and measures whole requests. DIR/h200.json is written after every part, a
part that fails says why, and the most important come first, so that a run that is cut short keeps what counts.
`--model nano --device cpu --backend eager` goes the same way with a toy, in two minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import original, stream
from benchmarks.bench import Bench, photo_of
from benchmarks.crew import Crew, Member
from benchmarks.exclusive import Exclusive
from benchmarks.full_model import filled_model
from benchmarks.measure import Results, machine, matrix_rate, peak_memory, seconds, table
from benchmarks.models import Subject
from benchmarks.published import write_published
from benchmarks.variants import params_of, prefer_attention
from lumiply.colors import COLORS
from lumiply.engine.compiling import BackgroundCompiler, default_compile, keep_compiled_code
from lumiply.engine.convert import picture_psnr
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.stepper import CudaCapture
from lumiply.settings import Settings
from lumiply.weights import Header, save_converted

BUDGET_S: Final = 525.0
#: Share of the time by which the compiled forms are there, or done without.
COMPILED_BY: Final = 0.47
SLOTS: Final = 7
#: Longest that one part waits for the GPU to be free.
PATIENCE_S: Final = 40.0
#: (what, the figure's place in the results, bar, whether less is better), as the project's issue of speed sets them.
BARS: Final = (
    ("seven colours, s", ("end_to_end", "7", "median"), 1.0, True),
    ("one colour, s", ("end_to_end", "1", "median"), 0.40, True),
    ("several photos, pictures/s", ("end_to_end", "14", "images_per_s"), 7.5, False),
    ("GPU memory, seven colours, GB", ("end_to_end", "7", "reserved_gb"), 5.0, True),
    ("picture against float32, dB", ("quality", "worst_db"), 45.0, False),
    ("ready from a converted file, s", ("start, converted", "ready_s"), 4.0, True),
    ("ready from the published files, s", ("start, published", "ready_s"), 10.0, True),
    ("first image after ready, s", ("start, converted", "first_image_s"), 3.0, True),
    ("seven colours by `fast`, s", ("presets", "fast"), 0.5, True),
)


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
        self.lock = Exclusive(folder / "lock")
        self.cache = folder / "cache"
        self.best_attention: str | None = None
        self.crew: Crew | None = None

    def left(self) -> float:
        return self.given.budget - (time.perf_counter() - self.began)

    def part(self, name: str, measure: Callable[[], dict[str, Any] | None], needs_s: float = 5.0) -> None:
        """Run one with the GPU to itself, and keep what it gives, or why it gave nothing."""
        if self.crew is not None:
            self.crew.fill()
            self.results.put("variants", self.crew.found())
        if self.left() < needs_s:
            reason = f"{self.left():.0f} s were left, {needs_s:.0f} are needed"
            self.results.put(name, {"skipped": reason})
            print(f"skipped: {name}, {reason}", flush=True)
            return
        began = time.perf_counter()
        try:
            alone = self.lock.acquire(PATIENCE_S)  # one that hangs must not hold up all that follows
            locked = time.perf_counter()
            found = measure()
            if not alone and found is not None:
                found["disturbed"] = "another process used the GPU meanwhile"
        except Exception as error:
            found, locked = {"failed": f"{type(error).__name__}: {error}"[:2000]}, began
        finally:
            self.lock.release()
        took = {"took_s": time.perf_counter() - locked, "waited_s": locked - began}
        if found is not None:
            self.results.put(name, {**found, **took})
        self.results.put("elapsed_s", time.perf_counter() - self.began)
        print(f"{self.left():5.0f} s left  {name} ({took['took_s']:.1f} s): {str(found)[:600]}", flush=True)

    def run(self) -> None:
        self.part("matrix product", lambda: {"tflops": matrix_rate(self.device, self.half) / 1e12})
        self.part("attention", self.attention)
        self.begin_compiling()
        self.part("build", self.build)
        if not hasattr(self, "pipeline"):
            return
        self.part("eager", self.eager, 20)
        self.part("files", self.write_files, 60)
        self.wait_for_compiled()
        self.part("compile_from_cache", self.adopt, 60)
        self.part("engine", self.make_bench)
        self.part("end to end", lambda: self.table_of(self.bench.end_to_end), 30)
        self.part("quality", self.quality)
        self.part("original", self.ratio)
        self.part("fewer repeats", self.hurry)
        self.part("presets of seven", lambda: self.table_of(self.bench.presets), 15)
        for kind in ("converted", "published"):
            self.part(f"start, {kind}", lambda kind=kind: self.start(kind), 40)  # type: ignore[misc]
        self.part("stages of a request", lambda: self.table_of(self.bench.stages), 25)
        self.part("growth with load", lambda: self.table_of(self.bench.growth), 40)
        self.part("engine closed", lambda: self.bench.close())
        self.part("stream", self.stream, 100 if self.given.model == "full" else 5)
        self.part("products tuned", self.late, 150)
        self.results.put("finished", True)

    def attention(self) -> dict[str, Any]:
        """Milliseconds at the step's shapes, by what computes them; the best is taken from here on."""
        largest = 4096 if self.given.model == "full" else 64
        shapes = {"64 x 64": (5, largest), "32 x 32": (10, largest // 4), "80 tokens": (5, 80)}
        found: dict[str, Any] = {}
        for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", None):
            times: dict[str, Any] = {}
            for name, (heads, n) in shapes.items():
                rows = largest if name == "80 tokens" else n
                q = torch.randn(7, rows, heads * 64, device=self.device).to(self.half)
                k = torch.randn(7, n, heads * 64, device=self.device).to(self.half)
                parts = [part.unflatten(2, (heads, 64)).transpose(1, 2) for part in (q, k, k)]
                try:
                    if backend is None:
                        run = lambda parts=parts: F.scaled_dot_product_attention(*parts)  # noqa: E731
                        times[name] = seconds(run, self.device, 20, warm_up=3)["median"] * 1e3
                    else:
                        with sdpa_kernel(SDPBackend.__members__[backend]):
                            run = lambda parts=parts: F.scaled_dot_product_attention(*parts)  # noqa: E731
                            times[name] = seconds(run, self.device, 20, warm_up=3)["median"] * 1e3
                except RuntimeError as error:
                    times[name] = str(error)[:200]
            found[backend or "torch's choice"] = times
        timed = {
            name: times["64 x 64"]
            for name, times in found.items()
            if name != "torch's choice" and isinstance(times["64 x 64"], float)
        }
        if timed and self.on_gpu:
            self.best_attention = min(timed, key=lambda name: timed[name])
        return {**found, "taken": self.best_attention}

    def begin_compiling(self) -> None:
        given = self.given
        arguments = ["--lock", str(self.folder / "lock"), "--model", given.model, "--device", given.device,
                     "--backend", given.backend, "--repeats", str(given.repeats)]  # fmt: skip
        if self.best_attention:
            prefer_attention(self.best_attention)
            arguments += ["--attention", self.best_attention]
        keep_compiled_code(self.cache)
        environment = {
            "TORCHINDUCTOR_COMPILE_THREADS": "2",
            "TORCHINDUCTOR_CACHE_DIR": os.environ["TORCHINDUCTOR_CACHE_DIR"],
            "OMP_NUM_THREADS": "1",
        }
        self.crew = Crew(self.folder, arguments, given.slots, environment)
        sizes = given.sizes
        self.needed: dict[int, list[Member]] = {
            size: [self.crew.ask(form, size) for form in ("whole", "side by side")] for size in sizes[:2]
        }
        self.needed_decoder = self.crew.ask("decoder", 1)
        self.needed |= {size: [self.crew.ask("whole", size)] for size in sizes[2:]}
        for form in ("norm by group", "doubling packed", "eager", "eager, side by side", "kernels tuned"):
            self.crew.ask(form, sizes[0])
        for form in ("decoder, norm by group", "decoder, eager"):
            self.crew.ask(form, 1)

    def build(self) -> dict[str, Any]:
        """The original's way first, while the model is in float32; then the pipeline of the same model."""
        began = time.perf_counter()
        model = filled_model(params_of(self.given.model))
        found = {"fill_s": time.perf_counter() - began}
        self.state = {name: value.detach() for name, value in model.state_dict().items()}
        model.to(self.device)
        with torch.inference_mode():
            for name in (
                "strict",
                "usual",
            ):  # cudnn computes float32 in TF32 unless told not to, as published
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
        self.pipeline = Pipeline(model, self.constants, device=self.device, dtype=self.half)
        if self.on_gpu:
            torch.cuda.empty_cache()
            found["weights_gb"] = torch.cuda.memory_allocated() / 1e9
            self.pipeline.stepper.capture_with(CudaCapture())
        return found

    def render(self, colors: int) -> dict[str, Image.Image]:
        return self.pipeline.relight(self.photo, COLORS[:colors], seed=1, steps=self.given.steps)

    def eager(self) -> dict[str, Any]:
        """Captured, not compiled; other processes compile meanwhile, so this is a fallback for what comes later."""
        found: dict[str, Any] = {}
        for count in (7, 1):
            began = time.perf_counter()
            pictures = self.render(count)
            found[f"{count} with capture, s"] = time.perf_counter() - began
            found[str(count)] = seconds(lambda n=count: self.render(n), self.device, 3)  # type: ignore[misc]
        worst = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        features = seconds(lambda: self.pipeline.features(self.photo), self.device, 5)["median"]
        conditions = seconds(lambda: self.pipeline.conditions(self.photo, COLORS), self.device, 5)["median"]
        return {**found, "worst_db": min(worst, 999.0), "features_s": features, "conditions_s": conditions}

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

    def wait_for_compiled(self) -> None:
        """And end what compiles still, so that it disturbs nothing."""
        assert self.crew is not None
        needed = [member for members in self.needed.values() for member in members]
        by = self.given.budget * (1 - COMPILED_BY)
        self.crew.wait([*needed, self.needed_decoder], lambda: self.left() - by)
        self.crew.wait(list(self.crew.members), lambda: self.left() - by)
        self.crew.stop()
        self.results.put("variants", self.crew.found())
        rows = [
            [name, found.get("compile_s"), *(found.get(key, {}).get("ms") for key in
             ("launched", "captured", "captured, cudnn chose by trial")), found.get("relative_error"),
             found.get("failed", "")[:60]]
            for name, found in self.crew.found().items()
        ]  # fmt: skip
        print(table(["form, pictures", "compiled in s", "launched ms", "captured ms", "cudnn by trial ms",
                     "rel. error", ""], rows), flush=True)  # fmt: skip

    def adopt(self) -> dict[str, Any]:
        """Take the quicker form of every size, compiled again from the code on disk."""
        found: dict[str, Any] = {}
        trials: list[bool] = []
        for size, members in self.needed.items():
            times = {
                (member.form, key): report[key]["ms"]
                for member in members
                for report in (member.found(),)
                for key in ("captured", "captured, cudnn chose by trial")
                if key in report
            }
            if not times:
                found[str(size)] = "no form was compiled in time"
                continue
            form, key = min(times, key=lambda pair: times[pair])
            trials.append("trial" in key)
            torch.backends.cudnn.benchmark = trials[0]  # as the most important size likes it
            tasks = self.pipeline.compile_tasks([size], side_by_side=form == "side by side")
            began = time.perf_counter()
            compiler = BackgroundCompiler(
                tasks if size == self.given.sizes[0] else tasks[:1],  # the decoder once
                compile=default_compile if self.given.backend == "inductor" else (lambda function: function),
            )
            ended = compiler.wait(max(10.0, self.left() - 150))
            compiler.close()
            found[str(size)] = {"form": form, "ended": ended, "s": time.perf_counter() - began}
        found["cudnn by trial"] = torch.backends.cudnn.benchmark
        found["taken over"] = sorted(self.pipeline.stepper._compiled)
        found["decoder"] = sorted(self.pipeline._decoders)
        return found

    def make_bench(self) -> None:
        settings = Settings(model="full", device=self.given.device, precision="auto", steps=self.given.steps)
        subject = Subject("filled by name", lambda *_: self.pipeline, filled_model, self.given.steps)
        bench = Bench(subject, settings, self.results, quick=self.given.model == "nano")
        bench.pipeline, bench.photo = self.pipeline, self.photo
        if self.on_gpu:
            torch.cuda.empty_cache()
        bench.open()
        self.bench = bench

    def hurry(self) -> None:
        """What follows is of less weight."""
        self.bench.repeats = 1 if self.given.model == "nano" else 3

    def table_of(self, measure: Callable[[], list[list[Any]]]) -> None:
        rows = measure()
        print(table([""] * len(rows[0]), rows), flush=True)

    def quality(self) -> dict[str, Any]:
        """Pictures as they are served now against float32 of the original's way."""
        pictures = self.bench.engine.submit(self.photo, COLORS, seed=1, steps=self.given.steps).result()
        pair = np.concatenate([np.asarray(self.reference), np.asarray(pictures["white"])], axis=1)
        Image.fromarray(pair).save(self.given.out / "pair.png")
        worst = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        return {"worst_db": min(worst, 999.0)}

    def ratio(self) -> dict[str, Any]:
        ours = self.results.tree["end_to_end"]["7"]["median"]
        return {"original_seven_s": 7 * self.original_s, "ours_s": ours, "ratio": 7 * self.original_s / ours}

    def start(self, kind: str) -> dict[str, Any]:
        """In a fresh process; the files are in the page cache, since they were just written."""
        out = self.folder / f"start-{kind}.json"
        folders = {
            "converted": (self.folder / "converted", self.folder / "none"),
            "published": (self.folder / "published", self.folder / "adaptors"),
        }
        ckpt, adaptors = folders[kind] if self.given.model == "full" else (Path("ckpt"), Path("adaptors"))
        command = [sys.executable, "-m", "benchmarks.cold", "--ckpt-dir", str(ckpt), "--adaptors-dir", str(adaptors),
                   "--model", "full" if self.given.model == "full" else "mini", "--device", self.given.device,
                   "--steps", str(self.given.steps), "--out", str(out)]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
        member = Member("start", 0, out)
        with out.with_suffix(".log").open("wb") as log:
            member.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        began = time.perf_counter()
        while not member.over and time.perf_counter() - began < max(20.0, self.left() - 10):
            time.sleep(0.2)
        member.end()
        return member.found()

    def stream(self) -> dict[str, Any]:
        """The same random arrivals to continuous batching and to whole jobs."""
        most = 14 if self.given.model == "full" else 2
        loads = [0.7, 0.95] if self.left() > 130 else [0.85]
        return stream.compare(
            self.pipeline, steps=self.given.steps, max_batch=most, requests=24 if most == 14 else 3, single=0.5,
            loads=loads, seed=1,
        )  # fmt: skip

    def late(self) -> dict[str, Any] | None:
        """Matrix products whose kernels are chosen by trial: slow to compile, so last, and alone."""
        assert self.crew is not None
        self.lock.release()
        member = self.crew.ask("products tuned", self.given.sizes[0])
        self.crew.wait([member], lambda: self.left() - 5)
        self.crew.stop()
        return member.found()

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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="full", choices=("full", "nano"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--backend", default="inductor", choices=("inductor", "eager"), help="eager: trace only"
    )
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=40, help="runs of each form")
    parser.add_argument("--slots", type=int, default=SLOTS, help="processes that compile at once")
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
        plan.run()
    finally:
        if plan.crew is not None:
            plan.crew.stop()
            plan.results.put("variants", plan.crew.found())
        plan.summary()
        plan.lock.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # the compiler's own processes are not waited for
