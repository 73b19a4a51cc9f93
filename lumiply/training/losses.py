"""What pictures are trained for, and what they are judged by meanwhile.

Sources: the loss of NAFNet, arXiv 2204.04676; SSIM, Wang et al. 2004.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lumiply.evaluation.metrics import added_light, hue_error
from lumiply.synth.compose import LUMINANCE_WEIGHTS
from lumiply.training.pairs import PairBatch

#: Mean squared error below which `picture_loss` gains little more (40 dB).
LEAST_SQUARED_ERROR = 1e-4


def psnr(picture: Tensor, truth: Tensor) -> Tensor:
    """Mean over b of the PSNR in dB of pictures in [-1, 1], clamped as when they are saved."""
    error = (picture.float().clamp(-1, 1) - truth.float()).square().mean(dim=(1, 2, 3)) / 4
    return (-10 * error.clamp(min=1e-10).log10()).mean()


def picture_loss(picture: Tensor, truth: Tensor) -> Tensor:
    """How far pictures (b, 3, H, W) in [0, 1] are from the truth, as people judge it.

    Half the logarithm of each picture's mean squared error, so that a bright and a dark room count alike (the loss of
    NAFNet, arXiv 2204.04676), plus what the grey SSIM lacks to 1.
    """
    error = (picture - truth).square().mean(dim=(1, 2, 3))
    with torch.autocast(picture.device.type, enabled=False):
        grey, true_grey = (grey_of(image.float().clamp(0, 1)) for image in (picture, truth))
        similarity = structural_similarity_index_measure(grey, true_grey, data_range=1.0)
    assert isinstance(similarity, Tensor)
    return 0.5 * (error + LEAST_SQUARED_ERROR).log().mean() + (1.0 - similarity)


def mean_hue_error(picture: Tensor, batch: PairBatch) -> Tensor:
    """Mean `hue_error` in degrees of pictures (b, 3, H, W) in [-1, 1]; 0 where no lamp of the batch has a hue."""
    errors = []
    for ours, off, on in zip((picture.clamp(-1, 1) + 1) / 2, batch.off, batch.on, strict=True):
        shown, unlit, lit = (
            x.float().permute(1, 2, 0).cpu().numpy() for x in (ours, off, on)
        )  # c h w -> h w c
        error = hue_error(added_light(shown, unlit), added_light(lit, unlit))
        if error is not None:
            errors.append(error)
    return picture.new_tensor(sum(errors) / max(1, len(errors)), dtype=torch.float32)


def grey_of(picture: Tensor) -> Tensor:
    """(b, 3, H, W) display values -> (b, 1, H, W)."""
    return torch.einsum("bchw,c->bhw", picture, picture.new_tensor(LUMINANCE_WEIGHTS))[:, None]
