"""The published scripts' way of rendering, with our modules: what our speed is compared with.

One colour at a time, float32, nothing compiled; intrinsics, light and hint computed anew in every step, as the
published ControlNet does in its forward pass; photo features and picture computed anew for every colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from cldm import ControlLDM
from ldm.sampling import sample_ddim
from lumiply.engine.pixels import bypass_picture, hint_picture, to_bytes, to_picture


@torch.inference_mode()
def render(
    model: ControlLDM, photo: Image.Image, colors: Sequence[str], *, steps: int, seed: int
) -> list[Image.Image]:
    """One picture a colour. Every colour is rendered with the base light: other weights cost the same.

    Args:
        model: float32, with the bypass first stage; it is not changed.
    """
    device = next(model.parameters()).device
    size = model.params.picture_size
    text = model.cond_stage_model()
    pictures = []
    for _ in colors:
        hint = hint_picture(photo, size).to(device)

        def predict(x: Tensor, t: Tensor, hint: Tensor = hint) -> Tensor:
            code, tokens = model.light(torch.ones_like(hint))
            intrinsic = model.control_model.prior_extracter.model_latents.intrinsic(hint)
            return model(x, t, model.conditions(text, intrinsic, code, tokens))

        latent_size = model.params.image_size
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, model.params.channels, latent_size, latent_size, generator=generator)
        z = sample_ddim(predict, noise.to(device), model.schedule, steps)
        _, features = model.first_stage_model.encode_with_features(bypass_picture(photo, size).to(device))  # type: ignore[operator]
        levels = to_bytes(model.decode_first_stage(z, features)).cpu()
        pictures.append(to_picture(levels[0], photo.size))
    return pictures
