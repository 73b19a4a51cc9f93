"""From settings to a running engine: choose device, precision and weights, load, say which."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from cldm import ControlLDMParams
from lumiply.engine.ahead import AheadOfTime
from lumiply.engine.allocator import keep_memory
from lumiply.engine.clock import timed
from lumiply.engine.compiling import BackgroundCompiler
from lumiply.engine.local import Light, LocalEngine
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pauses import Pauses
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.presets import PRESETS, Sampling, choose_sampling
from lumiply.engine.protocol import EngineInfo, renders_at_once
from lumiply.engine.stepper import BATCH_SIZES, CudaCapture
from lumiply.engine.tasks import compile_tasks
from lumiply.engine.threads import set_threads
from lumiply.engine.wake import wake
from lumiply.errors import SettingsError
from lumiply.settings import Settings
from lumiply.weights import (
    Adaptor,
    WeightFiles,
    find_adaptors,
    find_weights,
    load_converted,
    load_model,
    read_adaptor,
)

log = logging.getLogger(__name__)

#: Denoising steps of a render that names none: the published number at full size; for the mini model the number
#: whose pictures are nearest the truth on rooms it never saw (docs/training.md).
DEFAULT_STEPS: Final = {"full": 50, "mini": 1}
#: Pictures denoised at once. On a processor a larger batch is no quicker, and seven are one photo's colours.
MAX_BATCH: Final = {"cuda": 14, "cpu": 7}
#: What is compiled, in this order: seven colours first, then one, then what continuous batching meets.
COMPILED_SIZES: Final = (7, 1, 14, 8, 4, 2)
#: Compute capability of the first GPUs with float8 products (Ada Lovelace).
FLOAT8_SINCE: Final = (8, 9)
#: And of the first on which the full model was measured to be quicker with them (Hopper).
FLOAT8_QUICK_SINCE: Final = (9, 0)
MODEL_NAMES: Final = {"full": "lumiply", "mini": "lumiply-mini"}


@dataclass(frozen=True)
class Numbers:
    """What a pipeline computes in.

    Attributes:
        dtype: of all but the first stage.
        decode_dtype: of the first stage.
        float8: whether to try float8 for the step's wide transformers.
    """

    dtype: torch.dtype
    decode_dtype: torch.dtype
    float8: bool


def choose_device(wanted: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU without one.

    Raises:
        SettingsError: a GPU is asked for that is not there.
    """
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device("cuda:0" if wanted == "cuda" else wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device {wanted} is asked for and {torch.cuda.device_count()} GPUs are visible; "
            "set LUMIPLY_DEVICE=auto, or install a torch build for your GPU"
        )
    return device


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """ "auto" is half precision on a GPU, where it keeps 56 dB of the picture or more, and float32 on a CPU.

    That is without float8, see `choose_float8`. Where a GPU has no bfloat16 (before Ampere), float16 takes its place.
    """
    if wanted == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if wanted == "float8":
        return torch.float16 if device.type == "cuda" else torch.float32
    dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[wanted]
    if dtype is torch.bfloat16 and device.type == "cuda" and not _gpu_has_bfloat16(device):
        log.warning(
            "%s has no bfloat16; float16 is used, which is as small and as quick", device_name(device)
        )
        return torch.float16
    return dtype


