"""Converting a model to half precision and colours to numbers, and proving that its pictures stay the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lumiply.engine.palette import Constants
from lumiply.engine.start import load_pipeline
from lumiply.errors import WeightsError
from lumiply.files import sync_folder
from lumiply.weights import Header, WeightFiles, load_model, read_adaptor, save_converted

#: PSNR in dB that a picture must keep, the bar for half precision (MODEL.md, tests/golden).
LEAST_PSNR = 45.0


@dataclass(frozen=True)
class Report:
    """What a conversion gave.

    Attributes:
        networks, palette: the files.
        psnr: by colour, in dB, of the converted model's picture against the original's in float32.
    """

    networks: Path
    palette: Path
    psnr: dict[str, float]


def convert(
    files: WeightFiles,
    folder: Path,
    photo: Image.Image,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    steps: int,
    seed: int,
) -> Report:
    """Write the converted form of `files` into `folder`, after a render with it has been compared.

    Args:
        photo: what is rendered to compare, in all colours.
        device, dtype: where, and in which precision, the converted model renders; the original does in float32.

    Raises:
        WeightsError: `files` cannot be used, or the pictures differ too much; nothing is written then.
        OSError: the disk is full or the folder cannot be written; nothing is written then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as aside:
        made = _write(files, Path(aside), device)
        original = _render(files, made.colors, photo, device, torch.float32, steps, seed)
        halved = _render(made.files, made.colors, photo, device, dtype, steps, seed)
        psnr = {
            color: picture_psnr(ours, exact)
            for color, ours, exact in zip(made.colors, halved, original, strict=True)
        }
        worst = min(psnr, key=lambda color: psnr[color])
        if psnr[worst] < LEAST_PSNR:
            raise WeightsError(
                f"converted, the picture in {worst} keeps {psnr[worst]:.1f} dB of the original's, and "
                f"{LEAST_PSNR:.0f} dB are needed. Nothing was written; use the original files."
            )
        assert made.files.palette is not None
        paths = [folder / path.name for path in (made.files.checkpoint, made.files.palette)]
        for path in paths:
            os.replace(Path(aside) / path.name, path)
    sync_folder(folder)
    return Report(paths[0], paths[1], psnr)


@dataclass(frozen=True)
class _Made:
    files: WeightFiles
    colors: tuple[str, ...]


def _write(files: WeightFiles, folder: Path, device: torch.device | str) -> _Made:
    params = files.params()
    model = load_model(params, files.checkpoint, bypass=files.bypass, latents=files.latents)
    adaptors = {color: read_adaptor(path, params) for color, path in files.adaptors.items()}
    state = model.state_dict()
    constants = Constants.of(model.eval().requires_grad_(False), adaptors, device)
    palette = constants.palette
    numbers = {"codes": palette.codes, "tokens": palette.tokens, "text": constants.text}
    header = Header(files.variant, files.fingerprint(), palette.names)
    networks, colors = save_converted(folder, state, numbers, header)
    return _Made(WeightFiles(files.variant, files.config, networks, palette=colors), palette.names)


def _render(
    files: WeightFiles,
    colors: Sequence[str],
    photo: Image.Image,
    device: torch.device | str,
    dtype: torch.dtype,
    steps: int,
    seed: int,
) -> list[Image.Image]:
    pipeline = load_pipeline(files, device=device, dtype=dtype)
    return list(pipeline.relight(photo, colors, seed=seed, steps=steps).values())


def picture_psnr(ours: Image.Image, exact: Image.Image) -> float:
    """PSNR in dB of two pictures of one size; infinite where they are equal."""
    difference = np.asarray(ours, np.float64) - np.asarray(exact, np.float64)
    mean = float(np.square(difference).mean())
    return float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))
