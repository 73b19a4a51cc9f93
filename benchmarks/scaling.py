"""How many GPUs for how many users: a simulation of the queue in front of 1 to 64 replicas.

    python -m benchmarks.scaling --out benchmarks/results/scaling.md

A job is one photo in seven colours. The policy is the code's: a server keeps `--queue` jobs waiting, first come,
first served, refuses the next one, and has as many with the cluster as its replicas take (`lumiply.server.dispatch`):
half as many again as they work on together, and one more at least. Ray Serve draws two replicas at random and takes
the less busy one. A replica works on one job at a time while few wait, and on several while half as many again are
there (`lumiply.engine.admission`): the service times say how long k jobs take that run together from start to end,
and k jobs advance at that pace while they are k.

Arrivals are drawn here: `steady` at random at one rate; `wave` at a rate that swings by 80 % within an hour;
`bursts` in groups, 8 jobs at once in the mean (a geometric law), the groups at random.
"""

from __future__ import annotations

import argparse
import datetime
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import table
from benchmarks.provenance import commit
from lumiply.colors import COLORS
from lumiply.engine.protocol import renders_ahead

RESULTS: Final = Path(__file__).parent / "results"
#: Written by `python -m benchmarks.cluster_throughput` and `python -m benchmarks`, where they have run.
MEASURED: Final = (RESULTS / "cluster_throughput.json", RESULTS / "bench_h200.json")
GPUS: Final = (1, 2, 4, 8, 16, 32, 64)
LOADS: Final = (0.5, 0.7, 0.85)
#: Loads that are tried, from the top, for the highest one that keeps the limits.
TRIED: Final = tuple(load / 100 for load in range(95, 0, -5))
WAVE_S: Final = 3600.0
SWING: Final = 0.8
GROUP: Final = 8.0


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes:
        times: seconds that 1, 2, ... jobs take which run together; as many as a replica works on at a time.
        queue: jobs that the server keeps waiting besides those with the cluster.
        narrow: jobs that a replica works on at a time while few wait.
    """

    replicas: int
    times: tuple[float, ...]
    queue: int
    narrow: int = 1

    @property
    def ahead(self) -> int:
        """Jobs that a replica takes."""
        return renders_ahead(len(self.times) * len(COLORS))

    @property
    def capacity(self) -> float:
        """Jobs a second, all replicas busy."""
        return self.replicas * max(jobs / seconds for jobs, seconds in enumerate(self.times, 1))


@dataclass
class Outcome:
    """Seconds from arrival to pictures of each answered job; how many were refused; when the last one ended."""

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    ended: float = 0.0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    @property
    def mean(self) -> float:
        return sum(self.latencies) / len(self.latencies)

    @property
    def refused_share(self) -> float:
        return self.refused / (self.refused + len(self.latencies))


class _Replica:
    """Works on several jobs at a time; what it has of each is the share that is left to do."""

    def __init__(self, times: Sequence[float], narrow: int) -> None:
        self._times, self._narrow = times, narrow
        self._is_wide = False
        self._left: dict[int, float] = {}
        self._waiting: deque[int] = deque()
        self._now = 0.0
        self.version = 0  # counts changes: an end foreseen before one is void

    @property
    def ongoing(self) -> int:
        return len(self._left) + len(self._waiting)

    def add(self, job: int, now: float) -> None:
        self._advance(now)
        self._waiting.append(job)
        self._fill()

    def next_end(self) -> float:
        """When the first job ends if nothing changes."""
        return self._now + min(self._left.values()) * self._times[len(self._left) - 1]

    def end(self, now: float) -> int:
        """Take out the job that ends now."""
        self._advance(now)
        job = min(self._left, key=lambda each: self._left[each])
        del self._left[job]
        self._fill()
        return job

    def _advance(self, now: float) -> None:
        if self._left:
            done = (now - self._now) / self._times[len(self._left) - 1]
            self._left = {job: left - done for job, left in self._left.items()}
        self._now = now

    def _fill(self) -> None:
        wide = len(self._times)
        self._is_wide = self.ongoing >= (wide if self._is_wide else 1.5 * wide)
        most = wide if self._is_wide else min(wide, self._narrow)
        while self._waiting and len(self._left) < most:
            self._left[self._waiting.popleft()] = 1.0
        self.version += 1


def simulate(cluster: Cluster, arrivals: Sequence[float], generator: random.Random) -> Outcome:
    """Send jobs that arrive at these times through the cluster."""
    replicas = [_Replica(cluster.times, cluster.narrow) for _ in range(cluster.replicas)]
    waiting: deque[int] = deque()
    room = cluster.replicas * cluster.ahead
    ends: list[tuple[float, int, int]] = []  # when, version, replica
    outcome = Outcome()

    def foresee(index: int) -> None:
        if replicas[index].ongoing:
            heapq.heappush(ends, (replicas[index].next_end(), replicas[index].version, index))

    def hand_over(now: float) -> None:
        nonlocal room
        while waiting and room:
            index = choose(replicas, cluster.ahead, generator)
            replicas[index].add(waiting.popleft(), now)
            room -= 1
            foresee(index)

    def finish_until(limit: float) -> None:
        nonlocal room
        while ends and ends[0][0] <= limit:
            now, version, index = heapq.heappop(ends)
            if replicas[index].version != version:
                continue
            outcome.latencies.append(now - arrivals[replicas[index].end(now)])
            outcome.ended = now
            room += 1
            foresee(index)
            hand_over(now)

    for job, arrival in enumerate(arrivals):
        finish_until(arrival)
        if len(waiting) >= cluster.queue + room:
            outcome.refused += 1
            continue
        waiting.append(job)
        hand_over(arrival)
    finish_until(math.inf)
    return outcome


def choose(replicas: Sequence[_Replica], most: int, generator: random.Random) -> int:
    """Serve's power of two choices: the less busy of two drawn at random, drawn again while both are full."""
    while True:
        drawn = generator.sample(range(len(replicas)), min(2, len(replicas)))
        best = min(drawn, key=lambda index: replicas[index].ongoing)
        if replicas[best].ongoing < most:
            return best


