"""What the C library does with memory that a render gives back."""

from __future__ import annotations

import ctypes
from typing import Final

#: glibc's numbers for `mallopt`, from malloc.h.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
#: Blocks below are kept for the next render; 32 MiB is the most that glibc takes.
KEPT_BLOCKS: Final = 32 * 2**20
#: Free memory that each thread's share may hold: all of it.
KEPT_FREE: Final = 2**31 - 1
#: Shares of memory, among which threads are spread.
ARENAS: Final = 4


def keep_memory() -> bool:
    """Let what a render on a processor needed be kept for the next one; return whether the C library will.

    By default glibc hands large blocks back at once and asks for them again in the next layer, so that a process
    seems to lose and gain a hundred megabytes with every render. Elsewhere nothing happens.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    wanted = {M_ARENA_MAX: ARENAS, M_MMAP_THRESHOLD: KEPT_BLOCKS, M_TRIM_THRESHOLD: KEPT_FREE}
    return all(library.mallopt(name, value) == 1 for name, value in wanted.items())
