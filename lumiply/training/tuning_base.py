"""What fine-tuning starts from, and the whole model that it writes: the base, less what was trained anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cldm import ControlLDM
from cldm.state import published_extras
from ldm.schedule import NoiseSchedule
from lumiply.config import Variant, config_path
from lumiply.errors import WeightsError
from lumiply.files import written_whole
from lumiply.weights import WeightFiles, find_weights, load_model, read_state, save_state
from lumiply.weights.find import BYPASSES, CAUSAL_CHECKPOINTS, LATENTS, MINI_CHECKPOINT
from lumiply.weights.model import FIRST_STAGE, PRIOR

#: The word for the embedded model.
MINI: Final = "mini"


def find_base(
    base: str | PathLike[str], ckpt_dir: str | PathLike[str], config: Path | None = None
) -> WeightFiles:
    """The files to start from.

    Args:
        base: "mini", or the path of a checkpoint. Beside a checkpoint, `new_decoder` and `last` are taken as well.
        ckpt_dir: where the mini model lies, in the folder `mini`.
        config: the model's configuration; by default that of the mini model for a file called
            `lumiply_mini.safetensors`, the published one for any other.

    Raises:
        WeightsError: there is no such file.
    """
    if str(base) == MINI:
        found = find_weights(ckpt_dir, ckpt_dir, MINI)
        return replace(found, config=config or found.config, adaptors={})
    path = Path(base)
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such checkpoint to start from. Give the path of one, such as "
            "ckpt/trained_crossattn.ckpt (ckpt/README.md says which), or 'mini' for the embedded model."
        )
    variant: Variant = "mini" if path.name == MINI_CHECKPOINT else "full"
    return WeightFiles(
        variant,
        config or config_path(variant),
        path,
        bypass=None if variant == "mini" else _beside(path, BYPASSES),
        latents=None if variant == "mini" else _beside(path, LATENTS),
        causal_mask=path.name in CAUSAL_CHECKPOINTS,
    )


@dataclass(frozen=True)
class Base:
    """A loaded model to train, and the file that it came from.

    Attributes:
        files: what was read.
        model: float32 on the CPU, in evaluation mode, no parameter requires a gradient.
        state: all that a whole model's file holds, under the names and in the precision of the base's file, mapped
            from it; training never changes these tensors.
    """

    files: WeightFiles
    model: ControlLDM
    state: Mapping[str, Tensor]

    def save(self, path: Path, trained: Mapping[str, Tensor]) -> None:
        """Write the whole model with `trained` in place of the base's own tensors, whole or not at all.

        A `.safetensors` file gets the names that the base's file has; any other is a torch file under `state_dict`
        with every derived name that the published code looks for.

        Raises:
            KeyError: a trained tensor is not the base's.
            OSError: the disk is full or the folder cannot be written; an old file is then still there.
        """
        state = merged(self.state, trained)
        if path.suffix == ".safetensors":
            save_state(path, state)
            return
        state = with_derived_names(state, self.model.schedule)
        with written_whole(path) as beside, beside.open("wb") as file:
            torch.save({"state_dict": state}, file)


def load_base(files: WeightFiles) -> Base:
    """Read a base.

    Raises:
        WeightsError: a file is missing, damaged, or not what its place needs.
    """
    model = load_model(files.params(), files.checkpoint, bypass=files.bypass, latents=files.latents)
    model.requires_grad_(False)
    state = read_state(files.checkpoint)
    if files.latents is not None and any(
        name.startswith(PRIOR) and name not in state for name in model.state_dict()
    ):
        # read unabridged: the published code also wants Latent Intrinsics' own decoder, which is not built here
        for name, value in read_state(files.latents).items():
            state.setdefault(PRIOR + name.removeprefix("module."), value)
    for name, value in model.state_dict().items():
        if not name.startswith(FIRST_STAGE):  # the checkpoint has its own, without bypass
            state.setdefault(name, value.clone())
    return Base(files, model, state)


def merged(state: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with `trained`, which are on the CPU as they are, in the places of the same names.

    Raises:
        KeyError: there is no such place.
    """
    result = dict(state)
    for name, value in trained.items():
        if name not in result:
            raise KeyError(name)
        result[name] = value.detach()
    return result


def with_derived_names(state: Mapping[str, Tensor], schedule: NoiseSchedule) -> dict[str, Tensor]:
    """`state` and, where they are missing, the schedule buffers, doubled names and resample filters."""
    return {**published_extras(state, schedule.published_buffers()), **state}


def _beside(path: Path, names: tuple[str, ...]) -> Path | None:
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)
