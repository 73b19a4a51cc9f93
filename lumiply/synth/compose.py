"""Turn the layers of a synthetic room into a training pair: the photo with the lamp off and the photo with it on.

Light adds up in linear light, so one rendered room gives any lamp colour, any lamp strength and any daylight:

    on  = tone_curve(exposure * ambient + strength * color * lamp)
    off = tone_curve(exposure * ambient)                                 the lamp stands in the room, switched off
        | sprite blended flat over tone_curve(exposure * room)           the client pasted the lamp over the photo

Notation: B rooms, 3 linear RGB channels, H x W pixels. Everything here is pure torch, batched, on any device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

LUMINANCE_WEIGHTS = (0.2126, 0.7152, 0.0722)
"""Rec. 709 weights of linear R, G, B."""
SHOULDER_START = 0.6
"""Linear value up to which the tone curve is the identity; above it rolls off towards 1."""
AMBIENT_TARGET_NIGHT = 0.03
"""Median linear luminance of a dark evening."""
AMBIENT_TARGET_DAY = 0.25
"""Median linear luminance of a bright day."""
LAMP_TARGET = 0.16
"""Mean over all pixels of min(luminance, 1) that a lamp of strength 1 adds."""
LAMP_PEAK = 3.0
"""Luminance that the brightest parts of the normalised lamp layer approach: keeps the colour of a glowing shade."""
GAIN_RANGE = (1e-4, 1e4)
"""Smallest and largest factor that normalisation ever applies to a layer."""
BISECTION_STEPS = 40
"""Halvings of the logarithmic gain range: leaves a relative error below 1e-9."""


class RoomArrays(Protocol):
    """What a rendered room offers: float arrays, H x W x 3 (`lamp_alpha`: H x W). `render.RoomLayers` is one."""

    @property
    def ambient(self) -> Any: ...
    @property
    def ambient_without_lamp(self) -> Any: ...
    @property
    def lamp(self) -> Any: ...
    @property
    def lamp_alpha(self) -> Any: ...
    @property
    def lamp_flat(self) -> Any: ...


@dataclass(frozen=True)
class LayerBatch:
    """The layers of B rooms in linear light, channels first.

    Attributes:
        ambient: (B, 3, H, W) the room with the lamp present and off.
        ambient_without_lamp: (B, 3, H, W) the same room, the lamp taken out.
        lamp: (B, 3, H, W) the light of a white lamp alone.
        lamp_alpha: (B, 1, H, W) coverage of the lamp's own pixels, 0..1.
        lamp_flat: (B, 3, H, W) the lamp as a flat studio picture, not multiplied by its alpha.
    """

    ambient: Tensor
    ambient_without_lamp: Tensor
    lamp: Tensor
    lamp_alpha: Tensor
    lamp_flat: Tensor

    @classmethod
    def from_rooms(cls, rooms: Iterable[RoomArrays], device: torch.device | str = "cpu") -> LayerBatch:
        """Stack rendered rooms of one size into a batch of float32 tensors on `device`."""
        kept = list(rooms)
        if not kept:
            raise ValueError("a batch needs at least one room, got none")

        def stack(name: str) -> Tensor:
            images = [torch.as_tensor(getattr(room, name)).to(device) for room in kept]
            images = [image[..., None] if image.ndim == 2 else image for image in images]
            return torch.stack(images).permute(0, 3, 1, 2).float().contiguous()  # b h w c -> b c h w

        return cls(**{field.name: stack(field.name) for field in fields(cls)})

    def to(self, device: torch.device | str) -> LayerBatch:
        """The same batch on another device."""
        return LayerBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class ComposedPair:
    """A training pair: `off` and `on`, each (B, 3, H, W), display values (sRGB) in [0, 1]."""

    off: Tensor
    on: Tensor


def luminance(linear: Tensor) -> Tensor:
    """Rec. 709 luminance: (B, 3, H, W) -> (B, H, W)."""
    weights = linear.new_tensor(LUMINANCE_WEIGHTS)
    return torch.einsum("bchw,c->bhw", linear, weights)


def srgb_encode(linear: Tensor) -> Tensor:
    """The sRGB transfer function (IEC 61966-2-1): linear 0..1 to display 0..1, any shape."""
    linear = linear.clamp(0.0, 1.0)
    power = 1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, power)


def shoulder(linear: Tensor) -> Tensor:
    """Identity up to `SHOULDER_START`, then an exponential roll-off to 1 that continues value and slope (C1)."""
    room_left = 1.0 - SHOULDER_START
    over = (linear - SHOULDER_START).clamp_min(0.0)
    return linear.clamp(0.0, SHOULDER_START) + room_left * -torch.expm1(-over / room_left)


def tone_curve(linear: Tensor) -> Tensor:
    """The camera: linear light (any shape, 0 upwards) to display values in [0, 1]; monotone."""
    return srgb_encode(shoulder(linear))


def ambient_gain(ambient: Tensor, target: Tensor | float) -> Tensor:
    """(B,) factor that brings the median luminance of `ambient` (B, 3, H, W) to `target` (B,) or one number."""
    median = luminance(ambient).flatten(1).median(dim=1).values
    return (torch.as_tensor(target, device=ambient.device) / median.clamp_min(1e-8)).clamp(*GAIN_RANGE)


def lamp_gain(lamp: Tensor, target: float = LAMP_TARGET) -> Tensor:
    """(B,) factor g with mean over pixels of min(g * luminance, 1) = `target`, by bisection on log g.

    Where the lamp reaches too few pixels for `target`, the answer is the upper end of `GAIN_RANGE`.
    """
    light = luminance(lamp).flatten(1).clamp_min(0.0)  # b h w -> b (h w)
    low, high = light.new_tensor(GAIN_RANGE).log().unbind()
    low, high = low.expand(len(light)), high.expand(len(light))
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        too_bright = (middle.exp()[:, None] * light).clamp_max(1.0).mean(dim=1) > target
        low, high = torch.where(too_bright, low, middle), torch.where(too_bright, middle, high)
    return ((low + high) / 2).exp()


def compress_highlights(lamp: Tensor) -> Tensor:
    """Roll luminance above 1 off towards `LAMP_PEAK`, hue kept; below 1 nothing changes: (B, 3, H, W)."""
    light = luminance(lamp)
    over = (light - 1.0).clamp_min(0.0)
    span = LAMP_PEAK - 1.0
    rolled = light.clamp_max(1.0) + span * -torch.expm1(-over / span)
    return lamp * torch.where(over > 0, rolled / light.clamp_min(1.0), torch.ones_like(light))[:, None]


def normalise_layers(
    layers: LayerBatch, ambient_target: Tensor | float, lamp_target: float = LAMP_TARGET
) -> LayerBatch:
    """Bring a batch to a known scale: autoexposed ambient light, a lamp of predictable strength.

    Args:
        layers: linear layers in the renderer's units.
        ambient_target: (B,) or one number, the median luminance of `ambient` afterwards; sample it between
            `AMBIENT_TARGET_NIGHT` and `AMBIENT_TARGET_DAY`.
        lamp_target: mean of min(luminance, 1) over the pixels of `lamp` afterwards.

    Both ambient layers are scaled by the same factor, so the empty room stays comparable. The lamp's highlights
    above 1 are compressed, see `compress_highlights`; that leaves the mean unchanged.

    Raises:
        ValueError: `lamp_target` is not between 0 and 1.
    """
    scaled = scale_layers(layers, ambient_target, lamp_target)
    return replace(scaled, lamp=compress_highlights(scaled.lamp))


def scale_layers(
    layers: LayerBatch, ambient_target: Tensor | float, lamp_target: float = LAMP_TARGET
) -> LayerBatch:
    """`normalise_layers` without the compression: a factor a room and a light."""
    if not 0.0 < lamp_target < 1.0:
        raise ValueError(
            f"lamp_target is a mean of values up to 1, so it lies between 0 and 1; got {lamp_target}"
        )
    by_ambient = _per_image(ambient_gain(layers.ambient, ambient_target))
    by_lamp = _per_image(lamp_gain(layers.lamp, lamp_target))
    return LayerBatch(
        ambient=layers.ambient * by_ambient,
        ambient_without_lamp=layers.ambient_without_lamp * by_ambient,
        lamp=layers.lamp * by_lamp,
        lamp_alpha=layers.lamp_alpha,
        lamp_flat=layers.lamp_flat,
    )


def compose(
    ambient: Tensor,
    ambient_without_lamp: Tensor,
    lamp: Tensor,
    lamp_alpha: Tensor,
    lamp_flat: Tensor,
    *,
    color: Tensor,
    strength: Tensor,
    exposure: Tensor,
    pasted: Tensor,
    paste_opacity: Tensor | float = 1.0,
) -> ComposedPair:
    """Compose one training pair per room from normalised layers.

    Args:
        ambient, ambient_without_lamp, lamp, lamp_flat: (B, 3, H, W) linear, see `LayerBatch`.
        lamp_alpha: (B, 1, H, W), 0..1.
        color: (B, 3) linear RGB of the lamp; white is (1, 1, 1).
        strength: (B,) factor on the normalised lamp.
        exposure: (B,) factor on the ambient light alone.
        pasted: (B,) bool; True where `off` shows the lamp pasted flat over the empty room, without shadow.
        paste_opacity: (B,) or one number, 0..1, of the pasted sprite.

    Raises:
        ValueError: a per-room setting has another batch size than the layers, or a wrong type.
    """
    _check_settings(len(ambient), color=color, strength=strength, exposure=exposure, pasted=pasted)
    gain = _per_image(exposure)
    light = color[:, :, None, None] * _per_image(strength) * lamp
    on = tone_curve(gain * ambient + light)

    opacity = torch.as_tensor(paste_opacity, dtype=ambient.dtype, device=ambient.device).expand(len(ambient))
    cover = lamp_alpha * _per_image(opacity)
    flat = cover * tone_curve(lamp_flat) + (1.0 - cover) * tone_curve(gain * ambient_without_lamp)
    off = torch.where(_per_image(pasted), flat, tone_curve(gain * ambient))
    return ComposedPair(off=off, on=on)


def _per_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _check_settings(batch: int, **settings: Tensor) -> None:
    for name, value in settings.items():
        expected = (batch, 3) if name == "color" else (batch,)
        if tuple(value.shape) != expected:
            raise ValueError(
                f"{name} must have shape {expected} for a batch of {batch}, got {tuple(value.shape)}"
            )
    if settings["pasted"].dtype != torch.bool:
        raise ValueError(f"pasted must be a bool tensor, got {settings['pasted'].dtype}")
