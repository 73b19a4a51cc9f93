"""A contact sheet of rooms, to judge them by eye: one row a room."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from lumiply.synth.compose import (
    AMBIENT_TARGET_DAY,
    AMBIENT_TARGET_NIGHT,
    LayerBatch,
    compose,
    normalise_layers,
)
from lumiply.synth.render import RoomLayers

COLUMNS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("off", (0, 0, 0)),
    ("pasted", (0, 0, 0)),
    ("white", (1, 1, 1)),
    ("red", (1, 0.03, 0.02)),
    ("blue", (0.03, 0.08, 1)),
)
"""Title and linear lamp colour of every column."""
LABEL_HEIGHT = 14


def compose_row(room: RoomLayers, number: int) -> list[np.ndarray]:
    """The pictures of one row, (H, W, 3) display values each; the daylight varies with the room's number."""
    fraction = (number * 0.618) % 1.0
    target = AMBIENT_TARGET_NIGHT * (AMBIENT_TARGET_DAY / AMBIENT_TARGET_NIGHT) ** fraction
    layers = normalise_layers(LayerBatch.from_rooms([room]), target)
    pictures = []
    for title, color in COLUMNS:
        pair = compose(
            layers.ambient,
            layers.ambient_without_lamp,
            layers.lamp,
            layers.lamp_alpha,
            layers.lamp_flat,
            color=torch.tensor([color], dtype=torch.float32),
            strength=torch.ones(1),
            exposure=torch.ones(1),
            pasted=torch.tensor([title == "pasted"]),
            paste_opacity=0.9,
        )
        shown = pair.off if title in ("off", "pasted") else pair.on
        pictures.append(shown[0].permute(1, 2, 0).numpy())
    return pictures


def contact_sheet(rooms: Iterable[tuple[int, RoomLayers]]) -> Image.Image:
    """A labelled sheet of (number, room) pairs, a row each."""
    rows = [(number, compose_row(room, number)) for number, room in rooms]
    if not rows:
        raise ValueError("a contact sheet needs at least one room")
    height, width = rows[0][1][0].shape[:2]
    sheet = Image.new("RGB", (width * len(COLUMNS), (height + LABEL_HEIGHT) * len(rows)), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for index, (number, pictures) in enumerate(rows):
        top = index * (height + LABEL_HEIGHT)
        for column, (picture, (title, _)) in enumerate(zip(pictures, COLUMNS, strict=True)):
            draw.text((column * width + 3, top + 1), f"{number} {title}", fill=(230, 230, 230))
            sheet.paste(
                Image.fromarray((picture * 255 + 0.5).astype(np.uint8)), (column * width, top + LABEL_HEIGHT)
            )
    return sheet


def save_sheet(path: str | os.PathLike[str], rooms: Iterable[tuple[int, RoomLayers]]) -> None:
    """Write a contact sheet, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        contact_sheet(rooms).save(part, format="PNG")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
