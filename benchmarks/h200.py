"""Everything to be measured on a GPU at full size, in one command of at most nine minutes.

    python -m benchmarks.h200 --out DIR

Weights are filled by name. Writes DIR/h200.json after every variant, the slowest to prepare last, so that a run
that is cut short keeps what it has: pictures against float32, the step and the decoder eager, captured, compiled,
compiled and captured, with doubling packed or not, memory, loading from a converted file, seven colours end to end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import original
from benchmarks.bench import photo_of
from benchmarks.full_model import filled_model
from benchmarks.measure import Results, flop, machine, matrix_rate, peak_memory, seconds, synchronize
from cldm import ControlLDM, StepConditions
from ldm.layers import Upsample
from lumiply.colors import COLORS
from lumiply.engine.convert import picture_psnr
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.stepper import CudaCapture, StepFunction
from lumiply.weights import Header, load_converted, save_converted
from modi_vae import MergedFeatures

BUDGET_S = 525.0


def plain_model() -> ControlLDM:
    return filled_model()


def compile_step(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, dynamic=False, **options)


class Plan:
    """The variants, run one after another until the time is up."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.device = torch.device(given.device)
        self.steps, self.repeats, self.sizes = given.steps, given.repeats, given.sizes
        self.began, self.budget = time.perf_counter(), given.budget
        self.out: Path = given.out
        self.half = torch.float16 if self.device.type == "cuda" else torch.float32
        self.photo = photo_of(860, 860)
        self.results = Results(self.out / "h200.json", machine(self.device))

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.began)

    def variant(self, name: str, measure: Callable[[], Any], needs_s: float = 5.0) -> None:
        """Run one and keep what it gives, or why it gave nothing."""
        if self.left() < needs_s:
            self.results.put(name, {"skipped": f"{self.left():.0f} s were left of {self.budget:.0f}"})
            return
        began = time.perf_counter()
        try:
            found = measure()
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        took = time.perf_counter() - began
        print(f"{self.left():5.0f} s left  {name}: {found}", flush=True)
        self.results.put(name, {**found, "took_s": took})

    def run(self) -> None:
        self.variant("matrix product", lambda: {"tflops": matrix_rate(self.device, self.half) / 1e12})
        self.build()
        self.variant("original's way, one colour", self.original_way, 30)
        self.pipeline = Pipeline(
            self.model, self.constants, device=self.device, dtype=self.half, decode_dtype=self.half
        )
        self.inputs = {size: self.inputs_of(size) for size in self.sizes}
        self.variant("memory of the weights", self.memory)
        for size in self.sizes:
            self.variant(f"eager {size}", lambda size=size: self.step(size, self.pipeline.network))  # type: ignore[misc]
        self.variant(
            "psnr float16 float16" if self.half is torch.float16 else "psnr float32 float32", self.psnr
        )
        for size in self.sizes:
            self.variant(
                f"eager, captured {size}", lambda size=size: self.captured(size, self.pipeline.network)
            )  # type: ignore[misc]
        for pictures in (1, 2, 7):
            self.variant(f"decode {pictures} at once", lambda n=pictures: self.decode(n))  # type: ignore[misc]
        self.variant("decode 1 at once, doubling not packed", lambda: self.unpacked(lambda: self.decode(1)))
        self.variant("prepare", self.prepare)
        self.variant("converted file", self.converted, 40)
        self.variant("end to end, eager", self.end_to_end)
        for size in self.sizes[:1]:
            self.variant(f"compiled {size}", lambda size=size: self.compiled(size), 90)  # type: ignore[misc]
            self.variant(f"compiled, doubling packed {size}", lambda size=size: self.packed(size), 90)  # type: ignore[misc]
        self.variant("decoder compiled", self.compiled_decoder, 60)
        self.variant("end to end, compiled and captured", self.end_to_end)
        for size in self.sizes[1:]:
            self.variant(f"compiled {size}", lambda size=size: self.compiled(size), 80)  # type: ignore[misc]
        self.variant(
            f"max-autotune {self.sizes[0]}",
            lambda: self.compiled(self.sizes[0], mode="max-autotune-no-cudagraphs"),
            60,
        )
        self.results.put("finished", True)

    def build(self) -> None:
        began = time.perf_counter()
        self.model = plain_model()
        self.results.put("fill_s", time.perf_counter() - began)
        state = {name: value.to("cpu", self.half) for name, value in self.model.state_dict().items()}
        self.stored = state
        self.model.to(self.device)
        self.constants = Constants.of(self.model, {}, self.device)
        names = COLORS  # one light under seven names: the arithmetic of seven colours
        palette = self.constants.palette
        self.constants = Constants(
            Palette(names, palette.codes.repeat(len(names), 1), palette.tokens.repeat(len(names), 1, 1)),
            self.constants.text,
        )

    @torch.inference_mode()
    def original_way(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.reference = original.render(self.model, self.photo, COLORS[:1], steps=self.steps, seed=1)[0]
        synchronize(self.device)
        return {"s": time.perf_counter() - began}

    def psnr(self) -> dict[str, Any]:
        """Against the float32 picture of the original's way."""
        ours = self.pipeline.relight(self.photo, COLORS, seed=1, steps=self.steps)
        values = [picture_psnr(picture, self.reference) for picture in ours.values()]
        return {"worst_db": min(values)}

    @torch.inference_mode()
    def inputs_of(self, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        colors = [COLORS[index % len(COLORS)] for index in range(size)]
        conditions: StepConditions = self.pipeline.conditions(self.photo, colors)
        x = self.pipeline.noise(1).to(self.device).expand(size, -1, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        t = torch.full((size,), 481, dtype=torch.long, device=self.device)
        return x, t, conditions.hint_features, conditions.keys_values

    @torch.inference_mode()
    def step(self, size: int, function: StepFunction) -> dict[str, Any]:
        inputs = self.inputs[size]
        with peak_memory(self.device) as memory:
            time_s = seconds(lambda: function(*inputs), self.device, 10 * self.repeats, warm_up=3)
        work = flop(lambda: self.pipeline.network(*inputs))
        return {
            "ms_per_step": time_s["median"] * 1e3,
            "min_ms": time_s["min"] * 1e3,
            "tflops": work / time_s["median"] / 1e12,
            **memory,
        }

    @torch.inference_mode()
    def captured(self, size: int, function: StepFunction) -> dict[str, Any]:
        inputs = self.inputs[size]
        began = time.perf_counter()
        replay = CudaCapture()(lambda: function(*inputs))
        synchronize(self.device)
        capture_s = time.perf_counter() - began
        return {**self.step(size, lambda *_: replay()), "capture_s": capture_s}

    @torch.inference_mode()
    def compiled(self, size: int, **options: Any) -> dict[str, Any]:
        function = compile_step(self.pipeline.network, **options)
        inputs = self.inputs[size]
        began = time.perf_counter()
        v = function(*inputs)
        synchronize(self.device)
        compile_s = time.perf_counter() - began
        plain = self.pipeline.network(*inputs)
        error = float((v - plain).norm() / plain.norm())
        found = {"compile_s": compile_s, "relative_error": error, "launched": self.step(size, function)}
        found["captured"] = self.captured(size, function)
        if not options:
            self.pipeline.stepper.use(size, function)
        return found

    def packed(self, size: int) -> dict[str, Any]:
        """The UNet's doubling as one transposed convolution."""
        layers = [layer for layer in self.pipeline.network.unet.modules() if isinstance(layer, Upsample)]
        former = self.pipeline.stepper._compiled.copy()
        for layer in layers:
            layer.pack()
        try:
            eager = self.step(size, self.pipeline.network)
            return {"eager": eager, **self.compiled(size)}
        finally:
            for layer in layers:
                layer.kernel = None
            self.pipeline.stepper._compiled = former

    def unpacked(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        decoder = self.pipeline._first_stage.decoder
        layers = [layer for layer in decoder.modules() if isinstance(layer, Upsample)]
        kernels = [layer.kernel for layer in layers]
        for layer in layers:
            layer.kernel = None
        try:
            return measure()
        finally:
            for layer, kernel in zip(layers, kernels, strict=True):
                layer.kernel = kernel

    @torch.inference_mode()
    def decode(self, pictures: int, function: Callable[..., Tensor] | None = None) -> dict[str, Any]:
        """Milliseconds of seven pictures, `pictures` at once."""
        decode = function or self.pipeline._decode_plainly
        features: MergedFeatures = self.pipeline.features(self.photo).expand(pictures)
        z = self.pipeline.noise(1).to(self.device, self.half).expand(pictures, -1, -1, -1)
        z = z.contiguous(memory_format=torch.channels_last)
        inputs = (z, features.image, *features.levels)
        with peak_memory(self.device) as memory:
            time_s = seconds(lambda: decode(*inputs), self.device, 3 * self.repeats, warm_up=2)
        return {"ms_of_seven": 7e3 / pictures * time_s["median"], **memory}

    def compiled_decoder(self) -> dict[str, Any]:
        began = time.perf_counter()
        function = compile_step(self.pipeline._decode_plainly)
        found = self.decode(1, function)
        self.pipeline._decoders[1] = function
        return {**found, "with_compilation_s": time.perf_counter() - began}

    def prepare(self) -> dict[str, Any]:
        conditions = seconds(
            lambda: self.pipeline.conditions(self.photo, COLORS), self.device, 3 * self.repeats
        )
        features = seconds(lambda: self.pipeline.features(self.photo), self.device, 3 * self.repeats)
        return {"conditions_ms": conditions["median"] * 1e3, "features_ms": features["median"] * 1e3}

    def memory(self) -> dict[str, Any]:
        if self.device.type != "cuda":
            return {}
        torch.cuda.empty_cache()
        return {"allocated_gb": torch.cuda.memory_allocated() / 1e9}

    def converted(self) -> dict[str, Any]:
        """Seconds from a converted file, in the page cache, to a pipeline and to a first picture."""
        params = self.model.params
        palette = self.constants.palette
        numbers = {"codes": palette.codes, "tokens": palette.tokens, "text": self.constants.text}
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            began = time.perf_counter()
            paths = save_converted(
                Path(folder), self.stored, numbers, Header("full", "-", palette.names), self.half
            )
            written = time.perf_counter() - began
            size = sum(path.stat().st_size for path in paths)
            began = time.perf_counter()
            stored = load_converted(params, *paths, device=self.device)
            constants = Constants(Palette(stored.colors, stored.codes, stored.tokens), stored.text)
            pipeline = Pipeline(stored.model, constants, device=self.device, dtype=self.half)
            synchronize(self.device)
            ready = time.perf_counter() - began
            began = time.perf_counter()
            picture = pipeline.relight(self.photo, COLORS[:1], seed=1, steps=self.steps)[COLORS[0]]
            first = time.perf_counter() - began
        same = self.pipeline.relight(self.photo, COLORS[:1], seed=1, steps=self.steps)[COLORS[0]]
        return {
            "write_s": written, "gb": size / 1e9, "ready_s": ready, "first_image_s": first,
            "db_to_unconverted": min(picture_psnr(picture, same), 999.0),
        }  # fmt: skip

    def end_to_end(self) -> dict[str, Any]:
        """Decoded photo to pictures, without an engine around it; captured where something is compiled."""
        if self.pipeline.stepper._compiled and self.device.type == "cuda":
            self.pipeline.stepper.capture_with(CudaCapture())
        found: dict[str, Any] = {}
        for count in (1, 7):
            with peak_memory(self.device) as memory:
                found[str(count)] = seconds(
                    lambda n=count: self.pipeline.relight(self.photo, COLORS[:n], seed=1, steps=self.steps),  # type: ignore[misc]
                    self.device,
                    self.repeats,
                    warm_up=2,
                )
            found[str(count)] |= memory
        pictures = self.pipeline.relight(self.photo, COLORS, seed=1, steps=self.steps)
        found["worst_db"] = min(picture_psnr(picture, self.reference) for picture in pictures.values())
        self.save(pictures["white"])
        return found

    def save(self, picture: Image.Image) -> None:
        """The picture and the float32 one side by side, to be looked at."""
        pair = np.concatenate([np.asarray(self.reference), np.asarray(picture)], axis=1)
        Image.fromarray(pair).save(self.out / "pair.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[7, 1, 14], help="batches, the most important first"
    )
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    Plan(given).run()


if __name__ == "__main__":
    main()
