"""Processes that render rooms beside training: it learns from the first ones while the others come."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lumiply.errors import UserError
from lumiply.processes import end_with
from lumiply.synth.spec import Split

log = logging.getLogger(__name__)

#: By how much renderers give way to the training, which waits for single threads.
NICENESS = 10
#: Seconds that a renderer is given to end.
ENDING_S = 10.0


@dataclass(frozen=True)
class RoomOrder:
    """Rooms to render into a folder: the seeds from `first` on, at so many light paths a pixel."""

    folder: Path
    split: Split
    count: int
    samples: int
    size: int
    first: int = 0

    def arguments(self, worker: int, workers: int) -> list[str]:
        """Of `lumiply synth`, for one of several processes that share the order."""
        given = {
            "--out": self.folder,
            "--split": self.split,
            "--first": self.first,
            "--count": self.count,
            "--samples": self.samples,
            "--size": self.size,
            "--workers": workers,
            "--workers-index": worker,
        }
        return [str(word) for pair in given.items() for word in pair]


class Renderers:
    """`count` processes, each with its share of every order, one order after another; ended with the block."""

    def __init__(self, orders: Sequence[RoomOrder], count: int, devices: Sequence[str] = ()) -> None:
        """Args:
        devices: values of CUDA_VISIBLE_DEVICES, taken in turn; none leaves the variable as it is.
        """
        self.orders, self.count, self.devices = orders, count, devices
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs: list[Path] = []

    def __enter__(self) -> Renderers:
        self._folder = tempfile.TemporaryDirectory(prefix="lumiply-renderers-")
        for worker in range(self.count):
            self._logs.append(Path(self._folder.name, f"{worker}.log"))
            self._processes.append(self._start(worker, self._logs[-1]))
        log.info("%d processes render rooms", self.count)
        return self

    def _start(self, worker: int, log_path: Path) -> subprocess.Popen[bytes]:
        orders = json.dumps([order.arguments(worker, self.count) for order in self.orders])
        threads = max(1, (os.cpu_count() or 1) // self.count)  # where rooms are rendered on processors
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[worker % len(self.devices)]
        with log_path.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, orders, str(os.getpid()), str(threads)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that it ends with its parent, and alone
            )

    def check(self) -> None:
        """Find out whether more rooms can come.

        Raises:
            UserError: every renderer has ended; the message has the last words of one that failed.
        """
        ended = [process.poll() for process in self._processes]
        if None in ended:
            return
        failed = [path for status, path in zip(ended, self._logs, strict=True) if status]
        if not failed:
            asked = sum(order.count for order in self.orders)
            raise UserError(f"all {asked} rooms that were asked for are there, and training needs more")
        lines = failed[0].read_text(errors="replace").strip().splitlines()
        raise UserError(
            f"{len(failed)} of {self.count} renderers ended with an error: {' | '.join(lines[-3:])[-600:]}; "
            "render the rooms first, with lumiply synth, to see it whole"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()


def main(arguments: Sequence[str]) -> None:
    """Render the orders one after another, each given as the words of `lumiply synth`."""
    orders, parent, threads = json.loads(arguments[0]), int(arguments[1]), int(arguments[2])
    os.nice(NICENESS)
    end_with(parent)
    import drjit

    from lumiply.synth.command import synth

    drjit.set_thread_count(threads)
    for order in orders:
        synth.main(order, standalone_mode=False)


if __name__ == "__main__":
    main(sys.argv[1:])
