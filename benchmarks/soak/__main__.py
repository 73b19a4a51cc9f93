"""The server under load and under attack, for minutes: the long versions of tests/server/test_faults.py.

    python -m benchmarks.soak --out benchmarks/results/soak.md            # everything, about 15 minutes on two cores
    python -m benchmarks.soak kills hostile                               # some of it; a name may stand there twice

Needs the right to mount a small disk for `disk`. Every server runs in a process of its own and listens on this
machine alone.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from benchmarks.provenance import commit
from benchmarks.soak.disk import disk
from benchmarks.soak.hostile import hostile
from benchmarks.soak.kills import kills
from benchmarks.soak.load import gateways, load
from benchmarks.soak.slow import slow
from benchmarks.soak.stage import Row

PROOFS: dict[str, Callable[[], list[Row]]] = {
    "gateways": gateways,
    "load": lambda: load("mini", clients=64, jobs=500, photos=8),
    "stored": lambda: load("mini", clients=64, jobs=500, photos=8, stored=True),
    "renders": lambda: load("nano", clients=64, jobs=500, photos=250),
    "kills": kills,
    "hostile": hostile,
    "slow": slow,
    "disk": disk,
}

NOTE = """
`load` is on the shipped mini model, with 8 photos that repeat, because seven colours take it up to 20 s on cores
that others use as well. `stored` is the same once all eight have been rendered: nothing but answers, as many as there
can be, which is when `/health` has to wait longest. `renders` is `load` on a model of the same classes that renders
in milliseconds, with a render of its own for every second job, because there the queue and the store are busiest.
`kills`, `hostile`, `slow` and `disk` use that one as well: what they look for is in the server, not in the model.
Renders that raise, hang or run out of memory, and a disk that fills up while results are written, are quick and
therefore tests: tests/server/test_engine_faults.py, test_faults.py and test_dispatch.py.

Clients, server and what times `/health` are three processes on the same cores. `/health` is asked every 30 ms; an
answer that takes longer counts once more for each question that would have been asked meanwhile. How much too long
the probe sleeps between two questions tells how busy the machine is with other things.
""".strip()


def proof(name: str) -> str:
    """The name of a proof.

    Raises:
        ArgumentTypeError: there is none of that name.
    """
    if name not in PROOFS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PROOFS)}")
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "proofs", nargs="*", type=proof, metavar="PROOF", help=f"some of {', '.join(PROOFS)}; all by default"
    )
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args(arguments)
    lines = [
        "# The server under load and under attack",
        "",
        f"{datetime.date.today()}, commit {commit()}, {psutil.cpu_count()} CPU cores shared with other work, Python"
        f" {platform.python_version()}. Command: `{' '.join(['python -m benchmarks.soak', *options.proofs])}`.",
        "",
        NOTE,
        "",
        "| what | bar | measured | |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    good = True
    for name in options.proofs or PROOFS:
        for row in PROOFS[name]():
            lines.append(f"| {row.what} | {row.bar} | {row.measured} | {'ok' if row.ok else '**missed**'} |")
            print(lines[-1], flush=True)
            good = good and row.ok
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
