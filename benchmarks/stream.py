"""A stream of users: continuous batching against first come, first served, in the same run.

    python -m benchmarks.stream --model mini --requests 60

Requests arrive at random (a Poisson process) at a share of the capacity, which is that of whole jobs one after
another, by the mean time of the requests that then come. Both ways get the same arrivals; latency counts from arrival
to pictures. The results are written after each load.
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import photo_of
from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.protocol import EngineInfo
from lumiply.engine.start import MAX_BATCH, choose_device, choose_numbers, speed_up
from lumiply.settings import Settings

LOADS = (0.5, 0.7, 0.85, 0.95)
#: Colours of requests that are together under way, so that every batch that is captured has been met before.
MET = ((1,), (2,), (4,), (7,), (1, 7), (7, 7, 7))
#: How often one request of each kind is timed by itself.
TIMED = 5
#: Takes one request's number of colours and gives a future of its pictures.
Serve = Callable[[int], "Future[Any]"]


def mix_of(requests: int, single: float, generator: random.Random) -> list[int]:
    """Colours of each request: 1 with probability `single`, else all seven."""
    return [1 if generator.random() < single else len(COLORS) for _ in range(requests)]


def latencies(serve: Serve, arrivals: Sequence[float], mix: Sequence[int]) -> list[float]:
    """Seconds from each arrival to its pictures; `arrivals` count from now."""
    ended = [0.0] * len(arrivals)
    left = threading.Semaphore(0)
    began = time.perf_counter()

    def end(index: int) -> Callable[[Future[Any]], None]:
        def note(future: Future[Any]) -> None:
            ended[index] = time.perf_counter() - began
            left.release()

        return note

    futures = []
    for index, (arrival, colors) in enumerate(zip(arrivals, mix, strict=True)):
        time.sleep(max(0.0, began + arrival - time.perf_counter()))
        future = serve(colors)
        future.add_done_callback(end(index))
        futures.append(future)
    for _ in arrivals:
        left.acquire()
    for future in futures:
        future.result()
    return [end - arrival for end, arrival in zip(ended, arrivals, strict=True)]


def compare(
    pipeline: Pipeline,
    *,
    steps: int,
    max_batch: int,
    requests: int,
    single: float,
    loads: Sequence[float],
    seed: int,
    tell: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """Mean and p95 latency in seconds of both ways at each load, and the mean seconds of a whole job.

    `tell` gets what there is after each load.
    """
    info = EngineInfo("stream", "", "", str(pipeline.device), str(pipeline.dtype), 0, steps)
    engine = LocalEngine(pipeline, info, max_batch=max_batch, queue_size=requests + 1)
    photo = photo_of(640, 480)
    one_by_one = ThreadPoolExecutor(1)

    def continuous(colors: int) -> Future[Any]:
        return engine.submit(photo, COLORS[:colors])

    def whole_jobs(colors: int) -> Future[Any]:
        return one_by_one.submit(lambda: engine.submit(photo, COLORS[:colors]).result())

    generator = random.Random(seed)
    mix = mix_of(requests, single, generator)
    for together in MET:  # captures and caches
        if max(together) <= max_batch:
            for future in [engine.submit(photo, COLORS[:colors]) for colors in together]:
                future.result()
    alone = {colors: _seconds_of(lambda c=colors: continuous(c)) for colors in sorted(set(mix))}  # type: ignore[misc]
    service = statistics.mean(alone[colors] for colors in mix)
    found: dict[str, Any] = {
        "seconds_a_job": service,
        "seconds_alone": {str(colors): time_s for colors, time_s in alone.items()},
        "requests": requests,
        "loads": {},
    }
    for load in loads:
        at, arrivals = 0.0, []
        for _ in range(requests):
            at += generator.expovariate(load / service)
            arrivals.append(at)
        ways = {"continuous": continuous, "whole jobs": whole_jobs}
        found["loads"][str(load)] = {
            name: _summary(latencies(serve, arrivals, mix)) for name, serve in ways.items()
        }
        tell(found)
    one_by_one.shutdown()
    engine.close()
    return found


def _seconds_of(serve: Callable[[], Future[Any]]) -> float:
    """Of one request by itself, the median."""
    times = []
    for _ in range(TIMED):
        began = time.perf_counter()
        serve().result()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    return {"mean_s": statistics.mean(seconds), "p95_s": sorted(seconds)[int(0.95 * (len(seconds) - 1))]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="mini", choices=("full", "mini", "nano"), help="nano: a toy, in milliseconds"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--steps", type=int, help="by default the model's own")
    parser.add_argument("--max-batch", type=int)
    parser.add_argument(
        "--single", type=float, default=0.5, help="share of requests for one colour, not seven"
    )
    parser.add_argument("--loads", type=float, nargs="+", default=list(LOADS), help="shares of the capacity")
    parser.add_argument("--compile", default="auto", choices=("auto", "off", "background"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write all results there, as JSON")
    given = parser.parse_args(arguments)
    device, settings = choose_device(given.device), Settings(compile=given.compile, max_batch=given.max_batch)
    if given.model == "nano":
        from tests.nano import nano_pipeline

        pipeline, steps = nano_pipeline(), given.steps or 50
    else:
        chosen = subject(given.model)
        pipeline = chosen.on(device, choose_numbers(settings, device, full=chosen.full))
        steps = given.steps or chosen.steps
    compiler = speed_up(pipeline, settings)
    if compiler is not None:
        compiler.wait()
    most = given.max_batch or MAX_BATCH[device.type]
    results = Results(
        given.out,
        {**machine(device), "model": given.model, "steps": steps, "max_batch": most, "single": given.single},
    )
    found = compare(
        pipeline, steps=steps, max_batch=most, requests=given.requests, single=given.single, loads=given.loads,
        seed=given.seed, tell=lambda found: results.put("stream", found),
    )  # fmt: skip
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}, {torch.get_num_threads()} threads: "
        f"{given.model} model, {steps} steps, {given.requests} requests, {given.single:.0%} of one colour, "
        f"batch of {most} at most; a whole job takes {found['seconds_a_job']:.3g} s\n"
    )
    rows = [
        [load, *(ways[name][key] for key in ("mean_s", "p95_s") for name in ("continuous", "whole jobs"))]
        for load, ways in found["loads"].items()
    ]
    head = ["load", "mean s, continuous", "whole jobs", "p95 s, continuous", "whole jobs"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
