"""Files as they are published, of a model whose weights are filled by name: what a start from them costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cldm import ControlLDM
from cldm.state import published_extras
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.weights.model import FIRST_STAGE


def write_published(model: ControlLDM, ckpt_dir: Path, adaptors_dir: Path) -> int:
    """The checkpoint with a plain first stage, the bypass autoencoder and six adaptors; returns their bytes.

    Args:
        model: with the bypass first stage, in float32 on the CPU.
    """
    ckpt_dir.mkdir(parents=True, exist_ok=True)
    adaptors_dir.mkdir(parents=True, exist_ok=True)
    state: Mapping[str, Tensor] = model.state_dict()
    with torch.device("meta"):
        plain = ControlLDM(model.params).first_stage_model.state_dict()
    whole = {name: value for name, value in state.items() if not name.startswith(FIRST_STAGE)}
    whole |= {FIRST_STAGE + name: torch.zeros(value.shape) for name, value in plain.items()}
    whole |= published_extras(whole, model.schedule.published_buffers())
    torch.save({"state_dict": whole}, ckpt_dir / "trained_crossattn.ckpt")
    torch.save({"state_dict": model.first_stage_model.state_dict()}, ckpt_dir / "new_decoder.ckpt")
    prior = model.control_model.prior_extracter
    parts = {
        "light_encoder": prior.model_latents.light_encoder.state_dict(),
        "light_decoder": prior.light_decoder.state_dict(),
    }
    for color in COLORS:
        if color != BASE_COLOR:
            torch.save(parts, adaptors_dir / f"adaptor_{color}.pth")
    return sum(path.stat().st_size for folder in (ckpt_dir, adaptors_dir) for path in folder.iterdir())
