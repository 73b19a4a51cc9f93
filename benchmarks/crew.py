"""Processes of `benchmarks.variants` that compile side by side while something else is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Member:
    """One form of `benchmarks.variants.FORMS` at one size, and its process once it has one."""

    form: str
    size: int
    out: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{self.form}, {self.size}"

    @property
    def over(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def found(self) -> dict[str, Any]:
        """What it has written so far."""
        try:
            found: dict[str, Any] = json.loads(self.out.read_text())
        except (OSError, ValueError):
            found = {}
        if self.over and not found.get("ended") and "failed" not in found:
            assert self.process is not None
            found["failed"] = f"ended with status {self.process.returncode}: {self.log_tail()}"
        return found

    def end(self) -> None:
        """With all that it has started: it makes itself a group of processes at once."""
        if self.process is not None and not self.over:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it had no time for that
                self.process.kill()
            self.process.wait()

    def log_tail(self) -> str:
        return self.out.with_suffix(".log").read_text(errors="replace")[-600:]


@dataclass
class Crew:
    """At most `slots` of them at a time, in the order in which they were asked for.

    Attributes:
        arguments: of every process, besides form, size and file.
        environment: of every process, besides this one's.
        members: the forms, those that are needed first.
    """

    folder: Path
    arguments: Sequence[str]
    slots: int
    environment: dict[str, str] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def ask(self, form: str, size: int) -> Member:
        member = Member(form, size, self.folder / f"{form.replace(', ', '-').replace(' ', '-')}-{size}.json")
        self.members.append(member)
        self.fill()
        return member

    def fill(self) -> None:
        """Start whoever has room."""
        running = sum(member.process is not None and not member.over for member in self.members)
        waiting = [member for member in self.members if member.process is None]
        for member in waiting[: max(0, self.slots - running)]:
            command = [sys.executable, "-m", "benchmarks.variants", member.form, "--size", str(member.size),
                       "--out", str(member.out), *self.arguments]  # fmt: skip
            with member.out.with_suffix(".log").open("wb") as log:
                member.process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self.environment},
                )

    def wait(self, members: Sequence[Member], left: Callable[[], float]) -> None:
        """Until all of `members` are over, or `left` gives no more seconds."""
        while self.slots and left() > 0 and not all(member.over for member in members):
            self.fill()
            time.sleep(0.5)

    def found(self) -> dict[str, dict[str, Any]]:
        return {member.name: member.found() for member in self.members if member.process is not None}

    def stop(self) -> None:
        """End what still runs, and forget what waits."""
        self.members = [member for member in self.members if member.process is not None]
        for member in self.members:
            member.end()