def choose_decode_precision(wanted: str, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Of the first stage: "auto" on a CPU takes bfloat16 where the CPU computes in it (about three times as fast).

    The decoder's picture then keeps 61 dB of the one in float32; latents are denoised in float32 all the same.
    """
    if wanted == "auto" and device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return dtype


def choose_float8(wanted: str, device: torch.device, *, gains: bool) -> bool:
    """Whether to try float8 for the step's wide transformers.

    Args:
        gains: whether it is quicker with this model as it is run; "auto" then takes it on GPUs where that was
            measured.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if wanted == "auto":
        return gains and capability >= FLOAT8_QUICK_SINCE
    if wanted == "float8" and capability < FLOAT8_SINCE:
        log.warning("%s has no float8 products; half precision or float32 is used", device_name(device))
    return wanted == "float8" and capability >= FLOAT8_SINCE


def choose_numbers(settings: Settings, device: torch.device, *, full: bool) -> Numbers:
    """All that `settings.precision` decides, for the full model or the mini model."""
    dtype = choose_precision(settings.precision, device)
    # each product rounds what goes into it: compiled, beside other work; uncompiled, in passes of its own
    float8 = choose_float8(settings.precision, device, gains=full and settings.compile != "off")
    return Numbers(dtype, choose_decode_precision(settings.precision, device, dtype), float8)


def _gpu_has_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _cpu_has_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products on this processor that are no emulation."""
    return torch.backends.mkldnn.is_available() and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return frozenset()
    return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())


def load_pipeline(
    files: WeightFiles,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    decode_dtype: torch.dtype | None = None,
    float8: bool = False,
) -> Pipeline:
    """Read the files and set the model up on `device`; see `Pipeline`.

    Raises:
        WeightsError: a file is missing, damaged, or not what its place needs.
    """
    params = files.params()
    adaptors: Mapping[str, Adaptor] | Constants
    with timed("reading what is in the files"):
        if files.palette is not None:
            stored = load_converted(params, files.checkpoint, files.palette)
            model = stored.model
            adaptors = Constants(Palette(stored.colors, stored.codes, stored.tokens), stored.text)
        else:
            model = load_model(params, files.checkpoint, bypass=files.bypass, latents=files.latents)
            adaptors = read_adaptors(files, params)
    return Pipeline(model, adaptors, device=device, dtype=dtype, decode_dtype=decode_dtype, float8=float8)


def read_adaptors(files: WeightFiles, params: ControlLDMParams | None = None) -> dict[str, Adaptor]:
    """The adaptors by colour; `params` are the model's sizes, where they are known.

    Raises:
        WeightsError: a file is missing, damaged, or not this model's.
    """
    params = params or files.params()
    return {color: read_adaptor(path, params) for color, path in files.adaptors.items()}


def speed_up(
    pipeline: Pipeline,
    settings: Settings,
    *,
    sizes: Sequence[int] | None = None,
    slots: int | None = None,
    pauses: Pauses | None = None,
) -> BackgroundCompiler | None:
    """Begin what makes steps quicker without making anyone wait, as `settings.compile` says.

    Args:
        sizes: batches to compile; by default those of `COMPILED_SIZES` that can occur.
        slots: see `BackgroundCompiler`.
        pauses: of the engine that the pipeline is for, if it renders meanwhile.
    """
    on_gpu = pipeline.device.type == "cuda"
    if settings.compile == "off" or (settings.compile == "auto" and not on_gpu):
        return None
    if on_gpu:
        pipeline.capture_with(partial(CudaCapture, pipeline.device))
    if sizes is None:
        largest = settings.max_batch or MAX_BATCH[pipeline.device.type]
        sizes = [size for size in COMPILED_SIZES if size <= max(largest, min(BATCH_SIZES))]
    cache = AheadOfTime(settings.cache_dir, pauses=pauses)
    return BackgroundCompiler(compile_tasks(pipeline, sizes), cache, slots=slots, pauses=pauses)


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
    if device.type == "cuda":
        wake(device)
    files = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model)
    log.info("%s", files.describe())
    numbers = choose_numbers(settings, device, full=files.variant == "full")
    dtype, decode_dtype = numbers.dtype, numbers.decode_dtype
    if device.type == "cpu":
        set_threads()
        keep_memory()
    pipeline = load_pipeline(
        files, device=device, dtype=dtype, decode_dtype=decode_dtype, float8=numbers.float8
    )
    if missing := pipeline.palette.missing():
        log.warning("no adaptor for %s: requests for these colours will be refused", ", ".join(missing))
    default = choose_sampling(settings.preset, settings.steps, Sampling("ddim", DEFAULT_STEPS[files.variant]))
    pauses = Pauses()
    compiler = speed_up(pipeline, settings, pauses=pauses)
    max_batch = settings.max_batch or MAX_BATCH[device.type]
    computed = [_name(dtype), _name(decode_dtype), *(["float8"] if pipeline.float8 else []), default.sampler]
    info = EngineInfo(
        model=MODEL_NAMES[files.variant],
        weights=files.describe(),
        fingerprint="-".join([files.fingerprint(), *computed]),
        device=device_name(device),
        precision=_precision(pipeline),
        image_size=pipeline.picture_size,
        steps=default.steps,
        colors=pipeline.palette.names,
        parallel=renders_at_once(max_batch),
        batch=max_batch,
        presets={name: sampling.steps for name, sampling in PRESETS.items()},
    )

    def read_light() -> Light:
        folder = files.checkpoint.parent if files.variant == "mini" else settings.adaptors_dir
        now = replace(files, adaptors=find_adaptors(folder))
        fingerprint = "-".join([now.fingerprint(), *computed])
        return Light(read_adaptors(now), replace(info, weights=now.describe(), fingerprint=fingerprint))

    return LocalEngine(
        pipeline,
        info,
        queue_size=max(settings.queue_size, 2 * max_batch),  # small renders, as many as a server keeps ahead
        max_batch=max_batch,
        sampler=default.sampler,
        compiler=compiler,
        read_light=read_light,
        pauses=pauses,
    )


def _precision(pipeline: Pipeline) -> str:
    """What a pipeline computes in, for a person."""
    said = _name(pipeline.dtype)
    if pipeline.decode_dtype is not pipeline.dtype:
        said += f", decoded in {_name(pipeline.decode_dtype)}"
    return f"{said}, wide transformers in float8" if pipeline.float8 else said


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
