"""Jobs a second with 1, 2, ... replicas over Ray on this machine, a GPU each, and without Ray.

    python -m benchmarks.cluster_throughput --model full --out benchmarks/results/cluster_throughput.json

A job is one photo in seven colours, from decoded photo to decoded pictures. As many jobs are kept under way as the
engine works on together and one more, as the server does. The full model's weights are filled by name where the
published ones are not there, and written once, for all replicas to load. What is compiled is kept in `--cache-dir`,
for the other replicas and for the next run; what is not compiled in time goes uncompiled, which the results say.

The most replicas come first, and the run without Ray last. The JSON is written after every part; a part that needs
more than is left of `--budget` is left out. `service_times` in it says how long 1, 2, ... jobs take together, for
`benchmarks.scaling`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.bench import photo_of
from benchmarks.full_model import write_filled
from benchmarks.measure import Results, machine, table
from benchmarks.replicas import LoadSubject, engines_behind, has_weights, meanwhile, replicas_stay
from lumiply.colors import COLORS
from lumiply.engine.convert import picture_psnr
from lumiply.engine.protocol import Engine
from lumiply.engine.render import Pictures
from lumiply.engine.start import choose_device
from lumiply.settings import Settings

ROOT: Final = Path(__file__).parents[1]
#: Seconds that a part takes besides those for which it is watched: first renders, captures, replicas that change.
ASIDE_S: Final = 12.0
#: Seconds that replicas are given to come once nothing is compiled any more.
COMING_S: Final = 60.0
#: Seconds that a replica which comes later is given to load what is compiled.
LOADING_S: Final = 30.0
#: Free bytes that filled weights need.
ROOM: Final = 8e9
#: Seconds that one job may take.
JOB_S: Final = 600.0


def throughput(engine: Engine, seconds: float, size: int) -> dict[str, Any]:
    """Jobs a second, over at least `seconds`, with all under way that the server would have under way.

    The renders before it, of one seed, show whether replicas and company make a difference to the pictures.
    """
    photo, under_way = photo_of(size, size), engine.info.most_ahead
    first = [engine.submit(photo, COLORS, seed=0) for _ in range(under_way)]
    alike = worst_db([future.result(JOB_S) for future in first])
    room, took, errors = threading.Semaphore(under_way), list[tuple[float, float]](), list[BaseException]()

    def ended(asked: float, future: Future[Pictures]) -> None:
        if not future.cancelled():
            if error := future.exception():
                errors.append(error)
            took.append((time.perf_counter(), time.perf_counter() - asked))
        room.release()

    began, seed, futures = time.perf_counter(), 0, list[Future[Pictures]]()
    while time.perf_counter() - began < seconds or len(took) < under_way:
        if not room.acquire(timeout=JOB_S):
            raise TimeoutError(f"no job ended within {JOB_S:.0f} s")
        seed, asked = seed + 1, time.perf_counter()
        futures.append(engine.submit(photo, COLORS, seed=seed))
        futures[-1].add_done_callback(partial(ended, asked))
    done = list(took)
    for future in futures:
        future.cancel()  # without effect on those that are done
    if errors:
        raise errors[0]
    rate = len(done) / (max(at for at, _ in done) - began)
    return {
        "jobs": len(done),
        "jobs_per_s": rate,
        "pictures_per_s": rate * len(COLORS),
        "median_s": statistics.median(seconds for _, seconds in done),
        "one_seed_alike_db": alike,
    }


def worst_db(renders: Sequence[Pictures]) -> float:
    """PSNR of the least alike pictures among renders of one photo and seed; 999 where all are equal."""
    pairs = ((render[color], renders[0][color]) for render in renders[1:] for color in COLORS)
    return min(999.0, min(picture_psnr(one, other) for one, other in pairs))


def together(engine: Engine, repeats: int, size: int) -> list[float]:
    """Median seconds that 1, 2, ... jobs take which run together.

    As many as an engine works on at once run together while more wait (`lumiply.engine.admission`): of four times as
    many, a quarter. Those between one and that many are on the line between the two.
    """
    photo, most = photo_of(size, size), engine.info.parallel
    found: dict[int, float] = {}
    for jobs in sorted({1, most}):
        times, rounds = [], 1 if jobs == 1 else 4
        for _ in range(repeats + 1):
            began = time.perf_counter()
            for future in [engine.submit(photo, COLORS, seed=seed) for seed in range(jobs * rounds)]:
                future.result(JOB_S)
            times.append((time.perf_counter() - began) / rounds)
        found[jobs] = statistics.median(times[1:])
    slope = (found[most] - found[1]) / max(1, most - 1)
    return [found[1] + slope * (jobs - 1) for jobs in range(1, most + 1)]


class Run:
    """The parts, one after another until the time is up."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.began = time.time()
        device = choose_device(options.device)
        on_gpu = device.type == "cuda"
        head = {"model": options.model, "size": options.size, "gpus": torch.cuda.device_count() * on_gpu}
        self.results = Results(options.out, {**machine(device), **head})
        self.counts = sorted(set(options.replicas), reverse=True)
        parts = len(self.counts) + 1  # each number of replicas, and the service times
        until = self.began + options.budget - parts * (options.seconds + ASIDE_S)
        settings = Settings(
            engine="ray",
            device="cuda" if on_gpu else options.device,  # so that Ray cannot overlook the GPUs
            compile=options.compile,
            model="auto" if options.model == "nano" else options.model,
            cache_dir=options.cache_dir or Settings().cache_dir,
            steps=options.steps,
        )
        self.filled = options.filled or options.model == "full" and not has_weights(settings)
        if self.filled:
            settings = settings.replace(ckpt_dir=folder)
        self.load = LoadSubject(options.model, settings, tuple(options.sizes), options.slots, until)
        self.rows: dict[str, dict[str, Any]] = {}

    def left(self) -> float:
        return float(self.options.budget - (time.time() - self.began))

    def run(self) -> None:
        """Everything; the first replicas come while the weights are filled."""
        coming = self._send_for(self.counts[0])
        if self.filled:
            self.part("weights", self._fill, needs_s=0.0)
        engines: list[Engine] = []
        for index, count in enumerate(self.counts):
            name, before = f"{count} over Ray", len(engines)
            self.part(f"{name}: all there", partial(self._arrived, coming, count, engines))
            if len(engines) > before:
                self.part(name, partial(self._watch, name, engines[-1], count))
                if count == 1:
                    self.part("jobs together", partial(self._together, engines[-1]))
            coming = self._send_for(self.counts[index + 1]) if index + 1 < len(self.counts) else coming
        for engine in engines:
            engine.close()
        self.part("without Ray", self._without_ray, self.options.seconds + 2 * ASIDE_S + LOADING_S)

    def part(self, name: str, measure: Callable[[], Any], needs_s: float | None = None) -> None:
        """Do it if there is time; what it found, or why it failed, is printed and kept."""
        needs_s = self.options.seconds + ASIDE_S if needs_s is None else needs_s
        began, told = time.time(), self.results.tree.setdefault("parts", {})
        if self.left() < needs_s:
            told[name] = f"left out: {self.left():.0f} s were left, {needs_s:.0f} are needed"
        else:
            try:
                found = measure()
                told[name] = f"{time.time() - began:.1f} s: {found}"
            except Exception as error:
                why = f"{type(error).__name__}: {error}"[:2000]
                told[name] = f"failed after {time.time() - began:.1f} s: {why}"
        self.results.put("parts", told)
        print(f"{self.left():5.0f} s left  {name}: {told[name]}", flush=True)

    def _fill(self) -> str:
        mini = self.options.model == "mini"
        folder = self.load.settings.ckpt_dir / ("mini" if mini else "")
        paths = write_filled(folder, "mini" if mini else "full", choose_device(self.options.device))
        return f"{sum(path.stat().st_size for path in paths) / 1e9:.2f} GB filled by name"

    def _send_for(self, count: int) -> Future[Engine]:
        from lumiply.cluster.start import connect

        load = replace(self.load, until=max(self.load.until, time.time() + LOADING_S))
        return meanwhile(lambda: connect(load.settings.replace(replicas=str(count)), load))

    def _arrived(self, coming: Future[Engine], count: int, engines: list[Engine]) -> list[str]:
        """Wait for the engine over `count` replicas, and add it; says which replicas there are.

        Raises:
            TimeoutError: they are not there in time.
        """
        limit = min(max(self.load.until - time.time(), 0.0) + COMING_S, self.left())
        try:
            engine = coming.result(max(1.0, limit))
        except FutureTimeoutError:
            coming.add_done_callback(close)
            raise TimeoutError(f"{count} replicas have not come within {limit:.0f} s") from None
        engines.append(engine)
        return engines_behind(engine, count)

    def _watch(self, name: str, engine: Engine, count: int) -> str:
        row = self.rows[name] = throughput(engine, self.options.seconds, self.options.size)
        row["engines"] = engines_behind(engine, count)
        self.results.put("throughput", self.rows)
        return f"{row['jobs_per_s']:.3g} jobs a second"

    def _together(self, engine: Engine) -> list[float]:
        found = together(engine, self.options.repeats, self.options.size)
        self.results.put("service_times", found)
        return found

    def _without_ray(self) -> str:
        engine = replace(self.load, until=time.time() + self.left() - self.options.seconds - ASIDE_S)()
        try:
            found = self._watch("without Ray", engine, 1)
            if "service_times" not in self.results.tree:
                self._together(engine)
        finally:
            engine.close()
        return found

    def summary(self) -> str:
        """The tables, as Markdown."""
        tree, one = self.results.tree, self.rows.get("1 over Ray", {}).get("jobs_per_s")
        cells = [
            [name, row["jobs_per_s"], row["pictures_per_s"], one and row["jobs_per_s"] / one, row["median_s"],
             row["jobs"], row["one_seed_alike_db"]]
            for name, row in self.rows.items()
        ]  # fmt: skip
        head = ["replicas", "jobs a second", "pictures a second", "of one replica", "median s of a job"]
        times = ", ".join(f"{seconds:.3g}" for seconds in tree.get("service_times", [])) or "not measured"
        return (
            f"{tree['date']}, commit {tree['commit']}, {tree['device']}, {tree['gpus']} GPUs, {tree['cpus']} CPU"
            f" cores, torch {tree['torch']}: {tree['model']} model, photo of {tree['size']} x {tree['size']}, seven"
            f" colours\n\n{table([*head, 'jobs', 'one seed alike, dB'], cells)}\n\n"
            f"Seconds of 1, 2, ... jobs together: {times}"
        )


