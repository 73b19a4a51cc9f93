"""The text tower of OpenCLIP ViT-H-14, as Stable Diffusion 2.1 uses it. The prompt is always the empty one.

Our own code rather than open_clip's, because driving that library's layers one by one gives other results from
one release to the next.

Source: CLIP (arXiv 2103.00020), section 2.4; OpenCLIP ViT-H-14 (LAION-2B) for sizes and names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.attention import attention


@dataclass(frozen=True)
class TextTowerParams:
    """Sizes of a text tower.

    Attributes:
        skip_last: transformer blocks at the end that are stored and not run (1: "penultimate").
        causal_mask: True for LumiNet's own weights, False for Lumiply's (MODEL.md, section 6).
        vocab_size: the last two entries are the start and the end token.

    Raises:
        ValueError: the width does not divide into heads, or nothing would be run.
    """

    width: int = 1024
    heads: int = 16
    layers: int = 24
    context_length: int = 77
    vocab_size: int = 49408
    skip_last: int = 1
    causal_mask: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if not 0 <= self.skip_last < self.layers:
            raise ValueError(f"skip_last must be in [0, {self.layers}), got {self.skip_last}")
        if self.context_length < 2 or self.vocab_size < 3:
            raise ValueError("the empty prompt needs 2 positions and 3 tokens at least")


def normal(*shape: int, deviation: float = 1.0) -> nn.Parameter:
    """Normal numbers; on the meta device none, where torch would import its whole compiler to draw them."""
    values = torch.empty(shape)
    return nn.Parameter(values if values.is_meta else values.normal_(0.0, deviation))


class PackedAttention(nn.Module):
    """Multi-head self-attention with q, k and v in one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = normal(3 * width, width, deviation=width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attention(q, k, v, self.heads, causal=causal))


class MLP(nn.Module):
    """Linear, exact (erf) GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """x + attn(ln_1 x), then x + mlp(ln_2 x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = PackedAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Holds the blocks under the name that the files use."""

    def __init__(self, params: TextTowerParams) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(params.width, params.heads) for _ in range(params.layers)
        )


class TextTower(nn.Module):
    """Tokens to one vector a position. `text_projection` and `logit_scale` are stored and unused."""

    def __init__(self, params: TextTowerParams) -> None:
        super().__init__()
        self.params = params
        self.token_embedding = nn.Embedding.from_pretrained(
            normal(params.vocab_size, params.width), freeze=False
        )
        self.positional_embedding = normal(params.context_length, params.width, deviation=0.01)
        self.transformer = Transformer(params)
        self.ln_final = nn.LayerNorm(params.width)
        self.text_projection = normal(params.width, params.width, deviation=params.width**-0.5)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (b, context_length) int64 -> (b, context_length, width)."""
        x = self.token_embedding(tokens) + self.positional_embedding
        blocks = self.transformer.resblocks
        for block in blocks[: len(blocks) - self.params.skip_last]:
            x = block(x, self.params.causal_mask)
        return self.ln_final(x)


class FrozenOpenCLIPEmbedder(nn.Module):
    """The conditioning stage: the text tower applied to the empty prompt."""

    def __init__(self, params: TextTowerParams) -> None:
        super().__init__()
        self.model = TextTower(params)

    def empty_prompt(self, device: torch.device) -> Tensor:
        """(1, context_length) tokens of "": start, end, then zeros."""
        params = self.model.params
        tokens = torch.zeros(1, params.context_length, dtype=torch.long, device=device)
        tokens[0, 0] = params.vocab_size - 2
        tokens[0, 1] = params.vocab_size - 1
        return tokens

    def forward(self) -> Tensor:
        """(1, context_length, width), the same for every request."""
        return self.model(self.empty_prompt(self.model.positional_embedding.device))
