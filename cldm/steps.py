"""The denoiser as a sampler uses it: whatever stays the same from step to step is computed once.

v is the same function of (x, t, context, hint) as `ControlLDM.forward`. The shifts that the time embedding gives
every residual block become a table with a row for each timestep; keys and values of all cross-attentions become
one tensor a context, made by one product; self-attention makes its q, k and v in one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cldm.luminet import ControlLDM
from ldm.attention import KeysValues
from ldm.unet import UNetEncoder


@dataclass(frozen=True)
class StepConditions:
    """What stays the same from step to step, for b pictures.

    Attributes:
        hint_features: (b, model_channels, h, w), from `ControlNet.hint_features`.
        keys_values: (b, n, the widths of all keys and values), from `StepNetwork.keys_values`.
    """

    hint_features: Tensor
    keys_values: Tensor

    @property
    def batch(self) -> int:
        return self.hint_features.shape[0]

    def rows(self, start: int, stop: int) -> StepConditions:
        """Of the pictures from `start` up to `stop`, without copying."""
        return StepConditions(self.hint_features[start:stop], self.keys_values[start:stop])

    @staticmethod
    def cat(parts: Sequence[StepConditions]) -> StepConditions:
        """Of all pictures of `parts`, in their order."""
        if len(parts) == 1:
            return parts[0]
        return StepConditions(
            torch.cat([part.hint_features for part in parts]), torch.cat([part.keys_values for part in parts])
        )


class StepNetwork(nn.Module):
    """ControlNet and UNet of a loaded model, for inference only."""

    shift_table: Tensor
    context_weight: Tensor

    @torch.no_grad()
    def __init__(self, model: ControlLDM) -> None:
        """Take over the two networks of `model`, where they are and in their precision.

        Their weights keep names and values; changing those, their precision or device afterwards is not seen.
        """
        super().__init__()
        self.control = model.control_model
        self.unet = model.model.diffusion_model
        networks: tuple[UNetEncoder, UNetEncoder] = (self.control, self.unet)
        blocks = [block for network in networks for block in network.transformer_blocks()]
        for block in blocks:
            block.attn1.pack()
        layers = [layer for block in blocks for layer in (block.attn2.to_k, block.attn2.to_v)]
        self.widths = [layer.out_features for layer in layers]
        weight = torch.cat([layer.weight for layer in layers])
        for layer, rows in zip(layers, weight.split(self.widths), strict=True):
            layer.weight.data = rows
        t = torch.arange(model.schedule.timesteps, device=weight.device)
        control_shifts, unet_shifts = (network.time_shifts(t) for network in networks)
        shifts = [*control_shifts, *unet_shifts]
        # which shifts and which keys and values each part takes: the ControlNet's come first, then the UNet's halves
        self.control_shifts, self.control_blocks = len(control_shifts), len(self.control.transformer_blocks())
        self.half_shifts = self.control_shifts + self.unet.encoder_res_blocks
        self.half_blocks = self.control_blocks + self.unet.encoder_transformers
        self.shift_widths = [shift.shape[1] for shift in shifts]
        self.register_buffer("context_weight", weight, persistent=False)
        self.register_buffer("shift_table", torch.cat(shifts, dim=1), persistent=False)

    def keys_values(self, context: Tensor) -> Tensor:
        """context (b, n, context_dim) -> (b, n, the widths of all keys and values)."""
        return F.linear(context, self.context_weight)

    def forward(self, x: Tensor, t: Tensor, hint_features: Tensor, keys_values: Tensor) -> Tensor:
        """v of a noisy latent; `hint_features` and `keys_values` are those of `StepConditions`.

        Args:
            x: (b, channels, h, w), any real precision.
            t: (b,) int64 timesteps, each below the schedule's number.

        Returns:
            (b, channels, h, w) float32.
        """
        control = self.correct(x, t, hint_features, keys_values)
        return self.decode(self.encode(x, t, keys_values), control, t, keys_values)

    def correct(self, x: Tensor, t: Tensor, hint_features: Tensor, keys_values: Tensor) -> list[Tensor]:
        """The ControlNet: one tensor for every output of `encode`, and independent of it."""
        shifts, pairs = self._split(t, keys_values)
        shifts, pairs = shifts[: self.control_shifts], pairs[: self.control_blocks]
        return self.control.body(x.to(self.shift_table.dtype), hint_features, shifts, pairs)

    def encode(self, x: Tensor, t: Tensor, keys_values: Tensor) -> list[Tensor]:
        """The UNet's first half."""
        shifts, pairs = self._split(t, keys_values)
        shifts, pairs = shifts[self.control_shifts :], pairs[self.control_blocks :]
        return self.unet.encode(x.to(self.shift_table.dtype), iter(shifts), iter(pairs))

    def decode(
        self, encoded: Sequence[Tensor], control: Sequence[Tensor], t: Tensor, keys_values: Tensor
    ) -> Tensor:
        """The UNet's second half, to v (b, channels, h, w) float32."""
        shifts, pairs = self._split(t, keys_values)
        shifts, pairs = shifts[self.half_shifts :], pairs[self.half_blocks :]
        return self.unet.decode(encoded, control, iter(shifts), iter(pairs)).float()

    def _split(self, t: Tensor, keys_values: Tensor) -> tuple[Sequence[Tensor], list[KeysValues]]:
        """The shifts of all residual blocks, and the keys and values of all cross-attentions."""
        parts = keys_values.split(self.widths, dim=2)
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        return self.shift_table[t].split(self.shift_widths, dim=1), pairs
