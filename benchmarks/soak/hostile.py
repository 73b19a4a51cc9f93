"""Requests that no friend sends: damaged forms and images, paths and headers, and what schemathesis makes up."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.soak.stage import Row, is_ready, serving
from tests.server.hostile import attacks, send


def hostile(count: int = 2000, examples: int = 60) -> list[Row]:
    """Damaged forms and images, paths and headers, and schemathesis against our own document."""
    with tempfile.TemporaryDirectory() as folder, serving("nano", Path(folder)) as (url, process):
        port = int(url.rpartition(":")[2])
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda attack: send(port, attack), attacks(1, count)))
        wrong = [problem for problem in found if problem]
        tried = 0
        failures: list[str] = []
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in [one.ok() for one in schema.get_all_operations()]:
            try:
                tried += validate(operation, examples)
            except Exception as exc:  # whatever schemathesis finds
                failures.append(f"{operation.label}: {exc}")
        alive = process.poll() is None and is_ready(url)
        outside = sorted(
            path.name for path in Path(folder).iterdir() if path.name not in ("inference", "server.log")
        )
        log = (Path(folder) / "server.log").read_text(errors="replace")
    return [
        Row(f"{count} hostile requests, nano model", "documented 4xx in JSON, no 5xx, no stack trace",
            f"{len(wrong)} wrong{': ' + wrong[0] if wrong else ''}", not wrong and alive),
        Row(f"schemathesis, {tried} requests", "as /openapi.json says",
            f"{len(failures)} failures{': ' + failures[0][:300] if failures else ''}", not failures),
        Row("files outside the results folder; errors in the log", "none",
            f"{len(outside)}; {log.count('Traceback')}", not outside and "Traceback" not in log),
    ]  # fmt: skip


def validate(operation: Any, examples: int) -> int:
    """Send made-up requests of an operation; how many. Raises whatever the answers violate."""
    # What makes an image a good one, or a preset a known one, no schema can say.
    skipped = [positive_data_acceptance] if operation.path == "/process" else []
    tried = 0

    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy())
    def check(case: schemathesis.Case) -> None:
        nonlocal tried
        tried += 1
        case.call_and_validate(excluded_checks=skipped)

    check()
    return tried
