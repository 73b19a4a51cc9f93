"""Start Mitsuba once, on the GPU where there is one, and teach it the one sensor that rooms need."""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import sys
import threading
from functools import lru_cache
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

VARIANTS = ("cuda_ad_rgb", "llvm_ad_rgb")
"""Usable Mitsuba variants, best first; the scalar ones lack the array types that the layers are computed with."""
LLVM_VARIABLE = "DRJIT_LIBLLVM_PATH"
LLVM_VERSIONS = (19, 18, 17, 16, 15)
"""Versions of LLVM that Dr.Jit runs well on, best first; others may crash."""
LLVM_PATTERNS = (
    "/usr/lib/*-linux-gnu/libLLVM.so.{0}*",
    "/usr/lib/*-linux-gnu/libLLVM-{0}.so*",
    "/usr/lib/llvm-{0}/lib/libLLVM*.so*",
    "/opt/homebrew/opt/llvm@{0}/lib/libLLVM.dylib",
    "/usr/local/opt/llvm@{0}/lib/libLLVM.dylib",
)
SENSOR = "lumiply_squashed_pinhole"
_start_lock = threading.Lock()


class RendererUnavailable(RuntimeError):
    """Mitsuba is missing, or none of its variants starts here; the message names the next step."""


def find_llvm() -> str | None:
    """Path of an LLVM library that suits Dr.Jit, or None."""
    for version in LLVM_VERSIONS:
        for pattern in LLVM_PATTERNS:
            found = sorted(glob.glob(pattern.format(version)))
            if found:
                return found[0]
    return None


def is_available() -> bool:
    """Whether Mitsuba is installed; starts nothing."""
    return importlib.util.find_spec("mitsuba") is not None


def load_mitsuba(variant: str | None = None) -> ModuleType:
    """Import Mitsuba and choose its variant: the one asked for, or the first of `VARIANTS` that starts.

    Raises:
        RendererUnavailable: Mitsuba is not installed, or the variant does not start on this machine.
    """
    if variant is not None and variant not in VARIANTS:
        raise RendererUnavailable(
            f"variant {variant!r} cannot render rooms; choose one of {', '.join(VARIANTS)}"
        )
    with _start_lock:
        if "drjit" not in sys.modules and not os.environ.get(LLVM_VARIABLE):
            library = find_llvm()
            if library:
                os.environ[LLVM_VARIABLE] = library
        try:
            import mitsuba as mi
        except ImportError as error:
            message = (
                "synthetic rooms are rendered with Mitsuba: install it with  pip install 'lumiply[training]'"
            )
            raise RendererUnavailable(message) from error
        for name in (variant,) if variant else VARIANTS:
            if _starts(mi, name):
                _register_sensor(name)
                return mi
    tried = variant or ", ".join(VARIANTS)
    raise RendererUnavailable(
        f"no Mitsuba variant of {tried} starts here: it needs an NVIDIA GPU, or an "
        f"LLVM library of version {min(LLVM_VERSIONS)} to {max(LLVM_VERSIONS)} "
        f"(apt-get install libllvm19, or name its file in {LLVM_VARIABLE})"
    )


def _starts(mi: Any, variant: str) -> bool:
    if variant not in mi.variants():
        return False
    try:
        mi.set_variant(variant)
        mi.Float(1.0) + mi.Float([1.0, 2.0])  # touches the backend
        import drjit as dr

        dr.eval(mi.Float([1.0, 2.0]) * 2)
    except (ImportError, RuntimeError) as error:
        logger.info("Mitsuba variant %s does not start: %s", variant, error)
        return False
    return True


@lru_cache(maxsize=len(VARIANTS))
def _register_sensor(variant: str) -> None:
    """Register the pinhole camera with separate horizontal and vertical extents for the active variant.

    Mitsuba's own perspective camera has square pixels only. A photo of any aspect squashed to a square has not.
    """
    import drjit as dr
    import mitsuba as mi

    class SquashedPinhole(mi.Sensor):
        """Properties: `to_world` (x left, y up, z forward), `half_width` and `half_height` at distance 1."""

        def __init__(self, props: Any) -> None:
            super().__init__(props)
            matrix = props["to_world"].matrix
            self.axes = [
                mi.Vector3f(*[float(matrix[row, column]) for row in range(3)]) for column in range(3)
            ]
            self.eye = mi.Point3f(*[float(matrix[row, 3]) for row in range(3)])
            self.half = mi.Vector2f(float(props["half_width"]), float(props["half_height"]))
            dr.make_opaque(self.axes, self.eye, self.half)

        def sample_ray(
            self, time: Any, wavelength: Any, position: Any, aperture: Any, active: Any = True
        ) -> Any:
            x = (1 - 2 * position.x) * self.half.x
            y = (1 - 2 * position.y) * self.half.y
            direction = dr.normalize(self.axes[0] * x + self.axes[1] * y + self.axes[2])
            return mi.Ray3f(mi.Point3f(self.eye), direction, time), mi.Color3f(1.0)

        def sample_ray_differential(
            self, time: Any, wavelength: Any, position: Any, aperture: Any, active: Any = True
        ) -> Any:
            ray, weight = self.sample_ray(time, wavelength, position, aperture, active)
            return mi.RayDifferential3f(ray), weight

        def bbox(self) -> Any:
            return mi.ScalarBoundingBox3f()

    mi.register_sensor(SENSOR, SquashedPinhole)
