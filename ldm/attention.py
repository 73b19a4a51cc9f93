"""Attention, once for the whole repository, and the transformer block of Stable Diffusion's feature maps.

Source: Attention Is All You Need (arXiv 1706.03762), eq. 1; LDM (arXiv 2112.10752), section 3.3;
GLU Variants (arXiv 2002.05202) for GEGLU.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ldm.layers import zero_init


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention over `heads` heads: softmax(q k^T / sqrt(d)) v.

    Args:
        q: (b, n, heads * d).
        k, v: (b, m, heads * d).
        causal: position i sees positions up to i only.

    Returns:
        (b, n, heads * d).
    """
    q, k, v = (rearrange(part, "b n (heads d) -> b heads n d", heads=heads) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(mixed, "b heads n d -> b n (heads d)")


class CrossAttention(nn.Module):
    """Attention from feature-map tokens to `context`, or to themselves; q, k and v have no bias."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        if width % head_width:
            raise ValueError(f"width {width} is not a multiple of the head width {head_width}")
        self.heads = width // head_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (b, n, width), context (b, m, context_width) or None for self-attention -> (b, n, width)."""
        source = x if context is None else context
        return self.to_out(attention(self.to_q(x), self.to_k(source), self.to_v(source), self.heads))


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

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, zero at initialisation (LDM, appendix E.2.1)."""

    def __init__(
        self, channels: int, context_width: int, head_width: int, *, depth: int = 1, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, context_width, head_width) for _ in range(depth)
        )
        self.proj_out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, c, h, w), context (b, m, context_width) -> (b, c, h, w)."""
        height = x.shape[2]
        tokens = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + rearrange(self.proj_out(tokens), "b (h w) c -> b c h w", h=height)
