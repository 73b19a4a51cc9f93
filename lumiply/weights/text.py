"""The public weights of the text tower, for checkpoints that come without it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from ldm.text import TextTower, TextTowerParams
from lumiply.errors import WeightsError
from lumiply.weights.described import described

log = logging.getLogger(__name__)

ARCHITECTURE: Final = "ViT-H-14"
PRETRAINED: Final = "laion2b_s32b_b79k"


def fetch_text_tower(params: TextTowerParams, open_clip: Any | None = None) -> dict[str, Tensor]:
    """The text half of OpenCLIP's ViT-H-14, downloaded by that package unless it is in its cache.

    Args:
        params: sizes of the tower, which says what names are needed.
        open_clip: the package, or what stands in for it; imported if None.

    Returns:
        float32 tensors under the names of `TextTower`.

    Raises:
        WeightsError: open_clip is not installed or cannot be imported, the download failed, or its model has
            other names.
    """
    package = _import_open_clip() if open_clip is None else open_clip
    log.info("fetching the text tower %s (%s)", ARCHITECTURE, PRETRAINED)
    try:
        source: Mapping[str, Tensor] = package.create_model(
            ARCHITECTURE, pretrained=PRETRAINED, device="cpu"
        ).state_dict()
    except Exception as exc:  # a network, a disk or a release of another interface
        raise WeightsError(
            f"the text tower {ARCHITECTURE} ({PRETRAINED}) could not be fetched with open_clip: {exc}. "
            "Check the connection, or use a checkpoint that holds cond_stage_model.*."
        ) from exc
    with described():
        names = list(TextTower(params).state_dict())
    missing = [name for name in names if name not in source]
    if missing:
        raise WeightsError(
            f"open_clip's {ARCHITECTURE} has no {missing[0]} ({len(missing)} of {len(names)} names are missing). "
            "Use another release of open-clip-torch, or a checkpoint that holds cond_stage_model.*."
        )
    return {name: source[name].detach().float() for name in names}


def _import_open_clip() -> Any:
    try:
        return importlib.import_module("open_clip")
    except Exception as exc:  # a torchvision of another build raises RuntimeError
        raise WeightsError(
            "the checkpoint holds no text tower (cond_stage_model.*), and open_clip, which fetches its public "
            f"weights, cannot be imported ({exc}). Install it with 'pip install open-clip-torch', or use a "
            "checkpoint that holds the text tower."
        ) from exc
