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
from lumiply.engine.transfer import sent
from lumiply.engine.upload import place, upload
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
                f"Put adaptor_{missing[0]}.pth into the adaptors folder and reload them, or start again."
            )
        return sent(torch.tensor([self.names.index(color) for color in colors]), self.codes.device)

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


class PaletteBuilder:
    """Turns adaptors into a palette, as often as asked; it keeps none of the model's weights.

    The reference picture is always a white one of the size that the model works at: another size gives another
    code. White means the base weights, always; an adaptor for white, where there is one, replaces them.
    """

    @torch.inference_mode()
    def __init__(self, prior: PriorExtractor, picture_size: int) -> None:
        """Args:
        prior: float32, on any device; its light encoder and light decoder may go to the `meta` device afterwards.
        picture_size: pixels on a side.
        """
        self._prior = prior
        device = next(prior.parameters()).device
        self._pooled = prior.model_latents.pooled(torch.ones(1, 3, picture_size, picture_size, device=device))
        code = prior.model_latents.head(self._pooled)
        self._base = code, prior.tokens(code)

    @torch.inference_mode()
    def build(self, adaptors: Mapping[str, Adaptor]) -> Palette:
        """Codes and tokens of the base colour and of every adaptor's."""
        names = tuple(color for color in COLORS if color == BASE_COLOR or color in adaptors)
        pairs = [self._of(adaptors[name]) if name in adaptors else self._base for name in names]
        codes, tokens = zip(*pairs, strict=True)
        return Palette(names, torch.cat(codes), torch.cat(tokens))

    def _of(self, adaptor: Adaptor) -> tuple[Tensor, Tensor]:
        encoder, decoder = (self._moved(part) for part in (adaptor.light_encoder, adaptor.light_decoder))
        code = self._prior.model_latents.head(self._pooled, encoder)
        return code, self._prior.tokens(code, decoder)

    def _moved(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors, device = list(weights.values()), self._pooled.device
        if device.type == "cuda":
            tensors = upload(tensors, [torch.float32] * len(tensors), device)
        return {name: tensor.float() for name, tensor in zip(weights, tensors, strict=True)}


@dataclass(frozen=True)
class Constants:
    """All that a model says about colours and prompt before it has seen a photo.

    Attributes:
        palette: the colours.
        text: (1, n, context_dim) float32, the context of the empty prompt.
        builder: makes a palette of other adaptors; None where the palette was stored ready-made.
    """

    palette: Palette
    text: Tensor
    builder: PaletteBuilder | None = None

    @classmethod
    @torch.inference_mode()
    def of(
        cls, model: ControlLDM, adaptors: Mapping[str, Adaptor], device: torch.device | str = "cpu"
    ) -> Constants:
        """Compute them in float32 on `device`, where this leaves the text tower and the latent intrinsics."""
        prior, text = model.control_model.prior_extracter, model.cond_stage_model
        place([(prior, None), (text, None)], torch.device(device))
        builder = PaletteBuilder(prior, model.params.picture_size)
        return cls(builder.build(adaptors), text(), builder)
