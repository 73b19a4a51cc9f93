"""The UNet of Stable Diffusion 2.1, and the encoder half that ControlNet shares with it.

Source: LDM (arXiv 2112.10752), Stable Diffusion 2.1's configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.attention import BasicTransformerBlock, KeysValues, SpatialTransformer
from ldm.layers import GroupNorm, Upsample, join, norm_of_conv, zero_init


@dataclass(frozen=True)
class UNetParams:
    """Sizes of a UNet. `attention_resolutions` are downsampling factors that get a SpatialTransformer.

    Raises:
        ValueError: a size is not positive, or widths do not divide into groups and heads.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (8, 4, 2, 1)
    num_head_channels: int = 64
    context_dim: int = 1024
    transformer_depth: int = 1
    norm_num_groups: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "model_channels", "num_res_blocks", "context_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult needs positive entries, got {self.channel_mult}")
        for mult in self.channel_mult:
            width = mult * self.model_channels
            if width % self.norm_num_groups or width % self.num_head_channels:
                raise ValueError(
                    f"width {width} must divide into {self.norm_num_groups} groups "
                    f"and heads of {self.num_head_channels}"
                )

    @property
    def downsampling(self) -> int:
        """Factor between the latent and the smallest feature map."""
        return 2 ** (len(self.channel_mult) - 1)


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding, cosines first: f_i = exp(-ln(10000) i / (width / 2)).

    Args:
        t: (b,) raw timesteps, any real dtype.

    Returns:
        (b, width) float32.
    """
    half = width // 2
    frequency = torch.exp(
        -math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a projection of the time embedding, the shift, added between them."""

    def __init__(self, c_in: int, c_out: int, emb_width: int, *, norm_groups: int, dropout: float) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(norm_groups, c_in, eps=1e-5), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, c_out))
        self.out_layers = nn.Sequential(
            GroupNorm(norm_groups, c_out, eps=1e-5),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(nn.Conv2d(c_out, c_out, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def shift(self, emb: Tensor) -> Tensor:
        """emb (b, emb_width) -> (b, c_out)."""
        return self.emb_layers(emb)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """x (b, c_in, h, w), shift (b, c_out) -> (b, c_out, h, w)."""
        norm, silu, conv = self.in_layers
        out_norm, *out_layers = self.out_layers
        h = norm_of_conv(out_norm, conv, silu(norm(x)), shift)  # type: ignore[arg-type]
        for layer in out_layers:
            h = layer(h)
        return self.skip_connection(x) + h


class Downsample(nn.Module):
    """3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Stage(nn.Sequential):
    """Layers in a row, each given what it takes: the next shift, the next keys and values, or neither."""

    def forward(  # type: ignore[override]
        self, x: Tensor, shifts: Iterator[Tensor], keys_values: Iterator[KeysValues]
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, next(shifts))
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, keys_values)
            else:
                x = layer(x)
        return x


class UNetEncoder(nn.Module):
    """Time embedding, input blocks and middle block: what the UNet and the ControlNet have in common.

    A network is evaluated in two parts: `time_shifts` and `keys_values`, which depend on t and on the context
    alone, and `body`, which takes them. `forward` does one after the other; a sampler that knows its timesteps
    and its context does the first part once (`cldm.steps`).

    Attributes:
        block_channels: width of every input block's output, in order.
    """

    def __init__(self, params: UNetParams) -> None:
        super().__init__()
        self.params = params
        width = params.model_channels
        self.emb_width = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, self.emb_width), nn.SiLU(), nn.Linear(self.emb_width, self.emb_width)
        )
        stages = [Stage(nn.Conv2d(params.in_channels, width, 3, padding=1))]
        self.block_channels = [width]
        channels, factor = width, 1
        for level, mult in enumerate(params.channel_mult):
            for _ in range(params.num_res_blocks):
                stages.append(self.stage(channels, mult * width, factor))
                channels = mult * width
                self.block_channels.append(channels)
            if level + 1 < len(params.channel_mult):
                stages.append(Stage(Downsample(channels)))
                self.block_channels.append(channels)
                factor *= 2
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = Stage(
            self.res_block(channels, channels), self.transformer(channels), self.res_block(channels, channels)
        )

    def res_block(self, c_in: int, c_out: int) -> ResBlock:
        return ResBlock(
            c_in, c_out, self.emb_width, norm_groups=self.params.norm_num_groups, dropout=self.params.dropout
        )

    def transformer(self, channels: int) -> SpatialTransformer:
        return SpatialTransformer(
            channels,
            self.params.context_dim,
            self.params.num_head_channels,
            depth=self.params.transformer_depth,
            norm_groups=self.params.norm_num_groups,
        )

    def stage(self, c_in: int, c_out: int, factor: int, tail: Iterable[nn.Module] = ()) -> Stage:
        """One residual block, its transformer if downsampling by `factor` has one, then `tail`."""
        has_attention = factor in self.params.attention_resolutions
        return Stage(
            self.res_block(c_in, c_out), *([self.transformer(c_out)] if has_attention else []), *tail
        )

    def embed_time(self, t: Tensor) -> Tensor:
        """(b,) raw timesteps -> (b, 4 * model_channels), in the network's own precision."""
        sinusoid = timestep_embedding(t, self.params.model_channels)
        return self.time_embed(sinusoid.to(next(self.time_embed.parameters()).dtype))

    def time_shifts(self, t: Tensor) -> list[Tensor]:
        """(b,) raw timesteps -> (b, c_out) for every residual block, in the order in which they run."""
        emb = self.embed_time(t)
        return [block.shift(emb) for block in self.modules() if isinstance(block, ResBlock)]

    @property
    def encoder_res_blocks(self) -> int:
        """Residual blocks among the input blocks and in the middle block."""
        return self._in_encoder(ResBlock)

    @property
    def encoder_transformers(self) -> int:
        """Transformer blocks among the input blocks and in the middle block."""
        return self._in_encoder(BasicTransformerBlock)

    def _in_encoder(self, kind: type[nn.Module]) -> int:
        stages = (*self.input_blocks, self.middle_block)
        return sum(isinstance(module, kind) for stage in stages for module in stage.modules())

    def transformer_blocks(self) -> list[BasicTransformerBlock]:
        """In the order in which they run."""
        return [block for block in self.modules() if isinstance(block, BasicTransformerBlock)]

    def keys_values(self, context: Tensor) -> list[KeysValues]:
        """context (b, n, context_dim) -> keys and values of every cross-attention, in the order of running."""
        return [block.attn2.keys_values(context) for block in self.transformer_blocks()]


class UNetModel(UNetEncoder):
    """The denoiser, with a place for ControlNet's outputs on the middle block and on every skip connection."""

    def __init__(self, params: UNetParams) -> None:
        super().__init__(params)
        skips = list(self.block_channels)
        channels = skips[-1]
        levels = len(params.channel_mult)
        stages = []
        for level in reversed(range(levels)):
            width = params.channel_mult[level] * params.model_channels
            for block in range(params.num_res_blocks + 1):
                up = level > 0 and block == params.num_res_blocks
                tail = [Upsample(width)] if up else []
                stages.append(self.stage(channels + skips.pop(), width, 2**level, tail))
                channels = width
        self.output_blocks = nn.ModuleList(stages)
        self.out = nn.Sequential(
            GroupNorm(params.norm_num_groups, channels, eps=1e-5),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, params.out_channels, 3, padding=1)),
        )

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, control: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Predict v (or whatever the network was trained to predict).

        Args:
            x: (b, in_channels, h, w), h and w multiples of `params.downsampling`.
            t: (b,) raw timesteps.
            context: (b, n, context_dim).
            control: one tensor for each input block and a last one for the middle block, or None.

        Returns:
            (b, out_channels, h, w).
        """
        return self.body(x, self.time_shifts(t), self.keys_values(context), control)

    def body(
        self,
        x: Tensor,
        time_shifts: Sequence[Tensor],
        keys_values: Sequence[KeysValues],
        control: Sequence[Tensor] | None,
    ) -> Tensor:
        """`forward` with what depends on t or on the context alone already computed."""
        shifts, pairs = iter(time_shifts), iter(keys_values)
        return self.decode(self.encode(x, shifts, pairs), control, shifts, pairs)

    def encode(self, x: Tensor, shifts: Iterator[Tensor], keys_values: Iterator[KeysValues]) -> list[Tensor]:
        """Outputs of all input blocks, then of the middle block; needs no control."""
        outputs = [x]
        for stage in (*self.input_blocks, self.middle_block):
            outputs.append(stage(outputs[-1], shifts, keys_values))
        return outputs[1:]

    def decode(
        self,
        encoded: Sequence[Tensor],
        control: Sequence[Tensor] | None,
        shifts: Iterator[Tensor],
        keys_values: Iterator[KeysValues],
    ) -> Tensor:
        """The rest of `body`, from what `encode` gives."""
        if control is not None:
            encoded = [h + add for h, add in zip(encoded, control, strict=True)]
        *skips, h = encoded
        for stage, skip in zip(self.output_blocks, reversed(skips), strict=True):
            h = stage(join(h, skip), shifts, keys_values)
        return self.out(h)
