"""The full-size model with weights filled by name, for machines where the published files are not at hand.

Such weights prove numerics and speed; pictures made with them show nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch

from cldm import ControlLDM, ControlLDMParams
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
