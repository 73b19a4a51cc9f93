"""Threads: never more than the process, or its container, may use."""

from __future__ import annotations

import os

import pytest
import torch

from lumiply.engine import threads


@pytest.mark.parametrize(
    "content, expected",
    [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8), ("nonsense", 8)],
)
def test_a_containers_share_of_time_counts(tmp_path, monkeypatch, content, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(content)
    assert threads.usable_cpus(tmp_path / "cpu.max") == expected
    assert threads.usable_cpus(tmp_path / "none") == 8


def test_threads_are_only_ever_fewer(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(threads, "usable_cpus", lambda: 1)
        threads.set_threads()
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(threads, "usable_cpus", lambda: 64)
        threads.set_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
