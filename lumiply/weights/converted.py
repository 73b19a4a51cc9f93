"""The converted form of a model: its networks in half precision, and its colours and prompt as plain numbers.

Two safetensors files beside each other: `lumiply_half.safetensors` holds the networks, the base light encoder and
decoder among them, under the published names; `lumiply_palette.safetensors` the context of the empty prompt and
each colour's light code and tokens, in float32. The text tower and the adaptors are no longer needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor

from cldm import ControlLDM, ControlLDMParams
from lumiply.errors import WeightsError
from lumiply.weights.check import require_match
from lumiply.weights.described import described
from lumiply.weights.files import read_state, save_state
from lumiply.weights.model import TEXT

NETWORKS: Final = "lumiply_half.safetensors"
PALETTE: Final = "lumiply_palette.safetensors"
#: Kept in each file's metadata; a file of another form is refused.
FORM: Final = "lumiply-converted-1"
REMEDY: Final = "Convert the original files again: 'lumiply convert'."


@dataclass(frozen=True)
class Header:
    """What a converted file says about itself.

    Attributes:
        variant: "full" or "mini".
        source: fingerprint of the files that it was made from.
        colors: what can be rendered.
    """

    variant: str
    source: str
    colors: tuple[str, ...]


@dataclass(frozen=True)
class Converted:
    """A model that was read from converted files.

    Attributes:
        model: without text tower (it stays on the `meta` device).
        colors: k colours.
        codes: (k, light_code) float32.
        tokens: (k, light_tokens, context_dim) float32.
        text: (1, n, context_dim) float32.
    """

    model: ControlLDM
    colors: tuple[str, ...]
    codes: Tensor
    tokens: Tensor
    text: Tensor


def save_converted(
    folder: Path,
    state: Mapping[str, Tensor],
    palette: Mapping[str, Tensor],
    header: Header,
    dtype: torch.dtype = torch.float16,
) -> tuple[Path, Path]:
    """Write both files into `folder`, each whole or not at all.

    Args:
        state: of a model with the bypass first stage; its text tower is left out.
        palette: "codes", "tokens" and "text" of `Converted`.

    Returns:
        Paths of the networks and of the palette.

    Raises:
        WeightsError: a weight is too large for `dtype`.
        OSError: the disk is full or the folder cannot be written.
    """
    metadata = {
        "form": FORM,
        "variant": header.variant,
        "source": header.source,
        "colors": json.dumps(header.colors),
    }
    networks = {name: value.to(dtype) for name, value in state.items() if not name.startswith(TEXT)}
    for name, value in networks.items():
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{name} holds numbers that {dtype} cannot; this model cannot be halved.")
    paths = folder / NETWORKS, folder / PALETTE
    save_state(paths[0], networks, metadata)
    save_state(paths[1], {name: value.float() for name, value in palette.items()}, metadata)
    return paths


def read_header(path: Path) -> Header:
    """What a converted file says about itself, without reading its tensors.

    Raises:
        WeightsError: it is no converted file.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
    except Exception as exc:  # SafetensorError derives from Exception alone
        raise WeightsError(f"{path}: is damaged or cut short. {REMEDY}") from exc
    if metadata.get("form") != FORM:
        raise WeightsError(f"{path}: is no converted model of this release. {REMEDY}")
    return Header(metadata["variant"], metadata["source"], tuple(json.loads(metadata["colors"])))


def load_converted(params: ControlLDMParams, networks: Path, palette: Path) -> Converted:
    """Read converted files; the networks stay mapped from the file, in the precision they are stored in.

    Raises:
        WeightsError: a file is missing, damaged or of another model, or the two do not belong together.
    """
    header = read_header(networks)
    if read_header(palette) != header:
        raise WeightsError(f"{palette}: was not made together with {networks.name}. {REMEDY}")
    with described():
        model = ControlLDM(params)
        model.use_bypass_first_stage()
    own = model.state_dict()
    stored = read_state(networks)
    require_match(
        {name: value for name, value in own.items() if not name.startswith(TEXT)},
        stored,
        lambda _: networks,
        REMEDY,
    )
    model.load_state_dict(stored, strict=False, assign=True)
    numbers = read_state(palette)
    require_match(_expected(params, header.colors), numbers, lambda _: palette, REMEDY)
    return Converted(model.eval(), header.colors, numbers["codes"], numbers["tokens"], numbers["text"])


def _expected(params: ControlLDMParams, colors: Sequence[str]) -> dict[str, Tensor]:
    light = params.control.intrinsics
    shapes = {
        "codes": (len(colors), light.light_code),
        "tokens": (len(colors), light.light_tokens, light.token_width),
        "text": (1, params.text.context_length, params.text.width),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
