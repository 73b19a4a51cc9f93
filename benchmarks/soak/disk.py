"""A disk that fills up."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.soak.stage import Row, is_ready, rooms, serving
from lumiply import client
from lumiply.sending import encode_form


def disk() -> list[Row]:
    """A disk of 3 MB that fills up under load, and is emptied."""
    pictures = rooms(60)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "inference"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], check=True)
        try:
            with serving("nano", Path(folder)) as (url, process):
                path = Path(folder) / "photo.png"
                answers: list[str] = []
                for number, photo in enumerate(pictures):
                    path.write_bytes(photo)
                    answers.append(ask(url, path, f"job-{number}"))
                healthy = is_ready(url) and process.poll() is None
                stored = [n for n, answer in enumerate(answers) if answer == "200"]
                intact = all(client.fetch(f"{url}/static/inference/job-{n}/output_red.jpg") for n in stored)
                for number in stored[: len(stored) // 2]:
                    client.Client(url).delete(f"job-{number}")
                recovered = ask(url, path, "afterwards")
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
    full = answers.count("507 storage_full")
    return [
        Row(f"a disk of 3 MB, {len(pictures)} jobs, nano model", "507 when full, all else goes on, recovers",
            f"{len(stored)} stored, then {full} times 507, {len(pictures) - len(stored) - full} else;"
            f" ready meanwhile: {healthy}; half deleted, the next: {recovered}",
            full > 0 and len(stored) + full == len(pictures) and healthy and intact and recovered == "200"),
    ]  # fmt: skip


def ask(url: str, photo: Path, job_id: str) -> str:
    """ "200", or status and code of the refusal."""
    kind, body = encode_form({"job_id": job_id, "color": "red"}, "image", "a.png", photo.read_bytes())
    request = urllib.request.Request(f"{url}/process", data=body, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return f"{exc.code} {json.loads(exc.read())['code']}"
