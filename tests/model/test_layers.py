"""Layers that have a second form for compilers compute the same in it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldm.layers import GroupNorm, join, norm_of_conv


def norm_and_input(dtype: torch.dtype, layout: torch.memory_format) -> tuple[GroupNorm, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    norm = GroupNorm(4, 24, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * torch.randn(24, generator=generator))
        norm.bias.copy_(torch.randn(24, generator=generator))
    x = torch.randn(3, 24, 9, 7, generator=generator)
    x = x * torch.linspace(0.1, 5, 24).view(1, -1, 1, 1) + torch.linspace(-20, 30, 24).view(1, -1, 1, 1)
    return norm.to(dtype), x.to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_moments_by_channel_are_those_of_the_group(layout, most_fused):
    norm, x = norm_and_input(torch.float32, layout)
    exact = F.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    ours = norm.by_channel(x)
    assert float((ours - exact).norm() / exact.norm()) < 1e-6
    assert ours.stride() == x.stride()


@torch.no_grad()
def test_in_half_precision_it_is_rounded_once(layout=torch.channels_last):
    norm, x = norm_and_input(torch.float16, layout)
    ours, exact = norm.by_channel(x), norm.float()(x.float())
    assert ours.dtype is torch.float16
    assert float((ours.float() - exact).abs().max() / exact.abs().max()) < 1e-3


def traced_by(module: torch.nn.Module, *given: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """What a compiled module gives, and the names of what its graph calls."""
    traced: list[str] = []

    def backend(graph: torch.fx.GraphModule, example):
        traced.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    return torch.compile(module, backend=backend, fullgraph=True)(*given), traced


@pytest.fixture(params=[0, 1 << 21], ids=["the kernel's", "the compiler's"])
def most_fused(request, monkeypatch) -> int:
    """Up to which size moments are left to a compiler."""
    monkeypatch.setattr("ldm.moments.MOST_FUSED", request.param)
    torch.compiler.reset()
    return request.param


@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_compiler_gets_the_form_by_channel_and_nobody_else(with_gradients, most_fused):
    norm, x = norm_and_input(torch.float32, torch.channels_last)
    used = "channel_moments" if not with_gradients and most_fused == 0 else "var_mean"
    with torch.set_grad_enabled(with_gradients):
        compiled, traced = traced_by(norm, x)
    assert any(used in name for name in traced) and not any("group_norm" in name for name in traced)
    assert torch.equal(norm(x), F.group_norm(x, 4, norm.weight, norm.bias, norm.eps))
    assert torch.allclose(compiled, norm(x), atol=1e-5)


class NormOfConv(torch.nn.Module):
    def __init__(self, norm: GroupNorm, bias: bool) -> None:
        super().__init__()
        self.norm, self.conv = norm, torch.nn.Conv2d(24, 24, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
        return norm_of_conv(self.norm, self.conv, x, shift)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
@torch.no_grad()
def test_what_is_added_before_a_norm_may_be_added_in_it(bias, shifted, most_fused):
    norm, x = norm_and_input(torch.float32, torch.channels_last)
    module = NormOfConv(norm, bias)
    shift = 9 * torch.randn(3, 24) if shifted else None
    plain = module.conv(x) if shift is None else module.conv(x) + shift[:, :, None, None]
    compiled, traced = traced_by(module, x, shift)
    assert torch.equal(module(x, shift), norm(plain))
    assert float((compiled - norm(plain)).norm() / norm(plain).norm()) < 1e-5
    assert any("channel_moments" in name for name in traced) == (most_fused == 0)


def test_gradients_of_the_form_for_compilers_are_those_of_the_plain_one():
    norm, x = norm_and_input(torch.float32, torch.channels_last)
    module, shift = NormOfConv(norm, bias=True), torch.randn(3, 24)
    gradients = []
    for function in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        inputs = [x.clone().requires_grad_(), shift.clone().requires_grad_()]
        loss = (function(*inputs) * torch.linspace(-1, 1, x.numel()).view_as(x)).square().sum()
        gradients.append(torch.autograd.grad(loss, [*inputs, *module.parameters()]))
    for plain, compiled in zip(*gradients, strict=True):
        assert float((plain - compiled).norm() / plain.norm()) < 1e-4


def test_joined_maps_are_the_same_and_for_a_compiler_channels_last():
    a, b = (torch.randn(2, c, 3, 5).contiguous(memory_format=torch.channels_last) for c in (4, 6))
    seen: list[torch.Tensor] = []

    def backend(graph: torch.fx.GraphModule, example):
        def run(*given: torch.Tensor):
            (joined,) = graph.forward(*given)
            seen.append(joined)
            return (joined,)

        return run

    assert torch.equal(join(a, b), torch.cat([a, b], dim=1))
    compiled = torch.compile(join, backend=backend, fullgraph=True)(a.contiguous(), b)
    assert torch.equal(compiled, join(a, b))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
