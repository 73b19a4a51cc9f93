"""Turns: of the many threads that answer requests, a few compute at a time.

One interpreter runs one thread at a time, whatever the number of processors. Where dozens of requests are under way
at once, a thread that has read from a disk or a socket waits for all the others, some milliseconds each, before it
goes on, and so does the loop that everybody's bytes pass through. So a thread answers a request in its turn only:
requests in excess stay in the queue, and a thread that waits (`lumiply.waiting`) gives its turn back meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from waitress.task import ThreadedTaskDispatcher

from lumiply.waiting import tell

#: Turns: while one thread computes, another may be in a system call.
TURNS: Final = 2
#: Seconds without any turn being passed on after which there is one more: those who have one wait for something,
#: without saying so.
PATIENCE_S: Final = 0.05


class TurnDispatcher(ThreadedTaskDispatcher):
    """waitress's threads, of which a few answer requests at the same time, in the order of coming."""

    queue: deque[Any]
    lock: threading.Lock
    queue_cv: threading.Condition

    def __init__(self, turns: int = TURNS, patience_s: float = PATIENCE_S) -> None:
        """No thread runs yet; see `set_thread_count`."""
        super().__init__()
        self._left = turns  # below zero if more were needed
        self._patience = patience_s
        self._passed_on = time.monotonic()
        self._returning: deque[threading.Lock] = deque()  # held; to let one go is to give its thread a turn
        self._is_watched = False  # an idle thread sees to it that the queue goes on

    def handler_thread(self, thread_no: int) -> None:
        """Body of a thread: answer one request after the other."""
        tell(self._waiting)
        while (task := self._next(thread_no)) is not None:
            try:
                task.service()
            except BaseException:
                self.logger.exception("Exception when servicing %r", task)
            finally:
                with self.lock:
                    self._pass_on()

    def add_task(self, task: Any) -> None:
        """Queue a request."""
        with self.lock:
            self.queue.append(task)
            if self._left > 0 or not self._is_watched:
                self.queue_cv.notify()

    def _next(self, thread_no: int) -> Any | None:
        """The next task, and a turn for it; None if this thread is to end."""
        with self.lock:
            while self.stop_count == 0:
                if self.queue and (self._left > 0 or self._is_stalled()):
                    self._take()
                    if self.queue and not self._is_watched:
                        self.queue_cv.notify()
                    return self.queue.popleft()
                self.active_count -= 1
                self._wait_for_task()
                self.active_count += 1
            self.active_count -= 1
            self.stop_count -= 1
            self.threads.discard(thread_no)
            self.thread_exit_cv.notify()
            return None

    def _wait_for_task(self) -> None:
        """Wait until something may have changed. Locked, but for the waiting."""
        if not self.queue or self._is_watched:
            self.queue_cv.wait()
            return
        self._is_watched = True
        self.queue_cv.wait(self._patience)
        self._is_watched = False

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Give the calling thread's turn back, and take another at the end."""
        with self.lock:
            self._pass_on()
        try:
            yield
        finally:
            self._return()

    def _return(self) -> None:
        """Come back from waiting: ahead of new requests, after those that came back before."""
        with self.lock:
            if self._left > 0:
                self._take()
                return
            turn = threading.Lock()
            turn.acquire()
            self._returning.append(turn)
        while not turn.acquire(timeout=self._patience):
            with self.lock:
                if turn in self._returning and self._is_stalled():
                    self._returning.remove(turn)
                    self._take()
                    return

    # Locked

    def _take(self) -> None:
        self._left -= 1
        self._passed_on = time.monotonic()

    def _pass_on(self) -> None:
        self._passed_on = time.monotonic()
        if self._left < 0:
            self._left += 1
        elif self._returning:
            self._returning.popleft().release()
        else:
            self._left += 1
            if self.queue:
                self.queue_cv.notify()

    def _is_stalled(self) -> bool:
        return time.monotonic() - self._passed_on > self._patience
