"""`lumiply evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lumiply.commands.common import set_up_logging, shown
from lumiply.errors import UserError
from lumiply.evaluation import (
    FolderReport,
    evaluate_folder,
    find_lpips,
    group,
    table,
    write_charts,
    write_tables,
)
from lumiply.evaluation.report import as_json
from lumiply.settings import Settings

#: Scenes that the terminal lists; the files list all.
SHOWN_SCENES = 20


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("evaluation"), show_default=True,
    metavar="DIR", help="Where scores.csv, means.csv, scores.json and the bar charts go.",
)  # fmt: skip
@click.option("--json", "as_text", is_flag=True, help="Print what scores.json holds in place of tables.")
@click.option(
    "--lpips/--no-lpips", default=True, show_default=True, help="Measure LPIPS where it can be had."
)
def evaluate(folder: Path, out: Path, as_text: bool, lpips: bool) -> None:
    """Score relit photos against the unlit photo and the truth.

    FOLDER holds a folder a scene: off.*, output_COLOR.* and, where the truth is known, on.* (white) or COLOR.*.
    A scene whose path has a part that begins with lamp, pendant or stand counts for that kind of lamp.

    Ends with 1 if anything could not be compared; the rest is then scored all the same.
    """
    set_up_logging(Settings.from_env().replace(log_level="warning"))
    distance = None
    if lpips:
        found = find_lpips()
        distance = found.distance
        if distance is None:
            click.echo(found.sentence, err=True)
    report = evaluate_folder(folder, lpips=distance)
    for problem in report.problems:
        click.echo(f"not compared: {problem}", err=True)
    if not report.scores:
        raise UserError(f"no output in {folder} could be compared; the lines above say why")
    if as_text:
        click.echo(json.dumps(as_json(report), indent=1, ensure_ascii=False))
    else:
        _print_tables(report)
    for path in write_tables(report, out) + _charts(report, out):
        click.echo(shown(path), err=as_text)
    if report.problems:
        raise click.exceptions.Exit(1)


def _charts(report: FolderReport, out: Path) -> list[Path]:
    try:
        return write_charts(report.scores, out)
    except ImportError as exc:
        click.echo(f"No bar charts: {exc.name} is not installed. `pip install matplotlib` adds it.", err=True)
        return []


def _print_tables(report: FolderReport) -> None:
    click.echo(table([*group(report.scores, "all"), *group(report.scores, "kind")]))
    click.echo("\n" + table(group(report.scores, "color")))
    scenes = group(report.scores, "scene")
    click.echo("\n" + table(scenes[:SHOWN_SCENES]))
    if len(scenes) > SHOWN_SCENES:
        click.echo(f"and {len(scenes) - SHOWN_SCENES} scenes more, in means.csv")
    click.echo()
