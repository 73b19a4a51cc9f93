"""How fast a model renders, beside the published way in the same run.

    lumiply bench --model mini                          two CPU cores
    lumiply bench --model full --out runs/bench.json    a GPU

Prints tables; with --out also writes everything as JSON, after each part, so that a run that is cut short keeps what
it has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import original
from benchmarks.measure import Results, flop, machine, matrix_rate, peak_memory, seconds, synchronize, table
from benchmarks.models import Subject, subject
from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.presets import PRESETS
from lumiply.engine.protocol import EngineInfo
from lumiply.engine.start import MAX_BATCH, choose_device, choose_numbers, speed_up
from lumiply.images import encode_jpeg
from lumiply.settings import Settings
from tests.golden.fill import golden_photo

#: Longest that a background compilation is waited for before anything is timed.
PATIENCE_S = 3600.0


def photo_of(width: int, height: int) -> Image.Image:
    """The golden photo at a size."""
    pixels = (golden_photo(height, width) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


class Bench:
    """One model on one device, and where its results go."""

    def __init__(self, subject: Subject, settings: Settings, results: Results, *, quick: bool) -> None:
        self.subject, self.settings, self.results, self.quick = subject, settings, results, quick
        self.device = choose_device(settings.device)
        self.numbers = choose_numbers(settings, self.device, full=subject.full)
        self.dtype = self.numbers.dtype
        self.repeats = 2 if quick else 10
        self.steps = 2 if quick else settings.steps or subject.steps
        self.photo = photo_of(860, 860)
        self.encoders = ThreadPoolExecutor(8)

    def load(self) -> None:
        """Seconds to a pipeline and to a first picture, with nothing compiled."""
        began = time.perf_counter()
        self.pipeline = self.subject.on(self.device, self.numbers)
        loaded = time.perf_counter()
        self.pipeline.relight(self.photo, COLORS[:1], seed=1, steps=self.steps)
        self.results.put(
            "load",
            {"ready_s": loaded - began, "first_image_s": time.perf_counter() - loaded, "steps": self.steps,
             "float8": self.pipeline.float8},
        )  # fmt: skip
        compiler = speed_up(self.pipeline, self.settings)
        if compiler is not None:
            began = time.perf_counter()
            compiler.wait(PATIENCE_S)
            self.results.put("compile_s", time.perf_counter() - began)
        self.open()

    def open(self) -> None:
        """An engine over the pipeline."""
        info = EngineInfo("bench", self.subject.weights, "", str(self.device), str(self.dtype), 0, self.steps)
        most = self.settings.max_batch or MAX_BATCH[self.device.type]
        self.engine = LocalEngine(self.pipeline, info, max_batch=most, queue_size=100)

    def request(
        self,
        colors: int,
        *,
        photos: int = 1,
        photo: Image.Image | None = None,
        preset: str | None = None,
        steps: int | None = None,
    ) -> None:
        """From decoded photos to JPEG bytes: `photos` requests at once, of `colors` colours each."""
        futures = [
            self.engine.submit(photo or self.photo, COLORS[:colors], seed=seed, preset=preset, steps=steps)
            for seed in range(photos)
        ]
        encoded = [
            # each request's pictures when they are there, as a server does
            self.encoders.submit(encode_jpeg, picture)
            for future in futures
            for picture in future.result().values()
        ]
        for one in encoded:
            one.result()

    def end_to_end(self) -> list[list[Any]]:
        """One, seven and fourteen colour-images, and 28: two and four photos at once."""
        rows, found = [], {}
        for images in (1, 7, 14, 28):
            colors, photos = min(images, 7), max(1, images // 7)
            with peak_memory(self.device) as memory:
                time_s = seconds(
                    lambda c=colors, p=photos: self.request(c, photos=p), self.device, self.repeats
                )  # type: ignore[misc]
            found[str(images)] = {**time_s, **memory, "images_per_s": images / time_s["median"]}
            rows.append(
                [images, time_s["median"], time_s["min"], time_s["max"], images / time_s["median"],
                 memory.get("allocated_gb"), memory.get("reserved_gb")]
            )  # fmt: skip
        self.results.put("end_to_end", found)
        return rows

    def stages(self) -> list[list[Any]]:
        """Where the time goes, and how near the device's own rate the arithmetic comes."""
        rate = matrix_rate(self.device, self.dtype)
        rows: list[list[Any]] = []
        found: dict[str, Any] = {"matrix_product_tflops": rate / 1e12}
        for images in (1, 7, 14):
            one = self._stages_of(images, rate)
            found[str(images)] = one
            rows.append([images, *one.values()])
        self.results.put("stages", found)
        return rows

    def _stages_of(self, images: int, rate: float) -> dict[str, float]:
        pipeline: Pipeline = self.pipeline
        colors = [COLORS[index % 7] for index in range(images)]
        prepared, noise = pipeline.prepare(self.photo, colors), pipeline.noise(1)
        z = pipeline.denoise(prepared.conditions, noise, self.steps)
        pictures = [self.photo] * images

        def measure(function: Callable[[], Any]) -> float:
            return seconds(function, self.device, self.repeats)["median"]

        prepare = measure(lambda: pipeline.prepare(self.photo, colors))
        denoise = measure(lambda: pipeline.denoise(prepared.conditions, noise, self.steps))
        decode = measure(lambda: pipeline.decode(z, prepared.features))
        encode = measure(lambda: list(self.encoders.map(encode_jpeg, pictures)))
        step, work = denoise / self.steps, self._step_flop(images)
        return {
            "prepare_s": prepare,
            "denoise_s": denoise,
            "decode_s": decode,
            "encode_s": encode,
            "ms_per_step": step * 1e3,
            "tflops": work / step / 1e12,
            "share_of_matrix_product": work / step / rate,
        }

    @torch.inference_mode()
    def _step_flop(self, images: int) -> int:
        pipeline = self.pipeline
        conditions = pipeline.conditions(self.photo, COLORS[:1])
        x = pipeline.noise(1).to(self.device)
        t = torch.zeros(1, dtype=torch.long, device=self.device)
        inputs = (x, t, conditions.hint_features, conditions.keys_values)
        return images * flop(lambda: pipeline.network(*inputs))

    def against_the_original(self) -> list[list[Any]]:
        """The published way in the same run, at the same steps and, for few colours, counted up to seven."""
        model = self.subject.plain().to(self.device)
        steps = self.steps

        def way(steps: int, repeats: int) -> float:
            function = lambda: original.render(model, self.photo, COLORS[:1], steps=steps, seed=1)  # noqa: E731
            return 7 * seconds(function, self.device, repeats)["median"]

        ours = seconds(lambda: self.request(7), self.device, self.repeats)["median"]
        same = way(steps, 1 if self.quick else 3)
        found = {"ours_s": ours, "steps": steps, "original_s": same, "ratio": same / ours}
        rows = [[f"both {steps} steps", same, ours, same / ours]]
        published = PRESETS["exact"].steps
        if steps != published and not self.quick:
            theirs = way(published, 1)
            alike = seconds(lambda: self.request(7, steps=published), self.device, 1, warm_up=0)["median"]
            found |= {
                "original_50_steps_s": theirs,
                "ratio_to_50_steps": theirs / ours,
                "ours_50_steps_s": alike,
                "ratio_both_50_steps": theirs / alike,
            }
            rows.append([f"both {published} steps", theirs, alike, theirs / alike])
            rows.append([f"original {published} steps, ours {steps}", theirs, ours, theirs / ours])
        self.results.put("original", found)
        return rows

    def growth(self) -> list[list[Any]]:
        """With colours, with photos at once, and with the photo's size."""
        repeats = max(1, self.repeats // 3)
        small = (1, 7) if self.quick else range(1, 8)
        sizes = ((640, 480),) if self.quick else ((512, 512), (1024, 768), (2048, 1536), (4000, 3000))
        photos = [photo_of(*size) for size in sizes]
        runs: list[tuple[str, Any]] = [
            *((f"{c} colours", lambda c=c: self.request(c)) for c in small),
            *((f"{p} photos, 7 colours each", lambda p=p: self.request(7, photos=p)) for p in (2, 4)),
            *(
                (
                    f"{photo.width} x {photo.height}, 7 colours",
                    lambda photo=photo: self.request(7, photo=photo),
                )
                for photo in photos
            ),
        ]
        found = {name: seconds(function, self.device, repeats)["median"] for name, function in runs}
        self.results.put("growth", found)
        return [[name, value] for name, value in found.items()]

    def presets(self) -> list[list[Any]]:
        """Seven colours by each preset."""
        steps = self.steps if self.quick else None
        found = {
            name: seconds(
                lambda name=name: self.request(7, preset=name, steps=steps),  # type: ignore[misc]
                self.device,
                max(1, self.repeats // 3),
            )["median"]
            for name in PRESETS
        }
        self.results.put("presets", found)
        return [[name, PRESETS[name].sampler, PRESETS[name].steps, value] for name, value in found.items()]

    def close(self) -> None:
        self.engine.close()
        self.encoders.shutdown()
        synchronize(self.device)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    precisions = ("auto", "float32", "float16", "bfloat16", "float8")
    compiling = ("auto", "off", "background")
    add = parser.add_argument
    add(
        "--model",
        default="auto",
        choices=("auto", "full", "mini"),
        help="full (published weights), mini (embedded), or auto",
    )
    add("--device", default="auto", metavar="NAME", help="where it runs; auto takes a GPU if there is one")
    add("--precision", default="auto", choices=precisions, help="numbers that the model computes in")
    add(
        "--compile",
        default="auto",
        choices=compiling,
        help="whether the networks are compiled; auto: on a GPU",
    )
    add("--steps", type=int, metavar="NUMBER", help="denoising steps; by default the model's own")
    add(
        "--max-batch",
        type=int,
        metavar="NUMBER",
        help="pictures denoised at once; by default what suits the device",
    )
    add("--ckpt-dir", type=Path, default=Path("ckpt"), metavar="DIR", help="folder of the model's weights")
    add("--adaptors-dir", type=Path, default=Path("adaptors"), metavar="DIR", help="folder of the adaptors")
    add("--out", type=Path, metavar="FILE", help="write all results there, as JSON")
    add("--quick", action="store_true", help="two steps, few runs: shows that it works, gives no figures")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="lumiply bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    given = parser.parse_args(arguments)
    settings = Settings(
        model=given.model, device=given.device, precision=given.precision, compile=given.compile,
        steps=given.steps, max_batch=given.max_batch,
    )  # fmt: skip
    device = choose_device(settings.device)
    chosen = subject(given.model, given.ckpt_dir, given.adaptors_dir)
    results = Results(given.out, {**machine(device), "weights": chosen.weights, "quick": given.quick})
    bench = Bench(chosen, settings, results, quick=given.quick)
    results.put("precision", f"{bench.dtype}, first stage {bench.numbers.decode_dtype}".replace("torch.", ""))
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}, {tree['threads']} threads, "
        f"torch {tree['torch']}\n"
        f"{chosen.weights}; {tree['precision']}; {bench.steps} steps; photo 860 x 860"
    )
    bench.load()
    load, float8 = tree["load"], ", wide transformers in float8" if bench.pipeline.float8 else ""
    print(f"ready in {load['ready_s']:.1f} s, first picture {load['first_image_s']:.2f} s later{float8}")
    parts = (
        ("From decoded photo to JPEG bytes",
         ["pictures", "s, median", "min", "max", "pictures/s", "GB, tensors", "GB, reserved"], bench.end_to_end),
        ("Where the time goes",
         ["pictures", "prepare s", "denoise s", "decode s", "encode s", "ms a step", "TFLOP/s",
          "of a matrix product's rate"], bench.stages),
        ("Seven colours against the published way", ["", "original s", "ours s", "ratio"],
         bench.against_the_original),
        ("Seven colours by preset", ["preset", "sampler", "steps", "s"], bench.presets),
        ("Growth", ["", "s"], bench.growth),
    )  # fmt: skip
    for title, head, part in parts:
        print(f"\n{title}\n\n{table(head, part())}", flush=True)
    bench.close()
    return 0
