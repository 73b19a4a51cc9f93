"""LPIPS, the perceptual distance of the `lpips` package, where package and weights can be had."""

from __future__ import annotations

import contextlib
import importlib
import logging
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lumiply.evaluation.metrics import Picture

log = logging.getLogger(__name__)

#: The network that LPIPS's authors advise for comparing pictures.
NETWORK: Final = "alex"
#: How long the server of its weights may keep silent, in seconds.
DOWNLOAD_TIMEOUT_S: Final = 30.0

#: Two pictures of one size -> their distance, 0 for equal ones.
Distance = Callable[[Picture, Picture], float]


@dataclass(frozen=True)
class Lpips:
    """LPIPS, or why there is none.

    Attributes:
        distance: None where package or weights cannot be had.
        sentence: for a person: what measures, or what is missing and how to get it.
    """

    distance: Distance | None
    sentence: str


def find_lpips() -> Lpips:
    """Load LPIPS onto the GPU if there is one. The first time, `lpips` downloads its network (244 MB)."""
    try:
        package = importlib.import_module("lpips")
    except ImportError as exc:
        return Lpips(
            None,
            f"LPIPS is left out: {exc.name or 'lpips'} is not installed. `pip install lpips` adds it.",
        )
    try:
        with _impatient(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchvision, about how lpips calls it
            network = package.LPIPS(net=NETWORK, verbose=False)
    except Exception as exc:  # whatever a download, a damaged file or an unfitting torchvision raises
        log.debug("no LPIPS", exc_info=exc)
        return Lpips(
            None,
            f"LPIPS is left out: its weights cannot be had ({type(exc).__name__}: {exc}). Try again with a network.",
        )
    return Lpips(_distance(network), f"LPIPS by the {NETWORK} network")


def _distance(network: Any) -> Distance:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device)

    def as_tensor(picture: Picture) -> torch.Tensor:
        scaled = torch.from_numpy(np.asarray(picture, np.float32)) * 2 - 1
        return scaled.permute(2, 0, 1)[None].to(device)  # h w c -> 1 c h w

    def distance(a: Picture, b: Picture) -> float:
        with torch.inference_mode():
            return float(network(as_tensor(a), as_tensor(b)))

    return distance


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """A time limit on downloads that set none."""
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(former)
