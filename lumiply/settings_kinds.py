"""Kinds of settings: how a value is read, and what it may be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Kind:
    """How a value is read and what it may be.

    Attributes:
        read: turns a string, or a value that is already right, into the value; raises ValueError or TypeError.
        limit: what is allowed, completing "must be ...".
    """

    read: Callable[[Any], Any]
    limit: str


def integer(low: int, high: int) -> Kind:
    def read(value: Any) -> int:
        if isinstance(value, (bool, float)):
            raise TypeError(value)
        number = int(value)
        if not low <= number <= high:
            raise ValueError(number)
        return number

    return Kind(read, f"a whole number from {low} to {high}")


def number(low: float, high: float) -> Kind:
    def read(value: Any) -> float:
        number = float(value)
        if not low <= number <= high:  # refuses NaN as well
            raise ValueError(number)
        return number

    return Kind(read, f"a number from {low:g} to {high:g}")


def choice(*allowed: str) -> Kind:
    def read(value: Any) -> str:
        name = str(value).strip().lower()
        if name not in allowed:
            raise ValueError(name)
        return name

    return Kind(read, "one of " + ", ".join(allowed))


def pattern(pattern: str, limit: str) -> Kind:
    def read(value: Any) -> str:
        text = str(value).strip()
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Kind(read, limit)


def boolean() -> Kind:
    def read(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
            str(value).strip().lower()
        ]

    return Kind(read, "true or false")


def path() -> Kind:
    def read(value: Any) -> Path:
        if not str(value).strip() or "\0" in str(value) or "://" in str(value):
            raise ValueError(value)
        return Path(os.path.expanduser(value))  # as it is where no home is known

    return Kind(read, "the path of a folder")


def url() -> Kind:
    def read(value: Any) -> str:
        text = str(value).strip().rstrip("/")
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(text)
        return text

    return Kind(read, "an http or https URL without a query, such as https://example.ngrok-free.dev")


def storage_url() -> Kind:
    def read(value: Any) -> str:
        text = str(value).strip().rstrip("/")
        parts = urlsplit(text)
        if (
            not parts.scheme
            or "://" not in text
            or not parts.netloc + parts.path
            or parts.query
            or parts.fragment
        ):
            raise ValueError(text)
        if parts.password is not None or any(char <= " " for char in text):
            raise ValueError(text)
        return text

    return Kind(read, "a URL of a bucket or folder without a password, such as s3://bucket/prefix")


def hosts() -> Kind:
    def read(value: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else list(value)
        hosts = tuple(part.strip().lower() for part in parts if part.strip())
        for host in hosts:
            if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?", host):
                raise ValueError(host)
        return hosts

    return Kind(read, "host names divided by commas, each with an optional :port")


def origins() -> Kind:
    def read(value: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else list(value)
        origins = tuple(part.strip().rstrip("/").lower() for part in parts if part.strip())
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", origin):
                raise ValueError(origin)
        return origins

    return Kind(read, "origins such as https://example.com divided by commas, or *, or empty for none")


def replicas() -> Kind:
    def read(value: Any) -> str:
        found = re.fullmatch(r"([1-9][0-9]{0,3})(?:\.\.([1-9][0-9]{0,3}))?", str(value).strip())
        if found is None or int(found[1]) > int(found[2] or found[1]):
            raise ValueError(value)
        return found[0]

    return Kind(read, "a number such as 4, or least..most such as 1..8")


def optional(kind: Kind) -> Kind:
    def read(value: Any) -> Any:
        return None if value is None or value == "" else kind.read(value)

    return Kind(read, f"{kind.limit}, or empty")
