"""What matrix products in fp8 would do to the pictures, without a GPU that computes in it.

    python -m benchmarks.fp8 --model mini --steps 50
    python -m benchmarks.fp8 --model full --device cuda --products engine
    python -m benchmarks.fp8 --model full --device cpu --parts

In every linear layer of the step (queries, keys, values, outputs, feed-forwards, projections), inputs and weights are
rounded to float8 e4m3, as a product of scaled fp8 matrices would take them, with a scale of its own for every row of
both, which is the finest that such products know. Sums stay as they are. Convolutions and attention are left alone.
With `--products engine` only those that an engine computes in float8, as it computes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.bench import photo_of
from benchmarks.forms import feed_forward
from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from cldm import StepConditions, StepNetwork
from ldm.float8 import Float8Linear
from lumiply.colors import COLORS
from lumiply.engine.compiling import relative_error
from lumiply.engine.convert import picture_psnr
from lumiply.engine.float8 import Product, largest_inputs, sharing, use_float8, wide
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
    """Likewise, with the wide transformers in float8, as an engine computes them, however near that is."""
    usual, usual_network = pipeline.stepper, pipeline.network
    pipeline.network = sharing(pipeline.network)
    pipeline.use_float8(limit=float("inf"))
    products = sum(isinstance(module, Float8Linear) for module in pipeline.network.modules())
    pipeline.stepper = Stepper(pipeline.network)
    try:
        return pipeline.denoise(conditions, pipeline.noise(1), steps), products
    finally:
        pipeline.stepper, pipeline.network = usual, usual_network


def parts(network: StepNetwork) -> dict[str, Callable[[Product], bool]]:
    """Products of a step, by what they are."""
    width = network.unet.params.model_channels  # of the finest maps
    widths = {"the finest maps": (width, width), "maps twice as wide": (2 * width, 2 * width),
              "wider maps": (2 * width + 1, 10**9)}  # fmt: skip
    return {
        "feed-forwards": feed_forward,
        "GEGLU products": lambda product: product.kind == "geglu",
        "products after GEGLU": lambda product: product.kind == "out",
        **{
            f"feed-forwards of {name}": partial(_between, least, most)
            for name, (least, most) in widths.items()
        },
        "as the engine": wide(network),
        "all but those after attention": lambda product: product.kind != "mixed",
    }


def _between(least: int, most: int, product: Product) -> bool:
    return feed_forward(product) and least <= product.width <= most


@torch.inference_mode()
def errors(pipeline: Pipeline) -> dict[str, float]:
    """The relative error of a step of one picture with each of `parts` in float8."""
    conditions = pipeline.conditions(photo_of(860, 860), pipeline.palette.names[:1])
    x = pipeline.noise(0).to(pipeline.device)
    at = [torch.tensor([t], device=pipeline.device) for t in (981, 500, 1)]
    runs = [(x, t, conditions.hint_features, conditions.keys_values) for t in at]
    largest, exact = largest_inputs(pipeline.network, runs), pipeline.network(*runs[1])
    found = {}
    for name, wanted in parts(pipeline.network).items():
        network = sharing(pipeline.network)
        if use_float8(network, wanted, largest):
            found[name] = relative_error(network(*runs[1]), exact)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", choices=("full", "mini"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="of what is not fp8")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--colors", nargs="+", default=["white", "red"], choices=COLORS)
    parser.add_argument("--products", default="all", choices=("all", "engine"))
    parser.add_argument("--parts", action="store_true", help="what parts of the step cost, one step each")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    dtype = choose_precision(given.precision, device)
    chosen = subject(given.model)
    pipeline = chosen.pipeline(device, dtype, dtype)
    results = Results(given.out, {**machine(device), "weights": chosen.weights})
    if given.parts:
        results.put("step", found_errors := errors(pipeline))
        print(table(["in float8", "relative error of a step"], [[*row] for row in found_errors.items()]))
        return
    prepared = pipeline.prepare(photo_of(860, 860), given.colors)
    denoised = {"all": by_rounding, "engine": as_the_engine}
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
