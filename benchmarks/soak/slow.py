"""Connections that send a byte a second."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.servers import SlowClients, timed
from benchmarks.soak.stage import Row, rooms, serving
from lumiply import client


def slow(count: int = 200, seconds: float = 10.0) -> list[Row]:
    """Others, while slow connections send a byte a second."""
    photo = rooms(1)[0]
    rows = []
    with tempfile.TemporaryDirectory() as folder, serving("nano", Path(folder)) as (url, process):
        path = Path(folder) / "photo.png"
        path.write_bytes(photo)
        client.process(url, path, "warm", "red")
        measured = {}
        for number in (0, count):
            dripping = SlowClients(int(url.rpartition(":")[2]), number)
            health = timed(lambda: client.fetch(f"{url}/health"), seconds)
            uploads = timed(lambda: client.process(url, path, "warm", "red"), seconds)
            measured[number] = (health, uploads, len(dripping.open), process.num_threads())
            dripping.close()
    for index, name in enumerate(("/health", "an upload that is stored already")):
        without, with_them = (measured[number][index] for number in (0, count))
        p95 = [statistics.quantiles(took, n=20)[18] * 1000 for took in (without, with_them)]
        left = measured[count][2]
        rows.append(
            Row(f"{count} slow connections ({left} still open), eight others: {name}", "as before (p95 within twice)",
                f"{len(without) / seconds:.0f} a second, p95 {p95[0]:.0f} ms without;"
                f" {len(with_them) / seconds:.0f} a second, p95 {p95[1]:.0f} ms with them",
                p95[1] <= 2 * p95[0] + 10 and left == count)
        )  # fmt: skip
    return rows
