"""Loading a whole model from the files that make it up; every key is accounted for before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cldm import ControlLDM, ControlLDMParams
from cldm.state import normalise_state
from ldm.text import TextTowerParams
from lumiply.errors import WeightsError
from lumiply.weights.check import BYPASS, CHECKPOINT, LATENTS, require_kind, require_match
from lumiply.weights.described import described
from lumiply.weights.files import read_state
from lumiply.weights.text import fetch_text_tower

FIRST_STAGE: Final = "first_stage_model."
PRIOR: Final = "control_model.prior_extracter.model_latents."
TEXT: Final = "cond_stage_model.model."
#: A name that only a bypass autoencoder has.
BYPASS_MARK: Final = f"{FIRST_STAGE}decoder.new_last_procee.conv1.weight"
REMEDY: Final = (
    "The file belongs to another configuration or release, or is not complete: the published files go with "
    "models/cldm_v21_LumiNet.yaml (model=full), lumiply_mini.safetensors with models/lumiply_mini.yaml (model=mini)."
)


def load_model(
    params: ControlLDMParams,
    checkpoint: str | PathLike[str],
    *,
    bypass: str | PathLike[str] | None = None,
    latents: str | PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fetch_text: Callable[[TextTowerParams], Mapping[str, Tensor]] = fetch_text_tower,
) -> ControlLDM:
    """Build a model and give it its weights; where neither device nor precision change, they stay in the file.

    Args:
        params: sizes; they must be those of the files.
        checkpoint: the whole model (`trained_crossattn.ckpt`), with a plain or a bypass first stage.
        bypass: a bypass autoencoder (`new_decoder.ckpt`) to take the place of the checkpoint's first stage.
        latents: the latent-intrinsics network (`last.pth.tar`), read only if the checkpoint lacks it.
        device: where the weights go.
        dtype: precision of the weights, whatever it is in the files.
        fetch_text: gives a text tower's weights; called only if the checkpoint lacks them.

    Returns:
        The model, in evaluation mode.

    Raises:
        WeightsError: a file is missing, damaged or of the wrong kind, or a key or shape is not the model's.
    """
    parts = _Parts(Path(checkpoint))
    parts.add_checkpoint(drop_first_stage=bypass is not None)
    if bypass is not None:
        parts.add_bypass(Path(bypass))
    with described():
        model = ControlLDM(params)
        if BYPASS_MARK in parts.tensors or bypass is not None:
            model.use_bypass_first_stage()
    expected = model.state_dict()
    parts.complete_prior(expected, None if latents is None else Path(latents))
    if not any(name.startswith(TEXT) for name in parts.tensors):
        parts.add(parts.checkpoint, {TEXT + name: value for name, value in fetch_text(params.text).items()})
    require_match(expected, parts.tensors, parts.file_of, REMEDY)
    moved = {name: value.to(device=device, dtype=dtype) for name, value in parts.tensors.items()}
    model.load_state_dict(moved, strict=True, assign=True)
    return model.eval()


@dataclass
class _Parts:
    """A state dict that comes together from several files."""

    checkpoint: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    #: Which file should have had the names that begin so, where it is not the checkpoint.
    owners: dict[str, Path] = field(default_factory=dict)

    def add(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """Take what is not there yet."""
        for name, value in normalise_state(state).items():
            if name not in self.tensors:
                self.tensors[name] = value
                self.files[name] = path

    def file_of(self, name: str) -> Path:
        owner = next(
            (path for prefix, path in self.owners.items() if name.startswith(prefix)), self.checkpoint
        )
        return self.files.get(name, owner)

    def add_checkpoint(self, *, drop_first_stage: bool) -> None:
        state = read_state(self.checkpoint)
        require_kind(self.checkpoint, state, CHECKPOINT)
        if drop_first_stage:
            state = {name: value for name, value in state.items() if not name.startswith(FIRST_STAGE)}
        self.add(self.checkpoint, state)

    def add_bypass(self, path: Path) -> None:
        state = read_state(path)
        require_kind(path, state, BYPASS)
        self.owners[FIRST_STAGE] = path
        self.add(path, {FIRST_STAGE + name: value for name, value in state.items()})

    def complete_prior(self, expected: Mapping[str, Tensor], latents: Path | None) -> None:
        """Fill what the checkpoint lacks of the latent-intrinsics network; what it has stays."""
        prior = [name for name in expected if name.startswith(PRIOR)]
        missing = [name for name in prior if name not in self.tensors]
        encoder_is_there = any(name.startswith(f"{PRIOR}enc.") for name in self.tensors)
        if not missing or (latents is None and encoder_is_there):
            return  # complete, or of another shape, which the check of all keys reports better
        if latents is None:
            raise WeightsError(
                f"{self.checkpoint}: lacks the latent-intrinsics network ({len(missing)} keys, as {missing[0]}). "
                "Put last.pth.tar, which holds them, beside it; or take a complete checkpoint."
            )
        state = read_state(latents)
        require_kind(latents, state, LATENTS)
        self.owners[PRIOR] = latents
        self.add(latents, {PRIOR + name.removeprefix("module."): value for name, value in state.items()})
