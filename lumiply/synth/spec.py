"""What a synthetic room is: plain frozen dataclasses, no meshes and no renderer.

Lengths are metres, angles radians, colours linear RGB. The room spans x in [0, width], y in [0, depth] and
z in [0, height]; the camera looks roughly along +y, so y = depth is the back wall.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Color = tuple[float, float, float]
Vector = tuple[float, float, float]
Split = Literal["train", "validation", "test"]
LampKind = Literal["table", "pendant", "floor"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LAMP_KINDS: tuple[LampKind, ...] = ("table", "pendant", "floor")


@dataclass(frozen=True)
class Surface:
    """A material: a procedural pattern in some colours.

    Attributes:
        pattern: a name of `textures.PATTERNS`; "plain" has no texture.
        colors: linear albedos that the pattern uses, the first one prevails.
        tile: metres that one repeat of the texture covers.
        roughness: 0.1 (polished) .. 1 (matte).
        metallic: 0 or 1.
        seed: of the pattern's noise.
    """

    pattern: str
    colors: tuple[Color, ...]
    tile: float = 1.0
    roughness: float = 0.8
    metallic: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Item:
    """A piece of furniture: a kind of `furniture.FURNITURE`, its place and its materials.

    Attributes:
        position: the middle of its footprint (or of its mount, for what hangs on a wall).
        yaw: rotation about z; 0 means that its back faces the back wall.
        size: width, depth, height before rotation.
        surfaces: materials, in the order which its builder documents.
        seed: of its small details.
    """

    kind: str
    position: Vector
    yaw: float
    size: Vector
    surfaces: tuple[Surface, ...]
    seed: int


@dataclass(frozen=True)
class Window:
    """A window in a wall.

    Attributes:
        wall: "left", "right", "back", or "front" (behind the camera).
        center: distance along the wall and height of its middle.
        size: width and height.
        panes: panes side by side and one above the other.
        sky: radiance of the sky seen through it.
        ground: radiance of the land and houses below the horizon.
        frame: colour of the frame.
    """

    wall: str
    center: tuple[float, float]
    size: tuple[float, float]
    panes: tuple[int, int]
    sky: Color
    ground: Color
    frame: Color


@dataclass(frozen=True)
class AmbientLight:
    """The light of the room without the lamp.

    Attributes:
        mood: a name for it, "day", "overcast", "evening", "night" or "ceiling".
        ceiling: radiance of the ceiling light, black for none.
        ceiling_place: x, y of the ceiling light's middle.
        ceiling_size: width and depth of its panel.
        fill: radiance of the rest of the flat, behind the camera.
        sun: radiance of the sun through an opening behind the camera, black for none.
        sun_direction: from the sun into the room, unit length.
        sun_opening: x, z of the middle, width and height of the opening in the front wall.
    """

    mood: str
    ceiling: Color
    ceiling_place: tuple[float, float]
    ceiling_size: tuple[float, float]
    fill: Color
    sun: Color
    sun_direction: Vector
    sun_opening: tuple[float, float, float, float]


@dataclass(frozen=True)
class Lamp:
    """The lamp, or a group of equal pendants.

    Attributes:
        kind: "table", "pendant" or "floor".
        positions: where each stands (middle of the foot), or hangs (the point on the ceiling).
        shade: "cone", "drum", "dome", "globe", "cylinder" or "bell".
        shade_radius: largest radius of the shade.
        shade_height: height of the shade.
        height: from the foot to the top of the shade, or from the ceiling to the bottom of it.
        glow: radiance of the shade's outside relative to its inside, 0 for metal.
        stem: shape of a table lamp's body: "rod", "vase", "ball", "block", "cone" or "tripod".
        stem_radius: radius of the rod, largest radius of the other bodies.
        offset: how far an arc or a side arm carries the shade sideways.
        yaw: direction of that offset.
        shade_surface, body_surface: materials.
    """

    kind: LampKind
    positions: tuple[Vector, ...]
    shade: str
    shade_radius: float
    shade_height: float
    height: float
    glow: float
    stem: str
    stem_radius: float
    offset: float
    yaw: float
    shade_surface: Surface
    body_surface: Surface


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square output; `aspect` is the photo's width / height before it is squashed."""

    position: Vector
    yaw: float
    pitch: float
    horizontal_fov: float
    aspect: float


@dataclass(frozen=True)
class RoomSpec:
    """One synthetic room, complete: everything that the renderer needs, and nothing random left."""

    seed: int
    split: Split
    size: Vector
    floor: Surface
    walls: tuple[Surface, Surface, Surface, Surface]
    ceiling: Surface
    trim: Surface
    windows: tuple[Window, ...]
    light: AmbientLight
    items: tuple[Item, ...]
    lamp: Lamp
    camera: Camera
