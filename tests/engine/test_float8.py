"""Products in float8 are those of rounded numbers, where they are wanted, and leave the rest as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.float8 import LARGEST, MARGIN, Float8Linear, input_scale, row_scales, to_float8
from lumiply.engine.compiling import relative_error
from lumiply.engine.convert import picture_psnr
from lumiply.engine.float8 import (
    largest_inputs,
    products,
    sharing,
    use_float8,
    uses_float8,
    wide,
)
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.tasks import FLOAT8_TOLERANCE, step_task
from tests.nano import nano_adaptor, nano_model, nano_pipeline


def layer_and_input(dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(2)
    layer = torch.nn.Linear(64, 48, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(48, 64, generator=generator) * torch.logspace(-2, 1, 48)[:, None])
        layer.bias.copy_(torch.randn(48, generator=generator))
    return layer, torch.randn(2, 5, 64, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@torch.no_grad()
def test_a_layer_multiplies_rounded_inputs_with_rounded_weights(dtype):
    layer, x = layer_and_input(dtype)
    scale = input_scale(float(x.abs().max()), x.device)
    ours = Float8Linear(layer.weight, layer.bias, scale)
    weight_scale = row_scales(layer.weight).amax()
    weight = to_float8(layer.weight, weight_scale).float() * weight_scale
    expected = F.linear(to_float8(x, scale).float() * scale, weight, layer.bias.float())
    found = ours(x)
    assert found.dtype is dtype and found.shape == (2, 5, 48)
    assert torch.allclose(found.float(), expected, rtol=2e-3, atol=1e-2)
    assert 0.001 < relative_error(found, layer(x)) < 0.05


@torch.no_grad()
def test_with_a_scale_for_every_row_a_row_does_not_depend_on_the_others():
    layer, x = layer_and_input()
    ours = Float8Linear(layer.weight, layer.bias, None)
    beside = torch.cat([x[:1], 1000 * x[1:]])
    assert torch.equal(ours(x)[0], ours(beside)[0])
    assert relative_error(ours(x), layer(x)) < 0.05


def test_what_is_too_large_is_cut_and_is_no_infinity():
    scale = input_scale(1.0, torch.device("cpu"))
    seen = to_float8(torch.tensor([1.0, MARGIN, 10 * MARGIN, -1e9]), scale).float()
    assert seen.tolist() == [LARGEST / MARGIN, LARGEST, LARGEST, -LARGEST]


def test_sizes_that_gpus_do_not_multiply_are_refused():
    with pytest.raises(ValueError, match="multiples of 16, got \\[40, 64\\]"):
        Float8Linear(torch.zeros(40, 64), None, None)


@torch.inference_mode()
def test_a_product_is_given_rows_of_numbers_that_follow_each_other(monkeypatch):
    """cuBLASLt takes no others, and one picture's map may lie channel by channel."""
    layouts, multiply = [], torch._scaled_mm

    def watched(rows: Tensor, *rest: object, **options: object) -> Tensor:
        layouts.append(rows.stride())
        return multiply(rows, *rest, **options)

    monkeypatch.setattr(torch, "_scaled_mm", watched)
    layer = Float8Linear(torch.randn(32, 64), None, input_scale(4.0, torch.device("cpu")))
    layer(torch.randn(1, 64, 16).transpose(1, 2))
    assert layouts == [(64, 1)]


def test_a_network_that_shares_the_numbers_of_another_leaves_it_as_it_was():
    pipeline = nano_pipeline()
    inputs = step_task(pipeline, 2).inputs()
    before = pipeline.network(*inputs)
    largest = largest_inputs(pipeline.network, [inputs])
    assert largest.keys() == {product.name for product in products(pipeline.network)}
    coarse = sharing(pipeline.network)
    assert use_float8(coarse, lambda product: True, largest) == len(largest)
    assert uses_float8(coarse) and not uses_float8(pipeline.network)
    assert 0.01 < relative_error(coarse(*inputs), before) < 0.2
    assert torch.equal(pipeline.network(*inputs), before)


@pytest.fixture(scope="module")
def coarse() -> Pipeline:
    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")})
    assert pipeline.use_float8(limit=0.1)
    return pipeline


def test_what_does_not_follow_an_attention_is_computed_in_float8_and_nothing_else(coarse):
    in_float8 = {n for n, module in coarse.network.named_modules() if isinstance(module, Float8Linear)}
    wanted = {product.name for product in products(nano_pipeline().network) if product.kind != "mixed"}
    assert in_float8 == wanted and len(wanted) == 36  # the finest maps of this model have no transformers


def test_those_of_the_finest_maps_are_not_wide():
    network = nano_pipeline().network
    wanted = wide(network)
    some = next(product for product in products(network) if product.kind == "geglu")
    assert wanted(some) and not wanted(replace(some, width=32)) and not wanted(replace(some, kind="mixed"))


def test_pictures_are_near_those_of_full_precision(coarse):
    photo = Image.radial_gradient("L").convert("RGB").resize((40, 30))
    ours = coarse.relight(photo, ["red"], seed=1, steps=10)["red"]
    exact = nano_pipeline().relight(photo, ["red"], seed=1, steps=10)["red"]
    assert 35 < picture_psnr(ours, exact) < 70


def test_compiled_float8_may_round_a_little_otherwise(coarse):
    assert step_task(coarse, 1).tolerance == FLOAT8_TOLERANCE > step_task(nano_pipeline(), 1).tolerance


def test_what_would_change_a_step_too_much_is_not_used(caplog):
    ours = Pipeline(nano_model(), {})
    assert not ours.use_float8(limit=1e-6) and not uses_float8(ours.network)
    assert "would change a step by" in caplog.text and "not less than 1e-06" in caplog.text


def test_a_pipeline_that_tries_float8_says_whether_it_uses_it(monkeypatch, caplog):
    used = Pipeline.use_float8
    monkeypatch.setattr(Pipeline, "use_float8", lambda self: used(self, 0.1))
    assert Pipeline(nano_model(), {}, float8=True).float8
    assert not Pipeline(nano_model(), {}).float8
    monkeypatch.setattr(Pipeline, "use_float8", lambda self: used(self, 1e-6))
    assert not Pipeline(nano_model(), {}, float8=True).float8

    def refuse(self: Pipeline) -> bool:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(Pipeline, "use_float8", refuse)
    assert not Pipeline(nano_model(), {}, float8=True).float8
    assert "cannot be computed here" in caplog.text


def test_a_pipeline_without_memory_to_try_float8_renders_without_it(monkeypatch, caplog):
    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lumiply.engine.pipeline.largest_inputs", full)
    pipeline = Pipeline(nano_model(), {"red": nano_adaptor("red")}, float8=True)
    assert not pipeline.float8 and not uses_float8(pipeline.network)
    assert "no memory to try float8" in caplog.text


def test_a_network_that_is_in_float8_in_part_is_not_taken_for_one_that_is_not(monkeypatch):
    used = Pipeline.use_float8

    def in_part(self: Pipeline) -> bool:
        assert used(self, 0.1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pipeline, "use_float8", in_part)
    with pytest.raises(torch.OutOfMemoryError):
        Pipeline(nano_model(), {}, float8=True)
