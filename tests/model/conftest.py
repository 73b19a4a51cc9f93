"""The small golden model and its recorded tensors, built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cldm import ControlLDM, ControlLDMParams, ControlNetParams
from ldm.text import TextTowerParams
from ldm.unet import UNetParams
from tests.golden.fill import fill_by_name

GOLDEN = Path(__file__).parents[1] / "golden"

TINY_UNET = UNetParams(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    num_head_channels=32,
    attention_resolutions=(2, 1),
)
TINY = ControlLDMParams(
    unet=TINY_UNET, control=ControlNetParams(unet=TINY_UNET), text=TextTowerParams(layers=2)
)


def stored_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters under their state-dict names, tied ones once."""
    yield from model.named_parameters()


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """Relative L2 distance; NaN in either never passes a comparison."""
    assert ours.shape == recorded.shape
    return float((ours.double() - recorded.double()).norm() / recorded.double().norm())


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tiny.safetensors")


@pytest.fixture(scope="session")
def tiny_model() -> ControlLDM:
    """The tiny configuration with the bypass autoencoder, weights filled by name."""
    with torch.device("meta"):
        model = ControlLDM(TINY)
        model.use_bypass_first_stage()
    model.to_empty(device="cpu").eval().requires_grad_(False)
    fill_by_name(stored_parameters(model))
    return model


@pytest.fixture(scope="session")
def photo(golden: dict[str, Tensor]) -> Tensor:
    """(1, 3, 512, 512) in [0, 1]."""
    return golden["off"].float() / 255


@pytest.fixture
def recorded(golden: dict[str, Tensor]):
    """Assert that a tensor equals the recorded one to 1e-5 in relative L2."""

    def check(name: str, ours: Tensor, tolerance: float = 1e-5) -> None:
        error = relative_error(ours, golden[name])
        assert error <= tolerance, f"{name}: relative L2 {error:.2e} > {tolerance:.0e}"

    return check
