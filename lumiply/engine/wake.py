"""A GPU's first use, which takes a good part of a second, beside the reading of weights."""

from __future__ import annotations

import logging
import threading

import torch
import torch.nn.functional as F

from lumiply.engine.clock import timed

log = logging.getLogger(__name__)


def wake(device: torch.device) -> threading.Thread:
    """Begin a context on `device`, and load the libraries that a model needs, on a thread of its own.

    Nothing depends on it: what it has not done yet, or cannot do, is done, or fails, where it is needed.
    """
    thread = threading.Thread(target=_first_use, args=(device,), name="lumiply-wake", daemon=True)
    thread.start()
    return thread


@torch.inference_mode()
def _first_use(device: torch.device) -> None:
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        with timed("the first use of the device, beside other parts"):
            images = torch.zeros(1, 64, 16, 16, device=device, dtype=dtype)
            images = images.contiguous(memory_format=torch.channels_last)
            F.conv2d(images, torch.zeros(64, 64, 3, 3, device=device, dtype=dtype), padding=1)
            tokens = torch.zeros(1, 2, 64, 64, device=device, dtype=dtype)
            F.linear(F.scaled_dot_product_attention(tokens, tokens, tokens), tokens[0, 0])
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    except Exception as error:
        log.debug("the device could not be used beforehand: %s", error)
