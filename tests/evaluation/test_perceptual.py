"""LPIPS where it can be had, and one sentence where it cannot."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.error import URLError

import numpy as np
import pytest

from lumiply.evaluation.perceptual import DOWNLOAD_TIMEOUT_S, find_lpips
from tests.evaluation.conftest import StandIn

Install = Callable[[object], None]


def test_pictures_reach_the_network_between_minus_1_and_1(install_lpips: Install) -> None:
    install_lpips(StandIn)
    found = find_lpips()
    assert found.distance is not None and "alex" in found.sentence
    black, white = np.zeros((8, 9, 3)), np.ones((8, 9, 3))
    assert found.distance(black, white) == 2
    assert found.distance(white, white) == 0


def test_without_the_package_a_sentence_says_how_to_get_it(install_lpips: Install) -> None:
    install_lpips(None)
    found = find_lpips()
    assert found.distance is None
    assert "lpips is not installed" in found.sentence and "pip install lpips" in found.sentence


def test_without_the_weights_a_sentence_says_why(install_lpips: Install) -> None:
    def offline(net: str, verbose: bool) -> None:
        raise URLError("no route to host")

    install_lpips(offline)
    found = find_lpips()
    assert found.distance is None
    assert "weights cannot be had" in found.sentence and "no route to host" in found.sentence


@pytest.mark.parametrize("fails", [False, True])
def test_a_download_has_a_time_limit_which_ends_with_it(install_lpips: Install, fails: bool) -> None:
    limits: list[float | None] = []

    def network(net: str, verbose: bool) -> StandIn:
        limits.append(socket.getdefaulttimeout())
        if fails:
            raise TimeoutError("timed out")
        return StandIn(net, verbose)

    install_lpips(network)
    before = socket.getdefaulttimeout()
    assert (find_lpips().distance is None) == fails
    assert limits == [DOWNLOAD_TIMEOUT_S]
    assert socket.getdefaulttimeout() == before
