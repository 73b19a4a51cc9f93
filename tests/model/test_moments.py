"""Moments of channels, which group norms are made of."""

from __future__ import annotations

import pytest
import torch

from ldm.moments import PROGRAMS, channel_moments, gains, kernel, parts_of


def maps(b: int, pixels: int, c: int, device: str = "cpu") -> torch.Tensor:
    """Channels of very different size, some nearly constant and far from zero."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(b, pixels, c, generator=generator)
    return (x * torch.linspace(1e-3, 4, c) + torch.linspace(-30, 50, c)).to(device)


def exact(x: torch.Tensor, parts: int) -> torch.Tensor:
    return torch.stack(torch.var_mean(x.double().unflatten(1, (parts, -1)), dim=2, correction=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_variances_and_means_of_parts(dtype):
    x = maps(2, 48, 20).to(dtype)
    assert torch.allclose(channel_moments(x, 4).double(), exact(x, 4), rtol=1e-4, atol=1e-7)


def test_an_operation_that_compilers_can_trust():
    torch.library.opcheck(channel_moments, (maps(2, 48, 20), 4))


@pytest.mark.parametrize("batch", [1, 7, 14])
@pytest.mark.parametrize("pixels", [64, 256, 63, 4096])
def test_parts_are_equal_and_as_many_as_keep_a_gpu_busy(batch, pixels):
    parts = parts_of(batch, pixels, 320)
    assert pixels % parts == 0
    assert parts == 1 or pixels // parts >= 16
    could_be_more = pixels % (2 * parts) == 0 and pixels // (2 * parts) >= 16
    assert not could_be_more or parts * batch * 5 >= PROGRAMS


@pytest.mark.parametrize(
    ("shape", "better"),
    [
        ((7, 64, 64, 320), True),
        ((7, 16, 16, 1280), True),
        ((7, 8, 8, 1280), False),
        ((1, 64, 64, 320), False),
        ((1, 512, 512, 128), False),
    ],
)
def test_maps_for_which_it_was_measured_to_be_quicker(shape, better):
    assert gains(torch.empty(shape, device="meta")) is better


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on a GPU")
@pytest.mark.parametrize(("shape", "parts"), [((2, 64, 70), 4), ((1, 48, 64), 1), ((7, 4096, 320), 32)])
def test_the_kernel_gives_the_same(shape, parts):
    x = maps(*shape, device="cuda").half()
    assert kernel() is not None
    assert torch.allclose(channel_moments(x, parts).double(), exact(x, parts), rtol=1e-3, atol=1e-6)
