"""The HTTP server: `create_app`, and `FlaskServerThread` to serve it."""

from lumiply.server.app import create_app
from lumiply.server.slot import EngineSlot
from lumiply.server.thread import FlaskServerThread

__all__ = ["EngineSlot", "FlaskServerThread", "create_app"]
