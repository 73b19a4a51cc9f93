"""Which products of the step are computed in float8, and the scales of what goes into them.

Products inside the transformer blocks only, of inputs that the kernel before can round for nothing: what a norm,
a GEGLU or a sum of a residual gives. What attention gives would need a kernel of its own and is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cldm import StepNetwork
from ldm.attention import BasicTransformerBlock, CrossAttention, SpatialTransformer
from ldm.float8 import Float8Linear, input_scale

#: Kinds of products in a transformer.
KINDS = ("qkv", "query", "geglu", "out", "proj_in", "proj_out", "mixed")


@dataclass(frozen=True)
class Product:
    """A product of the step.

    Attributes:
        name: of its place in the network.
        kind: one of `KINDS`: "geglu" and "out" are the feed-forward's, "mixed" what follows an attention.
        width: channels of its feature map.
        watched: the module whose first input is the product's.
        weight, bias: what it multiplies with and adds.
        put: puts another layer in its place.
    """

    name: str
    kind: str
    width: int
    watched: nn.Module
    weight: Tensor
    bias: Tensor | None
    put: Callable[[nn.Module], None]


def wide(network: StepNetwork) -> Callable[[Product], bool]:
    """Of all feature maps but the finest, whose products cost more of a picture than all others together, for less.

    Not those after an attention: to round what it gives would need a kernel of its own.
    """
    finest = network.unet.params.model_channels
    return lambda product: product.kind != "mixed" and product.width > finest


def products(network: StepNetwork) -> list[Product]:
    """All products in transformers whose weights the network has packed, in the order of their modules."""
    return [
        product
        for name, module in network.named_modules()
        if isinstance(module, SpatialTransformer)
        for product in _of_transformer(name, module)
    ]


def _of_transformer(name: str, module: SpatialTransformer) -> Iterator[Product]:
    width = module.proj_in.in_features

    def linear(kind: str, place: str, parent: nn.Module, child: str) -> Product:
        layer = getattr(parent, child)
        return Product(f"{name}.{place}", kind, width, layer, layer.weight, layer.bias,
                       lambda new: setattr(parent, child, new))  # fmt: skip

    yield linear("proj_in", "proj_in", module, "proj_in")
    for index, block in enumerate(module.transformer_blocks):
        assert isinstance(block, BasicTransformerBlock)
        first, second, ff = block.attn1, block.attn2, block.ff
        place = f"transformer_blocks.{index}"
        if first.packed is not None:
            put = partial(_put_qkv, first)
            yield Product(f"{name}.{place}.attn1.to_qkv", "qkv", width, first, first.packed, None, put)
        yield linear("mixed", f"{place}.attn1.to_out.0", first.to_out, "0")
        yield linear("query", f"{place}.attn2.to_q", second, "to_q")
        yield linear("mixed", f"{place}.attn2.to_out.0", second.to_out, "0")
        yield linear("geglu", f"{place}.ff.net.0.proj", ff.net[0], "proj")
        yield linear("out", f"{place}.ff.net.2", ff.net, "2")
    yield linear("proj_out", "proj_out", module, "proj_out")


def _put_qkv(attention: CrossAttention, layer: nn.Module) -> None:
    attention.to_qkv = layer
    attention.packed = None
    for name in ("to_q", "to_k", "to_v"):
        getattr(attention, name).to("meta")


@torch.no_grad()
def largest_inputs(network: StepNetwork, runs: Iterable[Sequence[Tensor]]) -> dict[str, float]:
    """By product, the largest number that goes into it while the network does `runs`, as it stands."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            largest = given[0].abs().amax()
            found[name] = torch.maximum(found[name], largest) if name in found else largest

        return note

    handles = [
        product.watched.register_forward_pre_hook(watch(product.name)) for product in products(network)
    ]
    try:
        for inputs in runs:
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(largest) for name, largest in found.items()}


def sharing(network: StepNetwork) -> StepNetwork:
    """The same network, of the same numbers in the same memory, whose layers may be put into others' places."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, tensors)


def use_float8(
    network: StepNetwork, wanted: Callable[[Product], bool], largest: dict[str, float] | None
) -> int:
    """Put float8 layers in the places of the products that are `wanted`; how many.

    Args:
        largest: of `largest_inputs`; without it, every row of an input gets a scale of its own.
    """
    chosen = [product for product in products(network) if wanted(product)]
    for product in chosen:
        scale = None if largest is None else input_scale(largest[product.name], product.weight.device)
        product.put(Float8Linear(product.weight, product.bias, scale))
    return len(chosen)


def uses_float8(network: nn.Module) -> bool:
    """Whether some of its layers are."""
    return any(isinstance(module, Float8Linear) for module in network.modules())