def close(late: Future[Engine]) -> None:
    """Of an engine that came when nobody waited for it any more."""
    if not late.exception():
        late.result().close()


def roomy() -> Path | None:
    """Memory that looks like a folder, for filled weights, if there is enough; None: where temporary files go."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > ROOM else None


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini", choices=("full", "mini", "nano"))
    parser.add_argument(
        "--filled", action="store_true", help="weights filled by name even where real ones are"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20.0, help="for which each throughput is watched")
    parser.add_argument("--repeats", type=int, default=3, help="of the jobs that begin together")
    parser.add_argument("--size", type=int, default=860, help="pixels on a side of the photo")
    parser.add_argument("--steps", type=int, help="denoising steps; by default the model's own")
    parser.add_argument("--compile", default="auto", choices=("auto", "off", "background"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[7, 14], help="batches that are compiled")
    parser.add_argument("--slots", type=int, help="parts that are compiled at once")
    parser.add_argument("--cache-dir", type=Path, help="compiled code is looked for and kept there")
    parser.add_argument("--budget", type=float, default=1800.0, help="seconds in all")
    parser.add_argument("--out", type=Path, help="write all results there, as JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    # Replicas find the benchmarks by this.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        tempfile.TemporaryDirectory(prefix="lumiply-", dir=roomy(), ignore_cleanup_errors=True) as folder,
        replicas_stay(),
    ):
        run = Run(options, Path(folder))
        run.run()
    print(f"\n{run.summary()}", flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # replicas that have not come are not waited for
