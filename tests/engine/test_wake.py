"""A device is used beforehand, on a thread of its own, and whatever comes of that stops nothing."""

from __future__ import annotations

import logging

import torch

from lumiply.engine.wake import wake


def test_a_device_is_used_beside_the_caller(caplog):
    with caplog.at_level(logging.DEBUG, "lumiply.engine"):
        thread = wake(torch.device("cpu"))
        thread.join(60)
    assert not thread.is_alive() and "first use of the device" in caplog.text


def test_a_device_that_cannot_be_used_is_left_to_those_who_need_it(caplog):
    with caplog.at_level(logging.DEBUG, "lumiply.engine"):
        thread = wake(torch.device("cuda:99"))
        thread.join(60)
    assert not thread.is_alive() and "could not be used beforehand" in caplog.text
