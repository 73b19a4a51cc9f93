"""`lumiply bench`: the benchmarks of the checkout that this package lies in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import lumiply


def bench(arguments: Sequence[str]) -> int:
    """Run `benchmarks` with these arguments.

    Raises:
        ClickException: the package was installed without them.
    """
    checkout = Path(lumiply.__file__).parents[1]
    if not (checkout / "benchmarks" / "bench.py").is_file():
        raise click.ClickException(
            f"the benchmarks are not installed with the package; run it from a checkout (looked in {checkout})"
        )
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    return int(importlib.import_module("benchmarks.bench").main(arguments))
