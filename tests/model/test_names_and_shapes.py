"""Attribute names are the checkpoint format: these tests freeze names, shapes and norm epsilons."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from cldm import ControlLDM, ControlLDMParams
from cldm.state import HINT, HINT_TWIN, is_ignored, normalise_state, published_extras
from modi_vae import BypassAutoencoder
from tests.model.conftest import GOLDEN, TINY


def shapes(state) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def listed(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / name).read_text())


@pytest.fixture(scope="module")
def full() -> ControlLDM:
    with torch.device("meta"):
        return ControlLDM(ControlLDMParams())


def test_full_model_is_the_published_checkpoint_less_the_allow_list(full):
    published = listed("full_state_dict.json")
    ours = shapes(full.state_dict())
    assert ours == {
        name: shape
        for name, shape in published.items()
        if not is_ignored(name) and not name.startswith(HINT_TWIN)
    }


def test_saved_with_extras_it_lacks_only_the_unused_decoder(full):
    state = full.state_dict()
    saved = shapes({**state, **published_extras(state, full.schedule.published_buffers())})
    missing = {name for name in listed("full_state_dict.json") if name not in saved}
    assert missing and all(
        name.startswith("control_model.prior_extracter.model_latents.") and is_ignored(name)
        for name in missing
    )
    assert {**saved, **{n: s for n, s in listed("full_state_dict.json").items() if n in missing}} == listed(
        "full_state_dict.json"
    )


def test_bypass_autoencoder_is_the_published_file():
    with torch.device("meta"):
        bypass = BypassAutoencoder(ControlLDMParams().first_stage)
    assert shapes(bypass.state_dict()) == listed("bypass_state_dict.json")


def test_tiny_model_with_bypass():
    with torch.device("meta"):
        model = ControlLDM(TINY)
        model.use_bypass_first_stage()
    expected = listed("tiny_state_dict.json")
    assert shapes(normalise_state(model.state_dict())) == {
        n: s for n, s in expected.items() if not is_ignored(n) and not n.startswith(HINT_TWIN)
    }


def test_add_new_layers_lists_the_hint_convolutions_twice():
    with torch.device("meta"):
        model = ControlLDM(TINY)
    model.add_new_layers()
    names = set(model.state_dict())
    hints = {n.removeprefix(HINT) for n in names if n.startswith(HINT)}
    assert hints == {n.removeprefix(HINT_TWIN) for n in names if n.startswith(HINT_TWIN)}
    assert len(hints) == 10


def test_parameter_count_is_that_of_the_published_parts(full):
    def millions(module: nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e6

    prior = full.control_model.prior_extracter
    assert millions(full.model) == pytest.approx(1043.0, abs=0.1)
    assert millions(full.control_model) - millions(prior) == pytest.approx(365.6, abs=0.1)
    assert millions(prior.light_decoder) == pytest.approx(41.95, abs=0.01)
    assert millions(prior.model_latents.light_encoder) == pytest.approx(0.27, abs=0.01)
    assert millions(full.cond_stage_model) == pytest.approx(354, abs=0.5)


def epsilons(module: nn.Module, kind: type) -> set[float]:
    return {layer.eps for layer in module.modules() if isinstance(layer, kind)}


def test_norm_epsilons(full):
    from ldm.attention import SpatialTransformer
    from ldm.unet import ResBlock

    for network in (full.model, full.control_model):
        blocks = [layer for layer in network.modules() if isinstance(layer, ResBlock)]
        assert blocks and all(epsilons(block, nn.GroupNorm) == {1e-5} for block in blocks)
        transformers = [layer for layer in network.modules() if isinstance(layer, SpatialTransformer)]
        assert transformers and all(layer.norm.eps == 1e-6 for layer in transformers)
        assert epsilons(network, nn.LayerNorm) == {1e-5}
    assert full.model.diffusion_model.out[0].eps == 1e-5
    assert epsilons(full.first_stage_model, nn.GroupNorm) == {1e-6}
    assert epsilons(full.control_model.prior_extracter, nn.GroupNorm) == {1e-6}
    assert epsilons(full.cond_stage_model, nn.LayerNorm) == {1e-5}


def test_norm_groups(full):
    for part in (full.model, full.first_stage_model):
        assert {layer.num_groups for layer in part.modules() if isinstance(layer, nn.GroupNorm)} == {32}
    groups = {
        (layer.num_channels, layer.num_groups)
        for layer in full.control_model.prior_extracter.modules()
        if isinstance(layer, nn.GroupNorm)
    }
    assert groups == {(32, 8), (64, 16), (128, 32), (256, 32), (512, 32)}
