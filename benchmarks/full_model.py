"""The full-size model with weights filled by name, for machines where the published files are not at hand.

Such weights prove numerics and speed; pictures made with them show nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cldm import ControlLDM, ControlLDMParams
from lumiply.colors import COLORS
from lumiply.config import Variant, config_path, load_config
from lumiply.engine.palette import Constants
from lumiply.weights import Header, save_converted
from tests.golden.fill import fill_by_name


def filled_model(params: ControlLDMParams | None = None) -> ControlLDM:
    """ControlLDM in float32 on the CPU with the bypass first stage, every parameter filled by its name."""
    with torch.device("meta"):
        model = ControlLDM(params or ControlLDMParams())
        model.use_bypass_first_stage()
    model.to_empty(device="cpu").eval().requires_grad_(False)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(lambda named: fill_by_name([named]), model.named_parameters()))
    return model


def write_filled(folder: Path, variant: Variant, device: torch.device) -> tuple[Path, Path]:
    """Filled weights of a variant as converted files, which any process then loads as it loads real ones.

    All seven colours have the light that the base has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = filled_model(load_config(config_path(variant)))
    state = model.state_dict()
    constants = Constants.of(model, {}, device)
    light = constants.palette
    numbers = {
        "codes": light.codes.repeat(len(COLORS), 1),
        "tokens": light.tokens.repeat(len(COLORS), 1, 1),
        "text": constants.text,
    }
    return save_converted(folder, state, numbers, Header(variant, "filled by name", COLORS))
