"""Training colours' adaptors: a light encoder and a light decoder each; the model itself is frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cldm import ControlLDM
from lumiply.colors import COLORS, in_palette_order
from lumiply.training.finetune import FineTuning
from lumiply.weights import Adaptor


class AdaptorTuning(FineTuning):
    """Light encoder and light decoder of every colour learn, both through the loss of the pairs in that colour.

    The reference picture is white for every colour, as it is when adaptors become a palette.
    """

    pooled: Tensor

    def __init__(
        self,
        model: ControlLDM,
        colors: Sequence[str],
        *,
        start: Mapping[str, Adaptor] | None = None,
        learning_rate: float = 1e-5,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        """Args:
        colors: what to train, some of `COLORS`.
        start: adaptors to go on from; a colour without one starts from the model's own white light.
        """
        super().__init__(model, learning_rate=learning_rate, seed=seed, recompute=recompute)
        prior = model.control_model.prior_extracter
        size = model.params.picture_size
        with torch.no_grad():
            self.register_buffer(
                "pooled", prior.model_latents.pooled(torch.ones(1, 3, size, size)), persistent=False
            )
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for color in in_palette_order(colors):
            encoder, decoder = (
                copy.deepcopy(prior.model_latents.light_encoder),
                copy.deepcopy(prior.light_decoder),
            )
            if start and color in start:
                encoder.load_state_dict(start[color].light_encoder)
                decoder.load_state_dict(start[color].light_decoder)
            self.encoders[color], self.decoders[color] = encoder, decoder
        self.encoders.requires_grad_(True)
        self.decoders.requires_grad_(True)

    def light(self, color: Tensor) -> tuple[Tensor, Tensor]:
        """Only the adaptors of the batch's colours are run, so that the others get no gradient and no step."""
        prior = self.model.control_model.prior_extracter
        present, which = torch.unique(color, return_inverse=True)
        codes, tokens = [], []
        for index in present.tolist():
            name = COLORS[index]
            code = prior.model_latents.head(self.pooled, dict(self.encoders[name].named_parameters()))
            codes.append(code)
            tokens.append(prior.tokens(code, dict(self.decoders[name].named_parameters())))
        return torch.cat(codes)[which], torch.cat(tokens)[which]


def adaptors_of(trained: Mapping[str, Tensor]) -> dict[str, Adaptor]:
    """Adaptors by colour, from the tensors that were trained, under the names of the module's state dict."""
    parts: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, value in trained.items():
        part, color, key = name.split(".", 2)
        parts.setdefault(color, {"encoders": {}, "decoders": {}})[part][key] = value
    return {color: Adaptor(parts[color]["encoders"], parts[color]["decoders"]) for color in parts}
