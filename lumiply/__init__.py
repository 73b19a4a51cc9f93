"""Lumiply: turns the lamp on in a photo of a room, in seven colours.

Importing this package is cheap; each name below loads what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from lumiply.version import __version__

if TYPE_CHECKING:
    from lumiply.api import initialize_engine, run_inference_single_image, switch_adapter
    from lumiply.client import Client
    from lumiply.colors import COLORS
    from lumiply.errors import BusyError, ImageError, LumiplyError, SettingsError, UserError, WeightsError
    from lumiply.server import FlaskServerThread, create_app
    from lumiply.settings import Settings

__all__ = [
    "COLORS",
    "BusyError",
    "Client",
    "FlaskServerThread",
    "ImageError",
    "LumiplyError",
    "Settings",
    "SettingsError",
    "UserError",
    "WeightsError",
    "__version__",
    "create_app",
    "initialize_engine",
    "run_inference_single_image",
    "switch_adapter",
]

_HOMES: Final = {
    "COLORS": "lumiply.colors",
    "Client": "lumiply.client",
    "FlaskServerThread": "lumiply.server",
    "Settings": "lumiply.settings",
    "create_app": "lumiply.server",
    "initialize_engine": "lumiply.api",
    "run_inference_single_image": "lumiply.api",
    "switch_adapter": "lumiply.api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "lumiply.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
