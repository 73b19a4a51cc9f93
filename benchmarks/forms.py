"""Forms of the step of seven pictures beside each other: how long each takes, and how near its pictures stay.

    python -m benchmarks.forms --out DIR --budget 240

On a GPU, with the full-size model filled by name. All forms are compiled side by side in processes of their own, as
the engine compiles, and captured; those that are not ready when their share of the time is over are left out.
DIR/forms.json is written after every part, and a part that fails says why. `--model nano --device cpu` goes the same
way with a toy; there `--compile off` takes each form as it stands.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks import original
from benchmarks.bench import photo_of
from benchmarks.full_model import filled_model
from benchmarks.h200 import params_of, timed
from benchmarks.measure import Results, machine, matrix_rate, seconds, synchronize, table
from cldm import StepNetwork
from ldm.float8 import Float8Linear, input_scale
from lumiply.colors import COLORS
from lumiply.engine.ahead import AheadOfTime
from lumiply.engine.compiling import BackgroundCompiler, Function
from lumiply.engine.convert import picture_psnr
from lumiply.engine.float8 import Product, largest_inputs, sharing, use_float8
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.stepper import CudaCapture, Stepper
from lumiply.engine.tasks import step_task

PRODUCTS_TUNED: Final = {"max_autotune_gemm": True, "max_autotune_gemm_backends": "ATEN,TRITON"}
#: Timesteps at which the largest inputs are looked for.
SEEN_AT: Final = (981, 781, 581, 381, 181, 1)
MIXED: Final = "mixed"
#: Float8 rounds numbers that differ by little to some that differ by an eighth; figures say how near a form is.
TOLERANCE: Final = 0.2


@dataclass(frozen=True)
class Form:
    """A way to compute the step.

    Attributes:
        options: settings of Inductor.
        float8: which products are computed in float8.
        by_rows: with a scale for every row of an input, not one that was chosen before.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    float8: Callable[[Product], bool] | None = None
    by_rows: bool = False


def wide(product: Product) -> bool:
    """Those of the engine, of the full model."""
    return product.kind != MIXED and product.width > 320


def all_widths(product: Product) -> bool:
    return product.kind != MIXED


def feed_forward(product: Product) -> bool:
    return product.kind in ("geglu", "out")


def wide_feed_forward(product: Product) -> bool:
    return feed_forward(product) and product.width > 320


#: The most important first.
FORMS: Final = (
    Form("as it is"),
    Form("fp8, feed-forward, 640 and wider", float8=wide_feed_forward),
    Form("fp8, all widths", float8=all_widths),
    Form("fp8, feed-forward", float8=feed_forward),
    Form("products tuned", PRODUCTS_TUNED),
    Form(
        "products tuned, fetched by blocks", {**PRODUCTS_TUNED, "triton.enable_persistent_tma_matmul": True}
    ),
    Form("fp8, 640 and wider", float8=wide),
    Form("fp8 by rows, all widths", float8=all_widths, by_rows=True),
    Form("fp8, all widths, products tuned", PRODUCTS_TUNED, float8=all_widths),
    Form("kernels tuned", {"coordinate_descent_tuning": True}),
    Form("kernels begun early", {"triton.enable_pdl": True}),
    Form("kernels combined", {"combo_kernels": True}),
    Form("reductions tried", {"triton.multi_kernel": 1}),
)


