"""Threads: never more than the process, or its container, may use; and those that render go last."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from lumiply.colors import COLORS
from lumiply.engine import threads
from lumiply.engine.local import LocalEngine
from lumiply.engine.protocol import EngineInfo
from tests.nano import nano_pipeline


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


def niceness() -> dict[int, int]:
    """Of every thread of this process, torch's own as well."""
    return {int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name))
            for task in Path("/proc/self/task").iterdir()}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to a thread on Linux alone")
def test_all_threads_that_render_give_way_and_no_others():
    threads_of_torch = torch.get_num_threads()
    torch.set_num_threads(2)
    pipeline, photo = nano_pipeline(), Image.new("RGB", (300, 200), (90, 80, 70))
    pipeline.relight(photo, COLORS, seed=1, steps=2)  # this thread has its own of torch's as well
    before = niceness()
    engine = LocalEngine(pipeline, EngineInfo("nano", "", "nano-0", "cpu", "float32", 64, 2))
    try:
        engine.submit(photo, COLORS).result(60)
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        after = niceness()
    finally:
        torch.set_num_threads(threads_of_torch)
        engine.close(60)
    new = {thread: nice for thread, nice in after.items() if thread not in before}
    assert len(new) >= 3  # the worker, one of torch's, and those that resize
    assert set(new.values()) == {min(19, own + threads.NICER)}
    assert all(after[thread] == nice for thread, nice in before.items() if thread in after)
