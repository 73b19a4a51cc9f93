"""Fine-tuning every SpatialTransformer of UNet and ControlNet on white light; all else is frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from cldm import ControlLDM
from ldm.attention import SpatialTransformer
from lumiply.training.finetune import FineTuning

#: Before the names of the model's own tensors in the module's state dict.
_MODEL = "model."


class CrossAttentionTuning(FineTuning):
    """The light is that of a white reference picture, as when a request asks for white."""

    code: Tensor
    tokens: Tensor

    def __init__(
        self, model: ControlLDM, *, learning_rate: float = 1e-5, seed: int = 0, recompute: bool = False
    ) -> None:
        super().__init__(model, learning_rate=learning_rate, seed=seed, recompute=recompute)
        size = model.params.picture_size
        with torch.no_grad():
            code, tokens = model.light(torch.ones(1, 3, size, size))
        self.register_buffer("code", code, persistent=False)
        self.register_buffer("tokens", tokens, persistent=False)
        for network in (model.model, model.control_model):
            for module in network.modules():
                if isinstance(module, SpatialTransformer):
                    for parameter in module.parameters():
                        parameter.data = parameter.data.clone()  # or the base's own tensors would change
                        parameter.requires_grad_(True)

    def light(self, color: Tensor) -> tuple[Tensor, Tensor]:
        return self.code.expand(len(color), -1), self.tokens.expand(len(color), -1, -1)


def model_names(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors under the names that the model's files use."""
    return {name.removeprefix(_MODEL): value for name, value in trained.items()}
