"""How many pictures are denoised together, and who may join: a larger batch is not always better for who waits.

A GPU denoises fourteen pictures at once hardly quicker than seven and then seven (1.84 s and 1.93 s on an H200), so
whoever was there first would wait nearly twice as long and nobody gain much. A picture more beside seven costs
little. Only when many wait is it the pictures per second that count.
"""

from __future__ import annotations

from typing import Final

from lumiply.colors import COLORS
from lumiply.engine.memory import BatchLimit

#: Pictures of a narrow batch: one photo in all colours, and one more picture.
NARROW: Final = len(COLORS) + 1


class Admission:
    """Lets renders into a batch: a narrow one, or a wide one while more wait than a wide one holds.

    Wide from half as many again as a wide batch holds, until fewer than fill it are left. A render whose colours do
    not all fit waits in front of a narrow batch, since in two parts it would end with its second.
    """

    def __init__(self, limit: BatchLimit, *, narrow: int = NARROW) -> None:
        """`limit` is that of a wide batch, and may fall; with `narrow` at or above it, every batch is wide."""
        self._limit, self._narrow = limit, narrow
        self._is_wide = False

    def joining(self, pictures: int, *, entered: int, running: int, waiting: int) -> int:
        """How many of a render's `pictures` may join now.

        Args:
            pictures: those that have not joined yet.
            entered: those of the same render that have.
            running: pictures in the batch.
            waiting: pictures outside of it, `pictures` among them.
        """
        wide = self._limit.most
        total = running + waiting
        self._is_wide = wide <= self._narrow or total >= (wide if self._is_wide else wide + (wide + 1) // 2)
        most = wide if self._is_wide else self._narrow
        free = max(0, most - running)
        must_be_whole = not self._is_wide and running > 0 and not entered
        return 0 if must_be_whole and pictures > free else min(pictures, free)
