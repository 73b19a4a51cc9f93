"""The millisecond model as files: its configuration, and a base as it is published."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from cldm import ControlLDM
from cldm.state import published_extras
from lumiply.config import config_path, load_config
from lumiply.weights import save_state
from lumiply.weights.model import FIRST_STAGE, PRIOR
from tests.golden.fill import fill_by_name
from tests.nano import NANO, nano_model


def write_nano_config(path: Path) -> Path:
    """The configuration of `tests.nano.NANO`, made from the mini model's."""
    config = OmegaConf.load(config_path("mini"))
    params = config.model.params
    params.image_size = NANO.image_size
    unet = {
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [2],
        "num_head_channels": 16,
        "context_dim": 32,
        "norm_num_groups": 8,
    }
    params.unet_config.params.update(unet)
    params.control_stage_config.params.update({**unet, "hint_width": 16})
    params.control_stage_config.params.intrinsics = {
        "model_channels": 8,
        "channel_mult": [1, 1, 2, 2],
        "num_blocks": [1, 1, 1, 1],
        "token_width": 32,
        "light_hidden": 24,
    }
    first_stage = params.first_stage_config.params.ddconfig
    first_stage.update({"ch": 16, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "norm_num_groups": 8})
    first_stage.resolution = 64
    params.cond_stage_config.params.update(
        {"width": 32, "heads": 2, "layers": 2, "context_length": 4, "vocab_size": 3}
    )
    OmegaConf.save(config, path)
    assert load_config(path) == NANO
    return path


def published_state() -> dict[str, Tensor]:
    """A published checkpoint of the nano model: plain first stage, derived names, the unused decoder."""
    model = ControlLDM(NANO)
    fill_by_name(model.named_parameters())
    state = {name: value.detach() for name, value in model.state_dict().items()}
    unused = ("pos_embed", "dec.x.weight", "final.0.bias", "light_decoder.0.weight")
    return {
        **state,
        **published_extras(state, model.schedule.published_buffers()),
        **{PRIOR + name: torch.ones(3) for name in unused},
    }


def write_published_nano(folder: Path) -> Path:
    """`trained_crossattn.ckpt`, with `new_decoder.ckpt` and `nano.yaml` beside it; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    write_nano_config(folder / "nano.yaml")
    torch.save({"state_dict": published_state()}, folder / "trained_crossattn.ckpt")
    bypass = {
        name.removeprefix(FIRST_STAGE): value.detach()
        for name, value in nano_model().state_dict().items()
        if name.startswith(FIRST_STAGE)
    }
    torch.save({"state_dict": bypass}, folder / "new_decoder.ckpt")
    return folder / "trained_crossattn.ckpt"


def write_own_nano(folder: Path) -> Path:
    """The whole nano model in one file under the mini model's name, in half precision as it is shipped."""
    folder.mkdir(parents=True, exist_ok=True)
    write_nano_config(folder / "nano.yaml")
    path = folder / "lumiply_mini.safetensors"
    save_state(path, {name: value.half() for name, value in nano_model().state_dict().items()})
    return path