# Arrivals


def steady(rate: float, generator: random.Random) -> Iterator[float]:
    """A Poisson process; `rate` jobs a second."""
    now = 0.0
    while True:
        now += generator.expovariate(rate)
        yield now


def wave(rate: float, generator: random.Random) -> Iterator[float]:
    """A Poisson process whose rate swings about `rate`, by thinning (Lewis and Shedler, 1979)."""
    for now in steady(rate * (1 + SWING), generator):
        if generator.random() * (1 + SWING) < 1 + SWING * math.sin(2 * math.pi * now / WAVE_S):
            yield now


def bursts(rate: float, generator: random.Random) -> Iterator[float]:
    """Groups that come as a Poisson process, of a geometric size."""
    for now in steady(rate / GROUP, generator):
        yield now
        while generator.random() > 1 / GROUP:
            yield now


PATTERNS: Final[dict[str, Callable[[float, random.Random], Iterator[float]]]] = {
    "steady": steady,
    "wave": wave,
    "bursts": bursts,
}


def trace(pattern: str, rate: float, jobs: int, seed: int) -> list[float]:
    """Arrival times: at least `jobs` of them, and whole waves."""
    span = math.ceil(jobs / rate / WAVE_S) * WAVE_S
    found = []
    for now in PATTERNS[pattern](rate, random.Random(seed)):
        if now > span:
            return found
        found.append(now)
    raise AssertionError("arrivals never end")


# The report


def read_times(path: Path | None) -> tuple[tuple[float, ...], str]:
    """(seconds that 1, 2, ... jobs take together, where they come from).

    Args:
        path: JSON, either `{"service_times": [s1, s2, ...]}` or a result of `python -m benchmarks`, of which the
            times of one photo and of four, two at a time, count. By default what was measured last.

    Raises:
        ValueError: the file holds neither.
    """
    path = path or next(each for each in MEASURED if each.is_file())
    found = json.loads(path.read_text())
    if "service_times" in found:
        times = tuple(float(seconds) for seconds in found["service_times"])
    elif "end_to_end" in found:
        one = float(found["end_to_end"]["7"]["median"])
        four = float(found["end_to_end"].get("28", {"median": 4 * one})["median"])
        times = (one, max(one, four / 2))
    else:
        raise ValueError(
            f"{path} has neither service_times nor end_to_end; write one with `python -m benchmarks`"
        )
    if not times or min(times) <= 0 or list(times) != sorted(times):
        raise ValueError(f"{path}: service times must be positive and grow with the jobs, not {times}")
    return times, path.name


def cost_per_thousand(cluster: Cluster, outcome: Outcome, price: float) -> float:
    """Of all replicas, from the first arrival to the last end, in the unit of `price` (an hour of one GPU)."""
    return cluster.replicas * price * outcome.ended / 3600 / len(outcome.latencies) * 1000


def row(pattern: str, cluster: Cluster, options: argparse.Namespace) -> list[Any]:
    """One number of GPUs: p95 at some loads, and the highest load within the limits with what it costs."""

    def run(load: float) -> Outcome:
        arrivals = trace(pattern, load * cluster.capacity, options.jobs, seed=1)
        return simulate(cluster, arrivals, random.Random(2))

    cells: list[Any] = [cluster.replicas]
    for load in LOADS:
        found = run(load)
        refused = f" ({found.refused_share:.1%} refused)" if found.refused else ""
        cells.append(f"{found.quantile(0.95):.1f}{refused}")
    for load in TRIED:
        found = run(load)
        if found.quantile(0.95) <= options.limit and found.refused_share <= 0.001:
            jobs = len(found.latencies) / found.ended * 3600
            return [
                *cells,
                f"{load:.2f}",
                round(jobs),
                f"{cost_per_thousand(cluster, found, options.price):.2f}",
            ]
    return [*cells, "none", "", ""]


def report(options: argparse.Namespace) -> str:
    """The tables, as Markdown."""
    times, source = read_times(options.times)
    head = ["GPUs", *(f"p95 s at load {load}" for load in LOADS)]
    head += ["highest load", "jobs an hour there", "cost of 1000 jobs there"]
    lines = [
        "# How many GPUs for how many users (simulated)",
        "",
        f"{datetime.date.today()}, commit {commit()}. Command: `python -m benchmarks.scaling --jobs {options.jobs}`.",
        "",
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(),
        "",
        f"Service times: {', '.join(f'{t:.2f}' for t in times)} s for 1 to {len(times)} jobs together ({source})."
        f" Queue: {options.queue}. A GPU is taken to cost {options.price:g} an hour. Load: jobs that come, as a"
        f" share of what all GPUs can do. The highest load, in steps of 0.05 up to {TRIED[0]:g}, is the one at which"
        f" 95 of 100 jobs are answered within {options.limit:g} s and no more than one in 1000 is refused.",
    ]
    for pattern in PATTERNS:
        rows = [row(pattern, Cluster(gpus, times, options.queue), options) for gpus in options.gpus]
        lines += ["", f"## {pattern.capitalize()}", "", table(head, rows)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=Path, help="JSON of service times; what was measured, by default")
    parser.add_argument("--gpus", type=int, nargs="*", default=list(GPUS))
    parser.add_argument("--jobs", type=int, default=10_000, help="the least a trace holds")
    parser.add_argument("--queue", type=int, default=64, help="the setting queue_size")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU for an hour, in your currency")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that p95 may take")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    text = report(options)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
