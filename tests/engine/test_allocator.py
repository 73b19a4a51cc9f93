"""Memory that renders give back, in a process of its own since it is set for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

KEEPS = """
import ctypes, os, sys
from lumiply.engine.allocator import keep_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep":
    assert keep_memory()
blocks = []
for _ in range(4):
    block = library.malloc(ctypes.c_size_t(20 * 2**20))
    ctypes.memset(block, 1, 20 * 2**20)
    blocks.append(block)
full = resident()
for block in blocks:
    library.free(ctypes.c_void_p(block))
print(full - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_memory_of_a_render_is_kept_for_the_next_one():
    given_back = {}
    for how in ("keep", "usual"):
        command = [sys.executable, "-c", KEEPS, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        given_back[how] = float(done.stdout)
    assert given_back["keep"] < 5 and given_back["usual"] > 70  # MB of the 80


def test_another_c_library_is_left_alone(monkeypatch):
    from lumiply.engine import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_memory()
