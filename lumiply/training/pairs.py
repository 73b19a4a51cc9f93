"""Training pairs made on the fly from rendered rooms: any colour, any ambient level, lamp drawn or pasted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from lumiply.colors import COLORS, LAMP_RGB
from lumiply.synth.compose import (
    AMBIENT_TARGET_DAY,
    AMBIENT_TARGET_NIGHT,
    LayerBatch,
    compose,
    normalise_layers,
)
from lumiply.training.pool import RoomPool


@dataclass(frozen=True)
class PairBatch:
    """b pairs in k lamp colours.

    Attributes:
        off, on: (b, 3, H, W) in [0, 1].
        colors: (k, 3) linear RGB.
        which: (b,) int64, each pair's colour.
    """

    off: Tensor
    on: Tensor
    colors: Tensor
    which: Tensor


@dataclass(frozen=True)
class PairOptions:
    """How pairs are drawn.

    Attributes:
        colors_per_batch: k; reference pictures are encoded once a colour, not once a pair.
        free_colors: share of the colours drawn from the whole gamut rather than from the seven.
        pasted: share of pairs whose photo shows the lamp pasted flat, as the product's client does it.
        opacity: range of the pasted lamp's opacity.
        strength: range of the lamp's strength.
        crop: side of a random square, in pixels, that is kept of each batch; None keeps whole pictures.
        recolor: share of rooms whose materials change colour, by exchanging the channels of every layer.
        tint: standard deviation of the daylight's colour, in natural logarithms a channel.
        flip: mirror left and right at random. Never up and down: rooms have floors.
        zoomed: share of rooms of which a window around the lamp is shown, stretched to the whole picture.
        least_window: least side of that window, as a share of the picture's; width and height are drawn apart.
    """

    colors_per_batch: int = 8
    free_colors: float = 0.25
    pasted: float = 0.5
    opacity: tuple[float, float] = (0.75, 1.0)
    strength: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    crop: int | None = None
    recolor: float = 0.5
    tint: float = 0.2
    zoomed: float = 0.0
    least_window: float = 0.6


def seven_colors(device: torch.device | str) -> Tensor:
    """(7, 3) linear RGB in the order of `COLORS`."""
    return torch.tensor([LAMP_RGB[color] for color in COLORS], device=device)


def random_colors(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3) linear RGB of any hue and of saturation 0.5 to 1, largest component 1."""
    device = generator.device
    hue = torch.rand(count, 1, generator=generator, device=device) * 6.0
    saturation = 0.5 + 0.5 * torch.rand(count, 1, generator=generator, device=device)
    offset = torch.tensor([[0.0, 4.0, 2.0]], device=device)
    pure = ((hue + offset) % 6.0 - 3.0).abs().sub(1.0).clamp(0.0, 1.0)
    return 1.0 - saturation * (1.0 - pure)


def draw_colors(options: PairOptions, generator: torch.Generator) -> Tensor:
    """(colors_per_batch, 3) linear RGB, some of the seven and some of any hue."""
    device, k = generator.device, options.colors_per_batch
    named = seven_colors(device)[torch.randint(len(COLORS), (k,), generator=generator, device=device)]
    is_free = torch.rand(k, 1, generator=generator, device=device) < options.free_colors
    return torch.where(is_free, random_colors(k, generator), named)


class PairDataset(IterableDataset[PairBatch]):
    """An endless stream of batches, deterministic by seed as long as the pool does not grow."""

    def __init__(
        self,
        pool: RoomPool,
        batch: int,
        *,
        seed: int,
        options: PairOptions | None = None,
        refresh_every: int = 0,
        length: int | None = None,
        fixed_colors: Tensor | None = None,
    ) -> None:
        """Args:
        refresh_every: batches after which the pool takes in new rooms (0: never).
        length: batches that end the stream (None: never).
        fixed_colors: (k, 3) linear RGB of every batch, in place of drawn ones.
        """
        self.pool, self.batch, self.seed = pool, batch, seed
        self.options = options or PairOptions()
        self.refresh_every, self.length, self.fixed_colors = refresh_every, length, fixed_colors

    def __iter__(self) -> Iterator[PairBatch]:
        generator = torch.Generator(self.pool.device).manual_seed(self.seed)
        done = 0
        while self.length is None or done < self.length:
            if self.refresh_every and done % self.refresh_every == 0:
                self.pool.refresh(wait=False)
            index = torch.randint(len(self.pool), (self.batch,), generator=generator, device=self.pool.device)
            yield draw_pairs(self.pool.layers(index), self.options, generator, self.fixed_colors)
            done += 1


