"""Synthetic training rooms: sample a room, render its light in layers, compose photos with the lamp off and on.

`sample_room` needs numpy, `compose` needs torch alone; only `Renderer` needs Mitsuba (extra `lumiply[training]`), and
starts it at the first render.
"""

from lumiply.synth.compose import ComposedPair, LayerBatch, compose, normalise_layers, tone_curve
from lumiply.synth.render import Renderer, RoomLayers
from lumiply.synth.rooms import sample_room
from lumiply.synth.spec import RoomSpec, Split
from lumiply.synth.stream import render_to_folder, stream_rooms

__all__ = [
    "ComposedPair",
    "LayerBatch",
    "Renderer",
    "RoomLayers",
    "RoomSpec",
    "Split",
    "compose",
    "normalise_layers",
    "render_to_folder",
    "sample_room",
    "stream_rooms",
    "tone_curve",
]
