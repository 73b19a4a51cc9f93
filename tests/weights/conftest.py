"""A model of a few hundred kilobytes, and the files that would make it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cldm import ControlLDM, ControlLDMParams, ControlNetParams, IntrinsicsParams
from cldm.state import HINT, HINT_TWIN, published_extras
from ldm.autoencoder import AutoencoderParams
from ldm.text import TextTowerParams
from ldm.unet import UNetParams
from lumiply.weights.model import FIRST_STAGE, PRIOR, TEXT
from tests.golden.fill import fill_by_name

UNET = UNetParams(
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_head_channels=16,
    context_dim=16,
    norm_num_groups=8,
)
SMALL = ControlLDMParams(
    unet=UNET,
    control=ControlNetParams(
        unet=UNET,
        hint_width=8,
        intrinsics=IntrinsicsParams(
            model_channels=8,
            channel_mult=(1, 1, 1, 1, 2, 2),
            num_blocks=(1, 1, 1, 1, 1, 1),
            token_width=16,
            light_hidden=8,
        ),
    ),
    first_stage=AutoencoderParams(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, norm_num_groups=8),
    text=TextTowerParams(width=16, heads=2, layers=2, context_length=4, vocab_size=6),
    image_size=8,
)

State = dict[str, Tensor]


def filled(*, bypass: bool) -> State:
    """The small model's state dict, filled by name."""
    with torch.device("meta"):
        model = ControlLDM(SMALL)
        if bypass:
            model.use_bypass_first_stage()
    model.to_empty(device="cpu")
    fill_by_name(model.named_parameters())
    return {name: value.detach() for name, value in model.state_dict().items()}


def without(state: State, *prefixes: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def under(state: State, prefix: str) -> State:
    """What stands under `prefix`, without it."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def same(ours: State, theirs: State) -> bool:
    """The same names, and the same bits under each."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def whole() -> State:
    """The small model with the bypass first stage, under our names."""
    return filled(bypass=True)


@pytest.fixture(scope="session")
def plain_first_stage() -> State:
    """The first stage that a published checkpoint holds, another than the bypass one."""
    own = under(filled(bypass=False), FIRST_STAGE)
    return {FIRST_STAGE + name: value + 1 for name, value in own.items()}


@pytest.fixture(scope="session")
def published(whole: State, plain_first_stage: State) -> State:
    """What a published checkpoint holds: plain first stage, derived names, the unused decoder."""
    state = {**without(whole, FIRST_STAGE), **plain_first_stage}
    with torch.device("meta"):
        schedule = ControlLDM(SMALL).schedule
    extras = published_extras(state, schedule.published_buffers())
    unused = ("pos_embed", "dec.x.weight", "final.0.bias", "light_decoder.0.weight")
    return {**state, **extras, **{PRIOR + name: torch.ones(3) for name in unused}}


@pytest.fixture(scope="session")
def bypass_state(whole: State) -> State:
    return under(whole, FIRST_STAGE)


@pytest.fixture(scope="session")
def latents_state(whole: State) -> State:
    """The latent-intrinsics network as published, with the decoder that we do not use."""
    own = {f"module.{name}": value for name, value in under(whole, PRIOR).items()}
    return {**own, "module.dec.x.weight": torch.ones(2), "module.pos_embed": torch.ones(2)}


@pytest.fixture(scope="session")
def text_state(whole: State) -> State:
    return under(whole, TEXT)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Store a value under a name, in the format of its suffix."""

    def write_file(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({key: tensor.clone() for key, tensor in value.items()}, path)
        else:
            torch.save(value, path)
        return path

    return write_file


@pytest.fixture
def published_files(write, published, bypass_state, latents_state) -> dict[str, Path]:
    """`load_model`'s arguments for a published model."""
    return {
        "checkpoint": write("trained_crossattn.ckpt", {"state_dict": published}),
        "bypass": write("new_decoder.ckpt", {"state_dict": bypass_state}),
        "latents": write("last.pth.tar", {"state_dict": latents_state, "ema_state_dict": {}}),
    }


__all__ = ["HINT", "HINT_TWIN", "SMALL", "State", "same", "under", "without"]
