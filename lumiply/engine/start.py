"""From settings to a running engine: choose device, precision and weights, load, say which."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

import torch

from lumiply.engine.local import Light, LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import EngineInfo
from lumiply.errors import SettingsError
from lumiply.settings import Settings
from lumiply.weights import Adaptor, WeightFiles, find_adaptors, find_weights, load_model, read_adaptor

log = logging.getLogger(__name__)

#: Denoising steps of a render that names none: the published number at full size; for the mini model the number
#: whose pictures are nearest the truth on rooms it never saw (docs/training.md).
DEFAULT_STEPS: Final = {"full": 50, "mini": 1}
MODEL_NAMES: Final = {"full": "lumiply", "mini": "lumiply-mini"}


def choose_device(wanted: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU without one.

    Raises:
        SettingsError: a GPU is asked for that is not there.
    """
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device {wanted} is asked for and {torch.cuda.device_count()} GPUs are visible; "
            "set LUMIPLY_DEVICE=auto, or install a torch build for your GPU"
        )
    return device


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto" is half precision on a GPU, where it keeps 75 dB of the picture, and float32 on a CPU."""
    if wanted == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]


def load_pipeline(files: WeightFiles, *, device: torch.device | str, dtype: torch.dtype) -> Pipeline:
    """Read the files and set the model up on `device`.

    Raises:
        WeightsError: a file is missing, damaged, or not what its place needs.
    """
    params = files.params()
    model = load_model(params, files.checkpoint, bypass=files.bypass, latents=files.latents)
    return Pipeline(model, read_adaptors(files), device=device, dtype=dtype)


def read_adaptors(files: WeightFiles) -> dict[str, Adaptor]:
    """The adaptors by colour.

    Raises:
        WeightsError: a file is missing, damaged, or not this model's.
    """
    params = files.params()
    return {color: read_adaptor(path, params) for color, path in files.adaptors.items()}


def device_name(device: torch.device) -> str:
    """The device in words, such as "cuda:0 (NVIDIA H200)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def initialize_engine(settings: Settings | None = None) -> LocalEngine:
    """Load what `settings` ask for (the environment's, by default) and start the worker.

    The published files are used where `ckpt/` and `adaptors/` hold them, the embedded mini model otherwise.

    Raises:
        SettingsError: the device is not there.
        WeightsError: a file is missing, damaged, or not what its place needs.
    """
    settings = settings or Settings.from_env()
    device = choose_device(settings.device)
    dtype = choose_precision(settings.precision, device)
    files = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model)
    log.info("%s", files.describe())
    pipeline = load_pipeline(files, device=device, dtype=dtype)
    if missing := pipeline.palette.missing():
        log.warning("no adaptor for %s: requests for these colours will be refused", ", ".join(missing))
    precision = str(dtype).removeprefix("torch.")
    info = EngineInfo(
        model=MODEL_NAMES[files.variant],
        weights=files.describe(),
        fingerprint=f"{files.fingerprint()}-{precision}-ddim",
        device=device_name(device),
        precision=precision,
        image_size=pipeline.picture_size,
        steps=settings.steps or DEFAULT_STEPS[files.variant],
        colors=pipeline.palette.names,
    )

    def read_light() -> Light:
        folder = files.checkpoint.parent if files.variant == "mini" else settings.adaptors_dir
        now = replace(files, adaptors=find_adaptors(folder))
        named = replace(info, weights=now.describe(), fingerprint=f"{now.fingerprint()}-{precision}-ddim")
        return Light(read_adaptors(now), named)

    return LocalEngine(pipeline, info, queue_size=settings.queue_size, read_light=read_light)
