"""What matrix products in fp8 would do to the pictures, without a GPU that computes in it.

    python -m benchmarks.fp8 --model mini --steps 50
    python -m benchmarks.fp8 --model full --device cuda --products feed-forward

In every linear layer of the step (queries, keys, values, outputs, feed-forwards, projections), inputs and weights are
rounded to float8 e4m3, as a product of scaled fp8 matrices would take them, with a scale of its own for every row of
both, which is the finest that such products know. Sums stay as they are. Convolutions and attention are left alone.
With `--products feed-forward` those of the feed-forwards alone, as `LUMIPLY_PRECISION=float8` computes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.bench import photo_of
from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from cldm import StepConditions
from lumiply.colors import COLORS
from lumiply.engine.convert import picture_psnr
from lumiply.engine.float8 import sharing
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import choose_device, choose_precision
from lumiply.engine.stepper import Stepper

#: The largest number of float8 e4m3.
LARGEST: Final = 448.0


def rounded(x: Tensor) -> Tensor:
    """`x` as fp8 with a scale for every last row would hold it, in its own precision."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(1e-12) / LARGEST
    return ((x.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


class Fp8Products(TorchFunctionMode):
    """Within it, linear layers over tokens (three dimensions) take rounded inputs and weights.

    Attributes:
        products: how many did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and args[0].dim() == 3:
            self.products += 1
            args = (rounded(args[0]), rounded(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def by_rounding(pipeline: Pipeline, conditions: StepConditions, steps: int) -> tuple[Tensor, float]:
    """Latents after `steps` with all linear layers rounded, and how many a step that were."""
    with Fp8Products() as mode:
        latents = pipeline.denoise(conditions, pipeline.noise(1), steps)
    return latents, mode.products / steps


def as_the_engine(pipeline: Pipeline, conditions: StepConditions, steps: int) -> tuple[Tensor, float]:
    """Likewise, with the feed-forwards' products in float8, as an engine that is asked for it computes them."""
    usual, usual_network = pipeline.stepper, pipeline.network
    pipeline.network = sharing(pipeline.network)
    products = pipeline.use_float8()
    pipeline.stepper = Stepper(pipeline.network)
    try:
        return pipeline.denoise(conditions, pipeline.noise(1), steps), products
    finally:
        pipeline.stepper, pipeline.network = usual, usual_network


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", choices=("full", "mini"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of what is not fp8")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--colors", nargs="+", default=["white", "red"], choices=COLORS)
    parser.add_argument("--products", default="all", choices=("all", "feed-forward"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    dtype = choose_precision(given.precision, device)
    chosen = subject(given.model)
    pipeline = chosen.pipeline(device, dtype, dtype)
    results = Results(given.out, {**machine(device), "weights": chosen.weights})
    prepared = pipeline.prepare(photo_of(860, 860), given.colors)
    denoised = {"all": by_rounding, "feed-forward": as_the_engine}
    found: dict[str, dict[str, float]] = {}
    for steps in given.steps:
        latents = pipeline.denoise(prepared.conditions, pipeline.noise(1), steps)
        coarse, products = denoised[given.products](pipeline, prepared.conditions, steps)
        if not products:
            raise RuntimeError("no product was rounded: the step has changed")
        levels = [pipeline.decode(z, prepared.features) for z in (latents, coarse)]
        pictures = [[Image.fromarray(each.numpy()) for each in pair] for pair in levels]
        found[str(steps)] = {
            "worst_db": min(picture_psnr(ours, exact) for exact, ours in zip(*pictures, strict=True)),
            "latent_relative_error": float((coarse - latents).norm() / latents.norm()),
            "products_a_step": products,
        }
    results.put("fp8", found)
    rows = [[steps, each["worst_db"], each["latent_relative_error"]] for steps, each in found.items()]
    print(table(["steps", "picture, dB, the worst colour", "latent, relative error"], rows))


if __name__ == "__main__":
    main()