def draw_pairs(
    layers: LayerBatch,
    options: PairOptions,
    generator: torch.Generator,
    fixed_colors: Tensor | None = None,
) -> PairBatch:
    """Compose one pair a room; `layers` as `RoomPool.layers` gives them."""
    device, batch = layers.ambient.device, len(layers.ambient)

    def uniform(low: float, high: float, count: int = batch) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    colors = draw_colors(options, generator) if fixed_colors is None else fixed_colors
    which = torch.arange(batch, device=device) % len(colors)
    layers = zoom(vary_colors(layers, options, generator), options, generator)
    layers = normalise_layers(layers, 1.0)
    pair = compose(
        layers.ambient,
        layers.ambient_without_lamp,
        layers.lamp,
        layers.lamp_alpha,
        layers.lamp_flat,
        color=colors[which],
        strength=uniform(*options.strength),
        exposure=uniform(math.log(AMBIENT_TARGET_NIGHT), math.log(AMBIENT_TARGET_DAY)).exp(),
        pasted=uniform(0.0, 1.0) < options.pasted,
        paste_opacity=uniform(*options.opacity),
    )
    off, on = pair.off, pair.on
    if options.flip:
        mirrored = (uniform(0.0, 1.0) < 0.5)[:, None, None, None]
        off = torch.where(mirrored, off.flip(3), off)
        on = torch.where(mirrored, on.flip(3), on)
    if options.crop is not None and options.crop < off.shape[-1]:
        top, left = (
            int(torch.randint(side - options.crop + 1, (), generator=generator, device=device))
            for side in off.shape[2:]
        )
        window = (..., slice(top, top + options.crop), slice(left, left + options.crop))
        off, on = off[window].contiguous(), on[window].contiguous()
    return PairBatch(off, on, colors, which)


def vary_colors(layers: LayerBatch, options: PairOptions, generator: torch.Generator) -> LayerBatch:
    """Other materials and other daylight for the same rooms; both keep light additive, so pairs stay true."""
    device, batch = layers.ambient.device, len(layers.ambient)
    changed = torch.rand(batch, 1, generator=generator, device=device) < options.recolor
    shuffled = torch.rand(batch, 3, generator=generator, device=device).argsort(dim=1)
    order = torch.where(changed, shuffled, torch.arange(3, device=device))[:, :, None, None]
    tint = (options.tint * torch.randn(batch, 3, generator=generator, device=device)).exp()[:, :, None, None]

    def recolored(layer: Tensor) -> Tensor:
        return layer.gather(1, order.expand_as(layer))

    return LayerBatch(
        ambient=recolored(layers.ambient) * tint,
        ambient_without_lamp=recolored(layers.ambient_without_lamp) * tint,
        lamp=recolored(layers.lamp),
        lamp_alpha=layers.lamp_alpha,
        lamp_flat=recolored(layers.lamp_flat),
    )


def zoom(layers: LayerBatch, options: PairOptions, generator: torch.Generator) -> LayerBatch:
    """Other views of the same rooms: windows that hold the lamp's middle, at the size of the whole picture."""
    if not options.zoomed:
        return layers
    device, batch = layers.ambient.device, len(layers.ambient)

    def uniform(count: int) -> Tensor:
        return torch.rand(batch, count, generator=generator, device=device)

    kept = uniform(1) >= options.zoomed
    side = (options.least_window + (1.0 - options.least_window) * uniform(2)).where(
        ~kept, torch.ones((), device=device)
    )
    middle = lamp_middle(layers.lamp_alpha)
    # the window's middle: inside the picture, and no further from the lamp's than half its side
    low = torch.maximum(middle - side / 2, side / 2)
    high = torch.minimum(middle + side / 2, 1.0 - side / 2)
    centre = low + (high - low) * uniform(2)
    turn = torch.zeros(batch, 2, 3, device=device)
    turn[:, 0, 0], turn[:, 1, 1] = side.unbind(1)
    turn[:, :, 2] = 2 * centre - 1
    channels = [layers.ambient, layers.ambient_without_lamp, layers.lamp, layers.lamp_alpha, layers.lamp_flat]
    whole = torch.cat(channels, dim=1)
    grid = F.affine_grid(turn, list(whole.shape), align_corners=False)
    seen = F.grid_sample(whole, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return LayerBatch(*seen.split([channel.shape[1] for channel in channels], dim=1))


def lamp_middle(alpha: Tensor) -> Tensor:
    """Centre of mass of coverages (b, 1, H, W) as (b, 2), x and y in [0, 1]; the picture's centre without a lamp."""
    weight = alpha[:, 0] + 1e-6
    x, y = weight.sum(dim=1), weight.sum(dim=2)  # b h w -> b w, b h
    means = []
    for profile in (x, y):
        place = (torch.arange(profile.shape[1], device=alpha.device) + 0.5) / profile.shape[1]
        means.append((profile * place).sum(dim=1) / profile.sum(dim=1))
    return torch.stack(means, dim=1)
