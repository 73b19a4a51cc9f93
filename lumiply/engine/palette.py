"""A colour is data: at load, every adaptor becomes a light code and light tokens, and is then forgotten.

No request changes the model, so all colours and all users can share one batch (DESIGN.md, rule 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cldm import ControlLDM
from cldm.intrinsics import PriorExtractor
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.errors import UserError
from lumiply.weights import Adaptor


@dataclass(frozen=True)
class Palette:
    """What the lamp colours look like to the model.

    Attributes:
        names: k colours, the base colour first.
        codes: (k, light_code) float32, each of length 1.
        tokens: (k, light_tokens, context_dim) float32.
    """

    names: tuple[str, ...]
    codes: Tensor
    tokens: Tensor

    def index(self, colors: Sequence[str]) -> Tensor:
        """(k,) places of `colors` in the palette, in their order, repeats allowed.

        Raises:
            UserError: the palette has no such colour (its adaptor was not there at load).
        """
        missing = [color for color in colors if color not in self.names]
        if missing:
            raise UserError(
                f"no adaptor is loaded for {', '.join(missing)}; loaded: {', '.join(self.names)}. "
                f"Put adaptor_{missing[0]}.pth into the adaptors folder and start again."
            )
        return torch.tensor([self.names.index(color) for color in colors], device=self.codes.device)

    def select(self, colors: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Codes and tokens of `colors`, in their order, repeats allowed.

        Raises:
            UserError: the palette lacks one of them.
        """
        index = self.index(colors)
        return self.codes[index], self.tokens[index]

    def missing(self) -> tuple[str, ...]:
        """Colours of the seven that the palette lacks."""
        return tuple(color for color in COLORS if color not in self.names)


@torch.inference_mode()
def build_palette(prior: PriorExtractor, adaptors: Mapping[str, Adaptor], picture_size: int) -> Palette:
    """Turn the base weights and every adaptor into codes and tokens.

    The reference picture is always a white one of the size that the model works at: another size gives another
    code. White means the base weights, always; an adaptor for white, where there is one, replaces them.

    Args:
        prior: float32, on any device.
        adaptors: colour to adaptor.
        picture_size: pixels on a side.
    """
    latents = prior.model_latents
    device = next(prior.parameters()).device
    pooled = latents.pooled(torch.ones(1, 3, picture_size, picture_size, device=device))
    names = tuple(color for color in COLORS if color == BASE_COLOR or color in adaptors)
    codes, tokens = [], []
    for name in names:
        adaptor = adaptors.get(name)
        if adaptor is None:
            code = latents.head(pooled)
            token = prior.tokens(code)
        else:
            encoder = {key: value.to(device, torch.float32) for key, value in adaptor.light_encoder.items()}
            decoder = {key: value.to(device, torch.float32) for key, value in adaptor.light_decoder.items()}
            code = latents.head(pooled, encoder)
            token = prior.tokens(code, decoder)
        codes.append(code)
        tokens.append(token)
    return Palette(names, torch.cat(codes), torch.cat(tokens))


@dataclass(frozen=True)
class Constants:
    """All that a model says about colours and prompt before it has seen a photo.

    Attributes:
        palette: the colours.
        text: (1, n, context_dim) float32, the context of the empty prompt.
    """

    palette: Palette
    text: Tensor

    @classmethod
    @torch.inference_mode()
    def of(
        cls, model: ControlLDM, adaptors: Mapping[str, Adaptor], device: torch.device | str = "cpu"
    ) -> Constants:
        """Compute them in float32 on `device`, where this leaves the text tower and the latent intrinsics."""
        prior = model.control_model.prior_extracter.to(device)
        palette = build_palette(prior, adaptors, model.params.picture_size)
        return cls(palette, model.cond_stage_model.to(device)())