class Plan:
    """The parts, one after another until the time is up."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.device = torch.device(given.device)
        self.on_gpu = self.device.type == "cuda"
        self.half = torch.float16 if self.on_gpu else torch.float32
        self.began = time.perf_counter()
        self.photo = photo_of(860, 860) if given.model == "full" else photo_of(64, 48)
        self.results = Results(given.out / "forms.json", machine(self.device))
        self.forms = [form for form in FORMS if not given.only or form.name in given.only]
        self.compilers: dict[str, BackgroundCompiler] = {}
        self.quick: dict[str, Function] = {}

    def left(self) -> float:
        return float(self.given.budget - (time.perf_counter() - self.began))

    def part(self, name: str, measure: Callable[[], dict[str, Any] | None]) -> None:
        """Keep what it gives, or why it gave nothing."""
        began = time.perf_counter()
        if self.left() < 0:
            found: dict[str, Any] | None = {"skipped": "the time is over"}
        else:
            try:
                found = measure()
            except Exception as error:
                found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        took = time.perf_counter() - began
        if found is not None:
            self.results.put(name, {**found, "took_s": took})
        told = {key: value for key, value in (found or {}).items() if key not in ("kernels", "largest")}
        print(f"{self.left():5.0f} s left  {name} ({took:.1f} s): {str(told)[:600]}", flush=True)

    def run(self) -> None:
        self.part("build", self.build)
        self.part("forms made", self.make)
        self.part("compiling", self.compile)
        self.part("single products", self.single_products)
        for form in self.forms:
            self.part(form.name, lambda form=form: self.measure(form))  # type: ignore[misc]
        self.part("as it stands", lambda: self.of(self.pipeline.network))
        self.part("matrix product", lambda: {"tflops": matrix_rate(self.device, self.half) / 1e12})
        self.results.put("finished", True)

    def build(self) -> dict[str, Any]:
        """The original's picture first, while the model is in float32; then the pipeline of the same model."""
        began = time.perf_counter()
        model = filled_model(params_of(self.given.model)).to(self.device)
        found = {"fill_s": time.perf_counter() - began}
        began = time.perf_counter()
        self.reference = original.render(model, self.photo, COLORS[:1], steps=self.given.steps, seed=1)[0]
        found["original_s"] = time.perf_counter() - began
        one = Constants.of(model, {}, self.device)
        codes, tokens = one.palette.codes.repeat(7, 1), one.palette.tokens.repeat(7, 1, 1)
        constants = Constants(Palette(COLORS, codes, tokens), one.text)  # one light under seven names
        self.pipeline = Pipeline(model, constants, device=self.device, dtype=self.half)
        if self.on_gpu:
            torch.cuda.empty_cache()
            found["weights_gb"] = torch.cuda.memory_allocated() / 1e9
        return found

    @torch.inference_mode()
    def make(self) -> dict[str, Any]:
        """The networks of all forms; each shares the numbers that stay with the first."""
        self.networks: dict[str, StepNetwork] = {}
        began = time.perf_counter()
        largest = largest_inputs(self.pipeline.network, self.seen())
        found: dict[str, Any] = {"watched_s": time.perf_counter() - began, "largest": largest}
        made: dict[tuple[Any, ...], StepNetwork] = {}
        for form in self.forms:
            key = (form.float8, form.by_rows)
            if key not in made:
                made[key] = network = sharing(self.pipeline.network)
                if form.float8 is not None:
                    found[f"{form.name}, products"] = use_float8(
                        network, form.float8, None if form.by_rows else largest
                    )
            self.networks[form.name] = made[key]
        return found

    def seen(self) -> list[tuple[Tensor, ...]]:
        """Steps of a render whose end is known: the photo itself."""
        conditions = self.pipeline.conditions(self.photo, COLORS[:1])
        z, noise = self.pipeline.encode(self.photo), self.pipeline.noise(2).to(self.device)
        runs = []
        for at in SEEN_AT:
            t = torch.tensor([at], device=self.device)
            x = self.pipeline.schedule.add_noise(z, noise, t)
            runs.append((x, t, conditions.hint_features, conditions.keys_values))
        return runs

    def compile(self) -> dict[str, Any]:
        """All forms at once, until all are there or their share of the time is over."""
        if self.given.compile == "off":
            self.quick = dict(self.networks)
            return {"off": True}
        began, ready = time.perf_counter(), {}
        for form in self.forms:
            task = step_task(self.pipeline, self.given.size, self.networks[form.name])

            def keep(quick: Function, name: str = form.name) -> None:
                self.quick[name] = quick
                ready[name] = time.perf_counter() - began

            task = replace(task, name=form.name, install=keep, tolerance=TOLERANCE)
            cache = AheadOfTime(self.folder / "cache", options=form.options)
            self.compilers[form.name] = BackgroundCompiler([task], cache, slots=len(task.parts))
        until = self.given.budget * self.given.share
        while time.perf_counter() - self.began < until and not all(
            compiler.wait(0.2) for compiler in self.compilers.values()
        ):
            pass
        late = [name for name in self.compilers if name not in self.quick]
        for compiler in self.compilers.values():
            compiler.close()
        return {"ready_s": ready, "not ready": late}

    def measure(self, form: Form) -> dict[str, Any]:
        function = self.quick.get(form.name)
        if function is None:
            return {"failed": "it could not be compiled, or not in time; see above"}
        return self.of(function)

    def of(self, function: Function) -> dict[str, Any]:
        """Milliseconds, error and kernels of the step, and the PSNR of a picture."""
        with torch.inference_mode():
            inputs = step_task(self.pipeline, self.given.size).inputs()
        found = timed(function, inputs, self.pipeline.network, self.device)
        stepper = Stepper(function, sizes=(self.given.size,), capture=CudaCapture() if self.on_gpu else None)
        usual, self.pipeline.stepper = self.pipeline.stepper, stepper
        try:
            pictures = self.pipeline.relight(
                self.photo, COLORS[: self.given.size], seed=1, steps=self.given.steps
            )
            worst = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        finally:
            self.pipeline.stepper = usual
        return {**found, "worst_db": min(worst, 999.0)}

    @torch.inference_mode()
    def single_products(self) -> dict[str, Any]:
        """Microseconds of every product of a transformer, by itself, in half precision and in float8."""
        side, width = self.pipeline.params.image_size, self.pipeline.params.unet.model_channels
        found: dict[str, Any] = {}
        for level, mult in enumerate(self.pipeline.params.unet.channel_mult):
            rows, k = self.given.size * (side >> level) ** 2, mult * width
            shapes = {"qkv": (k, 3 * k), "square": (k, k), "geglu": (k, 8 * k), "out": (4 * k, k)}
            for kind, (before, after) in shapes.items():
                name = f"{kind}: {rows} x {before} -> {after}"
                try:
                    found[name] = self.single(rows, before, after)
                except Exception as error:
                    found[name] = f"{type(error).__name__}: {error}"[:300]
        return found

    def single(self, rows: int, before: int, after: int) -> dict[str, float]:
        x = torch.randn(rows, before, device=self.device, dtype=self.half)
        layer = torch.nn.Linear(before, after, device=self.device, dtype=self.half)
        fixed = Float8Linear(layer.weight, layer.bias, input_scale(5.0, self.device))
        by_rows = Float8Linear(layer.weight, layer.bias, None)
        x8 = x.to(torch.float8_e4m3fn)
        one, scales = fixed.input_scale, torch.ones(rows, 1, device=self.device)
        ways: dict[str, Callable[[], Any]] = {
            "half": lambda: layer(x),
            "fp8": lambda: scaled(x8, fixed, one, self.half),
            "fp8 by rows": lambda: scaled(x8, by_rows, scales, self.half),
        }
        found = {}
        for name, way in ways.items():
            try:
                found[name] = self.microseconds(way)
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"[:300]  # type: ignore[assignment]
        return found

    def microseconds(self, function: Callable[[], Any], times: int = 20) -> float:
        def run() -> Tensor:
            for _ in range(times):
                out = function()
            return out

        replay = CudaCapture()(run) if self.on_gpu else run
        return seconds(replay, self.device, 5)["min"] / times * 1e6

    def summary(self) -> None:
        rows = []
        for form in (*self.forms, Form("as it stands")):
            found = self.results.tree.get(form.name, {})
            kinds = found.get("kernels", {}).get("by_kind", {})
            figures = ("ms", "min_ms", "relative_error", "worst_db", "allocated_gb")
            times = (kinds.get(kind, {}).get("ms") for kind in KINDS)
            rows.append(
                [form.name, *(found.get(key) for key in figures), *times, found.get("failed", "")[:60]]
            )
        head = ["form", "ms", "least", "relative error", "picture, dB", "GB", *KINDS, ""]
        print(f"\n{table(head, rows)}\n", flush=True)


KINDS: Final = ("convolution", "matrix product", "attention", "fused by the compiler", "copy", "other")


def scaled(x: Tensor, layer: Float8Linear, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    assert scale is not None
    return torch._scaled_mm(x, layer.weight.t(), scale, layer.weight_scale, bias=layer.bias, out_dtype=dtype,
                            use_fast_accum=True)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--model", default="full", choices=("full", "nano"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", default="on", choices=("on", "off"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=7, choices=range(1, 8), help="pictures in a step")
    parser.add_argument("--only", nargs="*", choices=[form.name for form in FORMS])
    parser.add_argument("--budget", type=float, default=240.0, help="seconds in all")
    parser.add_argument("--share", type=float, default=0.72, help="of the time, until compiling is given up")
    given = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    folder = Path(tempfile.mkdtemp(prefix="lumiply-forms-"))
    plan = Plan(given, folder)
    try:
        plan.run()
    finally:
        for compiler in plan.compilers.values():
            compiler.close()
        plan.summary()
        synchronize(plan.device)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # what is being compiled is not waited for
