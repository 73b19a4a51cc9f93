"""Attention, once for the whole repository, and the transformer block of Stable Diffusion's feature maps.

Source: Attention Is All You Need (arXiv 1706.03762), eq. 1; LDM (arXiv 2112.10752), section 3.3;
GLU Variants (arXiv 2002.05202) for GEGLU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.layers import GroupNorm, zero_init

#: Keys and values of one attention, each (b, m, heads * d).
KeysValues = tuple[Tensor, Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention over `heads` heads: softmax(q k^T / sqrt(d)) v.

    Args:
        q: (b, n, heads * d).
        k, v: (b, m, heads * d).
        causal: position i sees positions up to i only.

    Returns:
        (b, n, heads * d).
    """
    # views, not einops, which a compiler traces into: a step of the full model is traced in an eighth of the time
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))  # (b, heads, n, d)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Attention from feature-map tokens to a context, or to themselves; q, k and v have no bias."""

    packed: Tensor | None
    #: Takes the place of `packed` where q, k and v are computed in another precision.
    to_qkv: nn.Module | None

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        if width % head_width:
            raise ValueError(f"width {width} is not a multiple of the head width {head_width}")
        self.heads = width // head_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))
        self.register_buffer("packed", None, persistent=False)
        self.register_module("to_qkv", None)

    def keys_values(self, context: Tensor) -> KeysValues:
        """context (b, m, context_width) -> what `forward` takes, each (b, m, width)."""
        return self.to_k(context), self.to_v(context)

    @torch.no_grad()
    def pack(self) -> None:
        """For inference: from now on self-attention gets q, k and v from one product. No memory is added.

        Changing the weights, their precision or device afterwards has no effect on self-attention.
        """
        layers = (self.to_q, self.to_k, self.to_v)
        self.packed = torch.cat([layer.weight for layer in layers])
        for layer, rows in zip(layers, self.packed.chunk(3), strict=True):
            layer.weight.data = rows

    def forward(self, x: Tensor, keys_values: KeysValues | None = None) -> Tensor:
        """x (b, n, width), keys and values of a context or None for self-attention -> (b, n, width)."""
        if keys_values is None and self.to_qkv is not None:
            q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        elif keys_values is None and self.packed is not None:
            q, k, v = F.linear(x, self.packed).chunk(3, dim=-1)
        else:
            q = self.to_q(x)
            k, v = self.keys_values(x) if keys_values is None else keys_values
        return self.to_out(attention(q, k, v, self.heads))


class GEGLU(nn.Module):
    """First half times the exact (erf) GELU of the second half of one projection."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; each behind a LayerNorm and around a residual."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width, head_width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context_width, head_width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), keys_values)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, zero at initialisation (LDM, appendix E.2.1)."""

    def __init__(
        self, channels: int, context_width: int, head_width: int, *, depth: int = 1, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, context_width, head_width) for _ in range(depth)
        )
        self.proj_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, keys_values: Iterator[KeysValues]) -> Tensor:
        """x (b, c, h, w) -> (b, c, h, w); takes one pair of `keys_values` a block."""
        height_width = x.shape[2:]
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (b, h * w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, next(keys_values))
        tokens = self.proj_out(tokens).unflatten(1, height_width)
        return (x.permute(0, 2, 3, 1) + tokens).permute(
            0, 3, 1, 2
        )  # as `ldm.layers.join`: channels stay last
