"""The models that benchmarks run: the full one, published or filled by name, and the mini one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.full_model import filled_model
from cldm import ControlLDM
from lumiply.colors import BASE_COLOR, COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import DEFAULT_STEPS, Numbers, load_pipeline
from lumiply.errors import WeightsError
from lumiply.weights import Adaptor, find_weights, load_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        weights: where its numbers come from, in words.
        pipeline: makes a pipeline (device, dtype, precision of the first stage, and, by default not, float8).
        plain: gives the model in float32 on the CPU, for the original's way.
        steps: its own number of denoising steps.
        full: whether it is the full model.
    """

    weights: str
    pipeline: Callable[..., Pipeline]
    plain: Callable[[], ControlLDM]
    steps: int
    full: bool = False

    def on(self, device: torch.device, numbers: Numbers) -> Pipeline:
        """Its pipeline on `device`, computing in `numbers`."""
        return self.pipeline(device, numbers.dtype, numbers.decode_dtype, numbers.float8)


def subject(model: str, ckpt_dir: Path = Path("ckpt"), adaptors_dir: Path = Path("adaptors")) -> Subject:
    """The mini model; or the full one, with weights filled by name where the published ones are not there."""
    try:
        files = find_weights(ckpt_dir, adaptors_dir, model, converted=False)
    except WeightsError:
        if model != "full":
            raise
        return Subject("filled by name", _filled_pipeline, filled_model, DEFAULT_STEPS["full"], full=True)
    return Subject(
        files.describe(),
        lambda device, dtype, decode, float8=False: load_pipeline(
            files, device=device, dtype=dtype, decode_dtype=decode, float8=float8
        ),
        lambda: load_model(files.params(), files.checkpoint, bypass=files.bypass, latents=files.latents),
        DEFAULT_STEPS[files.variant],
        full=files.variant == "full",
    )


def _filled_pipeline(
    device: torch.device, dtype: torch.dtype, decode: torch.dtype, float8: bool = False
) -> Pipeline:
    began = time.perf_counter()
    model = filled_model()
    prior = model.control_model.prior_extracter

    def own(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in module.state_dict().items()}

    adaptor = Adaptor(own(prior.model_latents.light_encoder), own(prior.light_decoder))
    log.info("weights filled by name (%.0f s)", time.perf_counter() - began)
    colors = [color for color in COLORS if color != BASE_COLOR]
    adaptors = dict.fromkeys(colors, adaptor)
    return Pipeline(model, adaptors, device=device, dtype=dtype, decode_dtype=decode, float8=float8)
