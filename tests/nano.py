"""A model of the same classes that renders in milliseconds, filled with weights that make every part matter."""

from __future__ import annotations

from functools import lru_cache

import torch

from cldm import ControlLDM, ControlLDMParams, ControlNetParams, IntrinsicsParams, PriorExtractor
from ldm.autoencoder import AutoencoderParams
from ldm.text import TextTowerParams
from ldm.unet import UNetParams
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.weights import Adaptor
from tests.golden.fill import fill_by_name

UNET = UNetParams(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_head_channels=16,
    context_dim=32,
    norm_num_groups=8,
)
NANO = ControlLDMParams(
    unet=UNET,
    control=ControlNetParams(
        unet=UNET,
        intrinsics=IntrinsicsParams(
            model_channels=8,
            channel_mult=(1, 1, 2, 2),
            num_blocks=(1, 1, 1, 1),
            token_width=32,
            light_hidden=24,
        ),
        hint_width=16,
    ),
    first_stage=AutoencoderParams(ch=16, ch_mult=(1, 1, 2, 2), num_res_blocks=1, norm_num_groups=8),
    text=TextTowerParams(width=32, heads=2, layers=2, context_length=4, vocab_size=3),
    image_size=8,
)


def nano_model() -> ControlLDM:
    """A model with the bypass first stage, float32, every parameter filled by its name."""
    model = ControlLDM(NANO)
    model.use_bypass_first_stage()
    model.eval().requires_grad_(False)
    fill_by_name(model.named_parameters())
    return model


def nano_adaptor(color: str) -> Adaptor:
    """An adaptor with weights of its own for `color`."""
    prior = PriorExtractor(NANO.control.intrinsics)
    fill_by_name((f"{color}.{name}", value) for name, value in prior.named_parameters())

    def copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in module.state_dict().items()}

    return Adaptor(copied(prior.model_latents.light_encoder), copied(prior.light_decoder))


def nano_pipeline(colors: tuple[str, ...] = COLORS[1:]) -> Pipeline:
    """A pipeline with an adaptor for each of `colors`, one for all tests: requests cannot change it.

    What it computes once is rounded as the number of threads has it, so for another number there is another one.
    """
    return _shared(colors, torch.get_num_threads())


@lru_cache
def _shared(colors: tuple[str, ...], threads: int) -> Pipeline:
    return Pipeline(nano_model(), {color: nano_adaptor(color) for color in colors})
