"""Who takes part in what is under way: the renders that can be joined, and the jobs that have a claim on them.

A job's folder belongs to the request that came last. Its claims are on renders of that request's photo and settings;
those for another photo have lost.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lumiply.server.early import EarlyOrders
from lumiply.server.order import Order
from lumiply.server.record import Recipe
from lumiply.server.render import Render, Ticket


@dataclass
class _Active:
    """A job with something under way."""

    recipe: Recipe
    tickets: list[Ticket] = field(default_factory=list)


@dataclass
class Claim:
    """What an order takes part in.

    Attributes:
        new: the render that it had to start.
        added: its new tickets; relevant: those, new or not, that it waits for.
        replaced: tickets of the same job for another photo, which lost.
    """

    new: Render | None
    replaced: list[Ticket]
    added: list[Ticket] = field(default_factory=list)
    relevant: list[Ticket] = field(default_factory=list)


class Claims:
    """The table of all tickets that are live. Thread-safe."""

    def __init__(self, early: EarlyOrders, stored: Callable[[str, Recipe], frozenset[str]]) -> None:
        """`stored` tells the colours that a job has by a recipe; it may take long."""
        self._early, self._read_stored = early, stored
        self._lock = threading.Lock()
        self._active: dict[str, _Active] = {}
        self._ended = 0  # tickets so far
        self._under_way: dict[tuple[Recipe, str], Render] = {}  # by recipe and colour

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        with self._lock:
            return not self._active and not self._under_way

    def of(self, job_id: str) -> list[Ticket]:
        """Those of a job."""
        with self._lock:
            active = self._active.get(job_id)
            return list(active.tickets) if active else []

    def is_active(self, job_id: str) -> bool:
        """Whether a job has any, or waits for the first engine."""
        with self._lock:
            return job_id in self._active or bool(self._early.of(job_id))

    def claim(
        self,
        order: Order,
        recipe: Recipe,
        wanted: tuple[str, ...],
        start: Callable[[tuple[str, ...]], Render] | None,
    ) -> Claim | None:
        """Take part in what is under way and `start` the rest; None, with nothing changed, if that cannot be started.

        Raises:
            CancelledError: the order came early and has been called off.
            LumiplyError: whatever `start` raises.
        """
        with self._stored(order.job_id, recipe) as stored:
            active = self._active.get(order.job_id)
            mine = active.tickets if active and active.recipe == recipe else []
            there = stored.union(*(ticket.colors for ticket in mine))
            sources = {c: self._under_way.get((recipe, c)) for c in wanted if c not in there}
            rest = tuple(color for color, render in sources.items() if render is None)
            if rest and start is None:
                return None
            self._early.take(order)
            new = None
            if rest and start is not None:
                new = start(rest)
                self._under_way |= {(recipe, color): new for color in rest}
            claim = Claim(new, replaced=active.tickets if active and not mine else [])
            if claim.replaced:
                del self._active[order.job_id]
            for render in dict.fromkeys(render or new for render in sources.values()):
                assert render is not None
                colors = frozenset(color for color, source in sources.items() if (source or new) is render)
                claim.added.append(self._add(Ticket(order.job_id, render, colors), recipe))
            claim.relevant = [t for t in dict.fromkeys([*mine, *claim.added]) if t.colors & set(order.colors)]
            for ticket in claim.relevant:
                ticket.waiting += 1
        return claim

    def _add(self, ticket: Ticket, recipe: Recipe) -> Ticket:
        ticket.render.tickets.append(ticket)
        self._active.setdefault(ticket.job_id, _Active(recipe)).tickets.append(ticket)
        return ticket

    @contextlib.contextmanager
    def _stored(self, job_id: str, recipe: Recipe) -> Iterator[frozenset[str]]:
        """What stands in the job's folder, true while the lock is held, and not waited for under it."""
        while True:
            ended = self._ended
            stored = self._read_stored(job_id, recipe)
            with self._lock:
                if ended == self._ended:
                    yield stored
                    return

    def replace(self, job_id: str, recipe: Recipe) -> list[Ticket]:
        """Take a job's claims on renders by another recipe off the table; which those were."""
        with self._lock:
            active = self._active.get(job_id)
            if active is None or active.recipe == recipe:
                return []
            del self._active[job_id]
            return active.tickets

    def stop_waiting(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Note that a request no longer waits; which of its tickets nobody waits for now."""
        tickets = list(tickets)
        with self._lock:
            for ticket in tickets:
                ticket.waiting -= 1
            return [ticket for ticket in tickets if ticket.is_live and ticket.waiting == 0]

    def next_of(self, render: Render) -> Ticket | None:
        """A ticket that has yet to be served; once there is none, the render can no longer be joined."""
        with self._lock:
            ticket = next((ticket for ticket in render.tickets if ticket.is_live), None)
            if ticket is None:
                self._close(render)
            return ticket

    def close(self, render: Render) -> list[Ticket]:
        """Let nobody join a render any more; who has."""
        with self._lock:
            self._close(render)
            return list(render.tickets)

    def close_unwanted(self, render: Render) -> bool:
        """Let nobody join a render any more if nobody wants it; whether that is so."""
        with self._lock:
            unwanted = not any(ticket.is_live for ticket in render.tickets)
            if unwanted:
                self._close(render)
            return unwanted

    def end(self, tickets: Iterable[Ticket], error: BaseException | None) -> None:
        """Take tickets off the table and wake those who wait."""
        with self._lock:
            self._ended += 1
            for ticket in tickets:
                if not ticket.is_live:
                    continue
                active = self._active.get(ticket.job_id)
                if active is not None and ticket in active.tickets:
                    active.tickets.remove(ticket)
                    if not active.tickets:
                        del self._active[ticket.job_id]
                if error is None:
                    ticket.done.set_result(None)
                else:
                    ticket.done.set_exception(error)

    def _close(self, render: Render) -> None:
        for color in render.colors:
            if self._under_way.get((render.recipe, color)) is render:
                del self._under_way[(render.recipe, color)]
