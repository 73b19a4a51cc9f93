"""What commands share: options that are settings, logging, stopping on a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from lumiply.settings import PREFIX, Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def setting_options(*names: str, flags: Mapping[str, str] | None = None) -> Callable[[Command], Command]:
    """Options `--name` for these settings, or as `flags` says. Absent ones are None, for `Settings.from_env`."""
    fields = {field.name: field for field in dataclasses.fields(Settings)}

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = fields[name]
            default = "" if field.default is None else f"; default: {field.default}"
            help = f"{field.metadata['help']}  [{PREFIX}{name.upper()}{default}]"
            flag = (flags or {}).get(name, f"--{name.replace('_', '-')}")
            metavar = _metavar(str(field.type), field.metadata["kind"].limit)
            command = click.option(flag, name, metavar=metavar, help=help)(command)
        return command

    return decorate


def _metavar(type_name: str, limit: str) -> str:
    if limit.startswith("one of "):
        return f"[{'|'.join(limit.removeprefix('one of ').removesuffix(', or empty').split(', '))}]"
    if type_name == "Path":
        return "DIR"
    return "TEXT" if type_name.startswith("str") else "NUMBER"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, with the fields that it carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logging(settings: Settings) -> None:
    """Log to stderr, one line a message, as text or as JSON."""
    handler = logging.StreamHandler()
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # It tells every step of the agent's start.
    logging.getLogger("pyngrok").setLevel(logging.DEBUG if settings.log_level == "debug" else logging.WARNING)


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets. The second one ends the program at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def shown(path: Path) -> str:
    """A path as a person at this folder writes it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
