"""Render the layers of a synthetic room: daylight with and without the lamp, the lamp's light, the lamp itself."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumiply.files import written_whole
from lumiply.synth import scene as scenes
from lumiply.synth.backend import load_mitsuba
from lumiply.synth.denoise import denoise
from lumiply.synth.spec import RoomSpec

logger = logging.getLogger(__name__)

MAX_DEPTH = 6
"""Longest light path: five bounces."""
GUIDE_SAMPLES = 16
"""Rays per pixel for coverage, albedo and normals."""
FIREFLY_RATIO = 1.6
"""A pixel brighter than so many times its third brightest neighbour is an outlier (a corner has three like it)."""
HALF_LIMIT = 6.0e4
"""Largest radiance stored: float16 ends at 65504."""
Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RoomLayers:
    """The layers of one room, linear RGB radiance in float32 (in float16 where `load` was asked for it).

    Attributes:
        ambient: (H, W, 3) the room with the lamp present and off.
        ambient_without_lamp: (H, W, 3) the same room under the same light, the lamp taken out.
        lamp: (H, W, 3) the light of the white lamp alone: its glow, its direct and its bounced light.
        lamp_alpha: (H, W) coverage of the lamp's own pixels, 0..1.
        lamp_flat: (H, W, 3) the lamp in even studio light, not multiplied by its coverage.
    """

    ambient: Image
    ambient_without_lamp: Image
    lamp: Image
    lamp_alpha: Image
    lamp_flat: Image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed float16 .npz, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            f.name: np.clip(getattr(self, f.name), 0, HALF_LIMIT).astype(np.float16) for f in fields(self)
        }
        with written_whole(target) as beside, beside.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, half: bool = False) -> RoomLayers:
        """Read what `save` wrote, as float32, or with `half` as the float16 that is stored.

        Raises:
            ValueError: the file is damaged, or lacks a layer.
        """
        dtype = np.float16 if half else np.float32
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                missing = [f.name for f in fields(cls) if f.name not in arrays]
                if missing:
                    raise ValueError(f"{path} is no rendered room: it lacks {', '.join(missing)}")
                return cls(**{f.name: arrays[f.name].astype(dtype, copy=False) for f in fields(cls)})
        except (zipfile.BadZipFile, zlib.error, EOFError) as exc:
            raise ValueError(f"{path} is damaged ({exc}); delete it and render it again") from exc


@dataclass(frozen=True, eq=False)
class _Guides:
    """What the camera sees first.

    Attributes:
        distance: to the first surface, for every ray.
        studio: the surface in even studio light, for every ray.
        albedo, normals: (H, W, 3) means over each pixel; normals in the camera's frame.
        depth: (H, W, 3) mean distance, thrice the same.
        glow: (H, W, 3) share of the pixel that a light fills, thrice the same.
    """

    distance: Any
    studio: Any
    albedo: Any
    normals: Any
    depth: Any
    glow: Any


class Renderer:
    """Renders rooms, one after another, deterministically by (room, size, samples, variant).

    Args:
        variant: a Mitsuba variant of `backend.VARIANTS`, or None for the best that starts.
        size: pixels along each side of the square layers.
        samples: light paths per pixel and layer.
        denoise: False leaves the noise in; otherwise OptiX takes it out on a GPU, and the filter of
            `lumiply.synth.denoise` where OptiX is missing. True insists on OptiX and warns without it.

    Constructing one loads nothing; the first `render` starts Mitsuba.
    """

    def __init__(
        self, variant: str | None = None, size: int = 256, samples: int = 64, denoise: bool | None = None
    ) -> None:
        if size < 8 or samples < 1:
            raise ValueError(f"size must be 8 or more and samples 1 or more, got {size} and {samples}")
        self.variant, self.size, self.samples, self.denoise = variant, size, samples, denoise

    @cached_property
    def _mi(self) -> ModuleType:
        return load_mitsuba(self.variant)

    @cached_property
    def _optix(self) -> Any | None:
        """The OptiX denoiser where it is asked for, or None.

        It is not tried unasked: with a driver that lacks its data it ends the whole process, past any handler.
        """
        mi: Any = self._mi
        if not self.denoise:
            return None
        if not mi.variant().startswith("cuda"):
            logger.warning("OptiX needs the CUDA variant, not %s: using the wavelet filter", mi.variant())
            return None
        try:
            return mi.OptixDenoiser(
                input_size=[self.size, self.size], albedo=True, normals=True, temporal=False
            )
        except Exception as error:
            logger.warning("the OptiX denoiser does not start, using the wavelet filter: %s", error)
            return None

    def render(self, spec: RoomSpec) -> RoomLayers:
        """Render all layers of a room.

        Raises:
            RendererUnavailable: Mitsuba is missing or does not start here.
        """
        mi: Any = self._mi
        slots = scenes.assemble(spec)
        scene = scenes.to_mitsuba(mi, slots, spec.camera, self.size, self.samples, MAX_DEPTH)
        switches = mi.traverse(scene)
        lights = {slot.name: slot for slot in slots if slot.radiance is not None}

        with_lamp = self._first_hits(scene)
        self._shine(switches, lights, scenes.AMBIENT_LIGHTS)
        noisy = [self._trace(scene, with_lamp, spec.seed)]
        self._shine(switches, lights, scenes.LAMP_LIGHTS)
        noisy.append(self._trace(scene, with_lamp, spec.seed + 1))
        self._take_out_lamp(switches)
        self._shine(switches, lights, scenes.AMBIENT_LIGHTS)
        without_lamp = self._first_hits(scene)
        noisy.append(self._trace(scene, without_lamp, spec.seed))
        ambient, lamp, empty = self._smoothed(noisy, [with_lamp, with_lamp, without_lamp])
        alpha, flat = self._lamp_sprite(with_lamp, without_lamp)
        return RoomLayers(
            ambient=ambient, ambient_without_lamp=empty, lamp=lamp, lamp_alpha=alpha, lamp_flat=flat
        )

    def _shine(self, switches: Any, lights: dict[str, scenes.Slot], lit: tuple[str, ...]) -> None:
        """Switch on the lights named in `lit` and all others off."""
        mi: Any = self._mi
        for name, slot in lights.items():
            on = name in lit
            assert slot.radiance is not None
            switches[f"{name}.emitter.radiance.data"] = mi.TensorXf(slot.radiance * np.float32(on))
            switches[f"{name}.emitter.sampling_weight"] = scenes.sampling_weight(slot) if on else 0.0
        switches.update()

    def _take_out_lamp(self, switches: Any) -> None:
        """Sink the lamp's meshes far below the floor."""
        mi: Any = self._mi
        for name in scenes.LAMP_MESHES:
            key = f"{name}.vertex_positions"
            switches[key] = switches[key] - mi.Float(500.0)
        switches.update()

    def _trace(self, scene: Any, guides: _Guides, seed: int) -> Image:
        """Path-trace the scene under the lights that are on: (H, W, 3), noisy."""
        mi: Any = self._mi
        picture = np.array(mi.render(scene, spp=self.samples, seed=seed), dtype=np.float32)
        albedo, glow = (np.array(guide, dtype=np.float32) for guide in (guides.albedo, guides.glow))
        return remove_fireflies(picture, albedo, glow[..., 0] > 0)

    def _smoothed(self, noisy: Sequence[Image], guides: Sequence[_Guides]) -> list[Image]:
        """Layers without their noise, each by its own guides; as they are if that is what was asked for."""
        mi: Any = self._mi
        if self.denoise is False:
            return list(noisy)
        if self._optix is None:
            return self._filtered(noisy, guides)
        smooth = [
            self._optix(mi.TensorXf(layer), albedo=guide.albedo, normals=guide.normals)
            for layer, guide in zip(noisy, guides, strict=True)
        ]
        return [np.clip(np.nan_to_num(np.array(layer, dtype=np.float32)), 0, None) for layer in smooth]

    def _filtered(self, noisy: Sequence[Image], guides: Sequence[_Guides]) -> list[Image]:
        """The wavelet filter over all layers at once, on the GPU where Mitsuba runs there."""
        device = "cuda" if self._mi.variant().startswith("cuda") and torch.cuda.is_available() else "cpu"
        planes = [
            _planes([np.array(getattr(guide, name), dtype=np.float32) for guide in guides])
            for name in ("albedo", "normals", "depth")
        ]
        layers = [_planes(noisy), planes[0], planes[1], planes[2][:, :1]]
        smooth = denoise(*(layer.to(device) for layer in layers)).cpu()
        return list(smooth.permute(0, 2, 3, 1).numpy())  # b c h w -> b h w c

    def _first_hits(self, scene: Any) -> _Guides:
        """Follow a regular grid of rays per pixel to the first surface."""
        import drjit as dr

        mi: Any = self._mi
        side = int(GUIDE_SAMPLES**0.5)
        count = self.size * self.size * side * side
        index = dr.arange(mi.UInt32, count)
        pixel, sub = index // (side * side), index % (side * side)
        pitch = dr.opaque(mi.Float, 1.0 / self.size)
        x = (mi.Float(pixel % self.size) + (mi.Float(sub % side) + 0.5) / side) * pitch
        y = (mi.Float(pixel // self.size) + (mi.Float(sub // side) + 0.5) / side) * pitch
        ray, _ = scene.sensors()[0].sample_ray(mi.Float(0), mi.Float(0), mi.Point2f(x, y), mi.Point2f(0.5))
        hit = scene.ray_intersect(ray)
        bsdf = hit.bsdf(ray)
        albedo = bsdf.eval_attribute_3("base_color", hit, hit.is_valid())
        facing = dr.abs(dr.dot(hit.sh_frame.n, ray.d))
        studio = albedo * (0.42 + 0.22 * (0.5 + 0.5 * hit.sh_frame.n.z) + 0.4 * facing * facing)
        distance = dr.select(hit.is_valid(), hit.t, 1e6)
        axes = scene.sensors()[0].axes
        normal = mi.Vector3f(*[dr.dot(hit.sh_frame.n, axis) for axis in axes])
        depth = self._mean(mi.Color3f(dr.minimum(distance, 100.0)))
        glow = self._mean(mi.Color3f(dr.select(hit.emitter(scene) != None, mi.Float(1.0), mi.Float(0.0))))  # noqa: E711
        guides = _Guides(distance, studio, self._mean(albedo), self._mean(normal), depth, glow)
        dr.eval(guides.distance, guides.studio, guides.albedo, guides.normals, guides.depth, guides.glow)
        return guides

    def _mean(self, values: Any) -> Any:
        """Mean of (3, H*W*S) values over the S rays of every pixel: tensor (H, W, 3)."""
        import drjit as dr

        mi: Any = self._mi
        block = GUIDE_SAMPLES
        planes = [dr.block_sum(channel, block) / block for channel in values]
        return mi.TensorXf(dr.ravel(mi.Color3f(*planes)), shape=(self.size, self.size, 3))

    def _lamp_sprite(self, present: _Guides, absent: _Guides) -> tuple[Image, Image]:
        """Coverage (H, W) and studio look (H, W, 3) of what is nearer with the lamp than without it."""
        import drjit as dr

        mi: Any = self._mi
        covered = dr.select(present.distance < absent.distance - 1e-4, mi.Float(1.0), mi.Float(0.0))
        alpha = np.array(dr.block_sum(covered, GUIDE_SAMPLES) / GUIDE_SAMPLES, dtype=np.float32).reshape(
            self.size, self.size
        )
        total = np.array(self._mean(present.studio * covered), dtype=np.float32)
        flat = np.where(alpha[..., None] > 0, total / np.maximum(alpha[..., None], 1e-6), 0)
        return alpha, np.clip(flat, 0, 1).astype(np.float32)


def _planes(images: Sequence[Image]) -> Tensor:
    """b images (H, W, c) -> (b, c, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def remove_fireflies(
    picture: Image, albedo: Image | None = None, lights: NDArray[np.bool_] | None = None
) -> Image:
    """Bring single pixels that outshine their neighbours down to them.

    Args:
        picture: (H, W, 3) radiance.
        albedo: (H, W, 3); where it is known, irradiance is compared, so that a bright speck of a texture stays.
        lights: (H, W) pixels to leave alone, because a light is seen there.
    """
    picture = np.clip(np.nan_to_num(picture, posinf=0.0), 0, None)
    base = np.float32(1.0) if albedo is None else np.maximum(albedo, 0.02)
    light = (picture / base) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    for _ in range(2):
        padded = np.pad(light, 1, mode="edge")
        height, width = light.shape
        near = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3) if (i, j) != (1, 1)]
        limit = FIREFLY_RATIO * np.partition(np.stack(near), 5, axis=0)[5] + 1e-4
        outlier = light > limit if lights is None else (light > limit) & ~lights
        factor = np.where(outlier, limit / np.maximum(light, 1e-9), 1.0).astype(np.float32)
        light, picture = light * factor, picture * factor[..., None]
    return picture.astype(np.float32)
