"""What goes to a device and comes back is the same, and numbers that are not finite are refused."""

from __future__ import annotations

import pytest
import torch

from lumiply.engine.pixels import to_bytes
from lumiply.engine.transfer import Decoded, sent
from lumiply.errors import RenderError


def test_what_is_sent_is_there():
    tensor = torch.arange(5)
    assert torch.equal(sent(tensor, torch.device("cpu")), tensor)


def test_a_decoded_picture_comes_as_bytes():
    picture = torch.linspace(-1.2, 1.2, 3 * 4 * 5).view(1, 3, 4, 5)
    levels = Decoded.of(picture).wait()
    assert torch.equal(levels, to_bytes(picture)[0]) and levels.shape == (4, 5, 3)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_picture_that_is_not_finite_is_refused_when_it_is_waited_for(number):
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, 1, 1, 0] = number
    decoded = Decoded.of(picture)
    with pytest.raises(RenderError, match="not finite.*float32"):
        decoded.wait()


def test_a_picture_on_its_way_is_waited_for():
    waited = []

    class Event:
        def synchronize(self) -> None:
            waited.append(True)

    decoded = Decoded(torch.zeros(2, 2, 3, dtype=torch.uint8), torch.tensor(True), Event())
    decoded.wait()
    assert waited == [True]
