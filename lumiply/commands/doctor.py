"""`lumiply doctor`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

import click

from lumiply.commands.common import setting_options
from lumiply.doctor import Finding, examine
from lumiply.errors import SettingsError
from lumiply.settings import Settings

_COLORS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@setting_options("host", "port", "device", "model", "ckpt_dir", "adaptors_dir", "results_dir", "results_url")
def doctor(as_json: bool, **options: Any) -> None:
    """Check this machine; say what is missing and how to get it.

    Ends with 1 if anything is a problem. Tokens are looked for and never shown.
    """
    found: list[Finding] = []
    try:
        settings = Settings.from_env(**options)
    except SettingsError as exc:
        found.append(Finding("settings", "problem", "cannot be used", str(exc)))
        settings = Settings()
        if not as_json:
            click.echo(line(found[0]))
    for finding in examine(settings):
        found.append(finding)
        if not as_json:
            click.echo(line(finding))
    if as_json:
        click.echo(
            json.dumps([dataclasses.asdict(finding) for finding in found], indent=1, ensure_ascii=False)
        )
    else:
        click.echo("\n" + summary(found))
    if any(finding.state == "problem" for finding in found):
        raise click.exceptions.Exit(1)


def line(finding: Finding, *, color: bool = True) -> str:
    """A finding for a terminal: its state, name and text, the remedy under them."""
    state = finding.state.ljust(8)
    shown = click.style(state, fg=_COLORS[finding.state], bold=finding.state != "ok") if color else state
    first = f"{shown} {finding.name.ljust(13)} {finding.text}"
    return f"{first}\n{'':23}{finding.remedy}" if finding.remedy else first


def summary(found: Sequence[Finding], then: str = "`lumiply serve`") -> str:
    """One sentence on all of it; `then` is what comes next."""
    problems = sum(finding.state == "problem" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    if problems:
        return f"{problems} problem{'s' * (problems != 1)} to solve before {then}."
    return f"Ready{f', with {warnings} warning' + 's' * (warnings != 1) if warnings else ''}. Next: {then}."
