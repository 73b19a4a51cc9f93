"""Continuous batching: pictures of several renders take part in the same denoising steps.

Each row of the batch has its own photo, colour, seed, timestep, sampler and conditions. Rows join between two
steps, as `lumiply.engine.admission` lets them, and leave as soon as they are done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from cldm import StepConditions
from ldm.sampling import Stepwise
from lumiply.engine.memory import BatchLimit
from lumiply.engine.transfer import sent

Owner = TypeVar("Owner")
#: (x (b, c, h, w), t (b,), conditions of b pictures) -> v (b, c, h, w).
Step = Callable[[Tensor, Tensor, StepConditions], Tensor]


@dataclass(eq=False)
class Group(Generic[Owner]):
    """Some pictures of one render, which are denoised in step with each other.

    Attributes:
        owner: the render, whatever that is.
        conditions: of these pictures.
        stepwise: their sampling, not yet begun.
        done: steps taken.
        latents: (k, c, h, w), once the last step is taken.
        error: why there will be none.
    """

    owner: Owner
    conditions: StepConditions
    stepwise: Stepwise
    done: int = 0
    latents: Tensor | None = None
    error: Exception | None = None
    _x: Tensor = field(init=False)
    _t: int = field(init=False)

    def __post_init__(self) -> None:
        self._x, self._t = next(self.stepwise)

    @property
    def rows(self) -> int:
        return self.conditions.batch

    @property
    def has_ended(self) -> bool:
        return self.latents is not None or self.error is not None

    def advance(self, v: Tensor) -> None:
        """Take a step with the v that was asked for. A sampler that fails cannot go on: the group ends with it."""
        self.done += 1
        try:
            self._x, self._t = self.stepwise.send(v)
        except StopIteration as end:
            self.latents = end.value
        except Exception as error:
            self.error = error


class StepBatch(Generic[Owner]):
    """The pictures that are being denoised, at most `limit.most` of them."""

    def __init__(self, step: Step, limit: BatchLimit) -> None:
        self.groups: list[Group[Owner]] = []
        self._step = step
        self._limit = limit
        self._conditions: StepConditions | None = None  # of all rows, until they change

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def free(self) -> int:
        """Pictures that may join."""
        return max(0, self._limit.most - self.rows)

    def join(self, group: Group[Owner]) -> None:
        """Take part from the next step on."""
        self.groups.append(group)
        self._conditions = None

    def leave(self, owner: Owner) -> None:
        """Drop all pictures of `owner`."""
        kept = [group for group in self.groups if group.owner is not owner]
        if len(kept) != len(self.groups):
            self.groups, self._conditions = kept, None

    @torch.inference_mode()
    def step(self, only: Owner | None = None) -> list[Group[Owner]]:
        """Take one step in every group, or in those of one owner; those that have ended are returned and have left.

        Raises:
            Exception: whatever the network raises; the groups are then as they were.
        """
        groups = [group for group in self.groups if only is None or group.owner is only]
        if not groups:
            return []
        if len(groups) < len(self.groups):
            whole = StepConditions.cat([group.conditions for group in groups])
        else:
            if self._conditions is None:
                self._conditions = StepConditions.cat([group.conditions for group in groups])
            whole = self._conditions
        x = torch.cat([group._x for group in groups]).contiguous(memory_format=torch.channels_last)
        times = [group._t for group in groups for _ in range(group.rows)]
        t = sent(torch.tensor(times, dtype=torch.long), x.device)

        def part(start: int, stop: int) -> Tensor:
            conditions = whole if stop - start == whole.batch else whole.rows(start, stop)
            return self._step(x[start:stop], t[start:stop], conditions)

        v = torch.cat(self._limit.run(part, len(times)))
        for group, rows in zip(groups, v.split([group.rows for group in groups]), strict=True):
            group.advance(rows)
        ended = [group for group in groups if group.has_ended]
        if ended:
            self.groups = [group for group in self.groups if not group.has_ended]
            self._conditions = None
        return ended
