"""A colour's adaptor: the two small networks that say what the lamp's light looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from cldm import ControlLDMParams, PriorExtractor
from lumiply.colors import COLORS
from lumiply.errors import WeightsError
from lumiply.files import written_whole
from lumiply.weights.check import ADAPTOR, require_kind, require_match
from lumiply.weights.described import described
from lumiply.weights.files import read_state, save_state

PARTS: Final = ("light_encoder", "light_decoder")
#: Where both are there, the published form is taken.
SUFFIXES: Final = (".pth", ".safetensors")
REMEDY: Final = (
    "Adaptors go with the model that they were trained on: the published ones in adaptors/ with the published "
    "checkpoint, the mini model's in ckpt/mini/."
)


@dataclass(frozen=True)
class Adaptor:
    """Weights that stand in for the model's own `light_encoder` and `prior_extracter.light_decoder`.

    Attributes:
        light_encoder: names such as `0.weight`, the head that makes a light code.
        light_decoder: likewise, the network that makes light tokens of a code.
    """

    light_encoder: Mapping[str, Tensor]
    light_decoder: Mapping[str, Tensor]


def read_adaptor(path: str | PathLike[str], params: ControlLDMParams) -> Adaptor:
    """Read an adaptor, in the precision it was stored in, and check it against the model's sizes.

    Raises:
        WeightsError: the file is missing, damaged or no adaptor, or a key or shape is not the model's.
    """
    path = Path(path)
    state = read_state(path)
    require_kind(path, state, ADAPTOR)
    with described():
        prior = PriorExtractor(params.control.intrinsics)
    own = {"light_encoder": prior.model_latents.light_encoder, "light_decoder": prior.light_decoder}
    expected = {f"{part}.{name}": value for part in PARTS for name, value in own[part].state_dict().items()}
    require_match(expected, state, lambda _: path, REMEDY)
    return Adaptor(*(_under(part, state) for part in PARTS))


def save_adaptor(path: str | PathLike[str], adaptor: Adaptor) -> None:
    """Write an adaptor whole or not at all: `.pth` in the published layout, or `.safetensors`.

    Raises:
        WeightsError: the suffix is neither.
        OSError: the disk is full or the folder cannot be written; the old file is then still there.
    """
    path = Path(path)
    parts = {part: getattr(adaptor, part) for part in PARTS}
    if path.suffix == ".safetensors":
        save_state(path, {f"{part}.{name}": value for part in PARTS for name, value in parts[part].items()})
    elif path.suffix == ".pth":
        plain = {
            part: {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
            for part, state in parts.items()
        }
        with written_whole(path) as beside:
            torch.save(plain, beside)
    else:
        raise WeightsError(f"{path}: an adaptor is stored as .pth or .safetensors, not {path.suffix!r}.")


def find_adaptors(folder: str | PathLike[str]) -> dict[str, Path]:
    """`adaptor_{color}.pth` or `.safetensors` in `folder`, by colour; nothing if there is no such folder."""
    found = {}
    for color in COLORS:
        paths = (Path(folder) / f"adaptor_{color}{suffix}" for suffix in SUFFIXES)
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found[color] = path
    return found


def _under(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
