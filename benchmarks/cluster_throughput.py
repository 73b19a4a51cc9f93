"""Jobs a second without Ray, and with 1, 2, ... replicas over Ray on this machine, a GPU each.

    python -m benchmarks.cluster_throughput --model full --out benchmarks/results/cluster_throughput.json

A job is one photo in seven colours, from decoded photo to decoded pictures. As many jobs are kept under way as the
engine works on together and one more, as the server does. The full model's weights are filled by name where the
published ones are not there. The JSON also holds how long 1, 2, ... jobs take together, for `benchmarks.scaling`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.bench import photo_of
from benchmarks.measure import Results, machine, table
from benchmarks.models import subject
from lumiply.colors import COLORS
from lumiply.engine.local import LocalEngine
from lumiply.engine.protocol import Engine, EngineInfo
from lumiply.engine.start import MAX_BATCH, choose_decode_precision, choose_device, choose_precision, speed_up
from lumiply.engine.threads import set_threads
from lumiply.settings import Settings

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class LoadSubject:
    """Loads an engine of the model to measure, compiled if the settings say so; in a replica, or here."""

    model: str
    settings: Settings

    def __call__(self) -> LocalEngine:
        device = choose_device(self.settings.device)
        dtype = choose_precision("auto", device)
        if device.type == "cpu":
            set_threads()
        most = self.settings.max_batch or MAX_BATCH[device.type]
        if self.model == "nano":
            from tests.nano import nano_pipeline

            pipeline, steps = nano_pipeline(), 2
        else:
            chosen = subject(self.model)
            pipeline = chosen.pipeline(device, dtype, choose_decode_precision("auto", device, dtype))
            steps = chosen.steps
        compiler = speed_up(pipeline, self.settings)
        if compiler is not None:
            compiler.wait()
        info = EngineInfo(self.model, "", self.model, str(device), str(dtype), pipeline.picture_size, steps)
        info = replace(info, colors=pipeline.palette.names, parallel=max(1, most // len(COLORS)))
        return LocalEngine(pipeline, info, max_batch=most, queue_size=self.settings.queue_size)


def throughput(engine: Engine, jobs: int, size: int) -> dict[str, float]:
    """Jobs a second and the median seconds of one, all under way that the server would have under way."""
    photo, under_way = photo_of(size, size), engine.info.parallel + 1
    for seed in range(under_way):  # captures and caches
        engine.submit(photo, COLORS, seed=seed).result()
    free, took = threading.Semaphore(under_way), list[float]()

    def end(began: float) -> Any:
        def note(_: Future[Any]) -> None:
            took.append(time.perf_counter() - began)
            free.release()

        return note

    began = time.perf_counter()
    futures = []
    for seed in range(jobs):
        free.acquire()
        future = engine.submit(photo, COLORS, seed=seed)
        future.add_done_callback(end(time.perf_counter()))
        futures.append(future)
    for future in futures:
        future.result()
    for _ in range(under_way):  # a result is there before its callback has noted the time
        free.acquire()
    return {"jobs_per_s": jobs / (time.perf_counter() - began), "median_s": statistics.median(took)}


def together(engine: Engine, repeats: int, size: int) -> list[float]:
    """Median seconds that 1, 2, ... jobs take which begin at the same time."""
    photo, found = photo_of(size, size), []
    for jobs in range(1, engine.info.parallel + 1):
        times = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            for future in [engine.submit(photo, COLORS, seed=seed) for seed in range(jobs)]:
                future.result()
            times.append(time.perf_counter() - began)
        found.append(statistics.median(times[1:]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", choices=("full", "mini", "nano"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--jobs", type=int, default=20, help="a replica")
    parser.add_argument("--size", type=int, default=860, help="pixels on a side of the photo")
    parser.add_argument("--compile", default="auto", choices=("auto", "off", "background"))
    parser.add_argument("--out", type=Path, help="write all results there, as JSON")
    options = parser.parse_args(arguments)
    # Replicas find the benchmarks by this.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    from lumiply.cluster.start import connect

    settings = Settings(engine="ray", device=options.device, compile=options.compile)
    load = LoadSubject(options.model, settings)
    device = choose_device(options.device)
    results = Results(options.out, {**machine(device), "model": options.model, "size": options.size})

    engine: Engine = load()
    rows = {"without Ray": throughput(engine, options.jobs, options.size)}
    results.put("service_times", together(engine, 5, options.size))
    engine.close()
    del engine  # and with it the model, whose place a replica takes
    for replicas in options.replicas:
        engine = connect(settings.replace(replicas=str(replicas)), load)
        try:
            rows[f"{replicas} over Ray"] = throughput(engine, options.jobs * replicas, options.size)
        finally:
            engine.close()
        results.put("throughput", rows)
    tree = results.tree
    print(
        f"{tree['date']}, commit {tree['commit']}, {tree['device']}, {tree['cpus']} CPU cores, torch {tree['torch']}:"
        f" {options.model} model, photo of {options.size} x {options.size}, seven colours\n"
    )
    one = rows["without Ray"]["jobs_per_s"]
    cells = [
        [name, row["jobs_per_s"], row["jobs_per_s"] / one, row["median_s"]] for name, row in rows.items()
    ]
    print(table(["replicas", "jobs a second", "of one without Ray", "median s"], cells))
    print(f"\nSeconds of 1, 2, ... jobs together: {', '.join(f'{s:.3g}' for s in tree['service_times'])}")


if __name__ == "__main__":
    main()
