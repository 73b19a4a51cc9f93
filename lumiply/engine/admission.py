"""How many pictures are denoised together, and who may join: a larger batch is not always better for who waits.

A GPU denoises fourteen pictures at once hardly quicker than seven and then seven (1.84 s and 1.93 s on an H200), so
whoever was there first would wait nearly twice as long and nobody gain much. A picture more beside seven costs
little. Only when many wait is it the pictures per second that count.
"""

from __future__ import annotations

from typing import Final

from lumiply.colors import COLORS
from lumiply.engine.memory import BatchLimit
from lumiply.engine.protocol import pictures_ahead

#: Pictures of a narrow batch: one photo in all colours, and one more picture.
NARROW: Final = len(COLORS) + 1


class Admission:
    """Lets renders into a batch: a narrow one, or a wide one while there is enough to fill it.

    Wide once half as many pictures as a wide batch holds are there besides those that fill it, until fewer than fill
    it are left. A render whose colours do not all fit waits in front of a narrow batch, since in two parts it would
    end with its second; but not for renders that have more than twice as many steps to go as it takes.
    """

    def __init__(self, limit: BatchLimit, *, narrow: int = NARROW) -> None:
        """`limit` is that of a wide batch, and may fall; with `narrow` at or above it, every batch is wide."""
        self._limit, self._narrow = limit, narrow
        self._is_wide = False

    def joining(
        self, pictures: int, *, entered: int, running: int, waiting: int, steps: int, left: int
    ) -> int:
        """How many of a render's `pictures` may join now.

        Args:
            pictures: those that have not joined yet.
            entered: those of the same render that have.
            running: pictures in the batch.
            waiting: pictures outside of it, `pictures` among them.
            steps: denoising steps of the render.
            left: the most steps that a picture in the batch has to go.
        """
        wide = self._limit.most
        total = running + waiting
        self._is_wide = wide <= self._narrow or total >= (wide if self._is_wide else pictures_ahead(wide))
        fills = self._is_wide or 2 * steps < left
        free = max(0, (wide if fills else self._narrow) - running)
        must_be_whole = not fills and running > 0 and not entered
        return 0 if must_be_whole and pictures > free else min(pictures, free)
