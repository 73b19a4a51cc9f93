"""What a folder scored, for people and for programs: means, a table, CSV and JSON files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from lumiply.colors import COLORS
from lumiply.evaluation.folder import KINDS, OTHER_KIND, FolderReport, Score
from lumiply.files import write_whole

By = Literal["all", "kind", "color", "scene"]
_EVERY_BY: Final[tuple[By, ...]] = ("all", "kind", "color", "scene")


@dataclass(frozen=True)
class Metric:
    """A figure of `Score`.

    Attributes:
        label: what it compares, and its unit.
        form: how a value is written.
        higher_is_better: which end of a sorted list is the bad one.
    """

    name: str
    label: str
    form: str
    higher_is_better: bool


METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric("ssim", "SSIM off-output", ".3f", True),
        Metric("psnr", "PSNR on-output, dB", ".2f", True),
        Metric("rmse", "RMSE on-output", ".4f", False),
        Metric("lpips", "LPIPS on-output", ".3f", False),
        Metric("hue_error", "hue error, deg", ".1f", False),
    )
}


@dataclass(frozen=True)
class Mean:
    """Mean of `count` values; None of none."""

    value: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """The means of some outputs.

    Attributes:
        by, name: what they have in common, such as "color" and "red".
        means: by name of the metric, over the outputs that have that figure.
    """

    by: By
    name: str
    outputs: int
    means: dict[str, Mean]


def group(scores: Sequence[Score], by: By) -> list[Group]:
    """Means over all scores, or over those of each lamp kind, colour or scene that has any."""
    if by == "all":
        return [_group("all", "all", scores)] if scores else []
    names: Iterable[str] = {"kind": (*KINDS, OTHER_KIND), "color": COLORS}.get(
        by, dict.fromkeys(score.scene for score in scores)
    )
    chosen = [(name, [score for score in scores if getattr(score, by) == name]) for name in names]
    return [_group(by, name, members) for name, members in chosen if members]


def worst(scores: Sequence[Score], metric: str, count: int) -> list[Score]:
    """The `count` scores that are worst by a metric, worst first; those without that figure are left out."""
    having = [score for score in scores if getattr(score, metric) is not None]
    return sorted(
        having, key=lambda score: getattr(score, metric), reverse=not METRICS[metric].higher_is_better
    )[:count]


def table(groups: Sequence[Group]) -> str:
    """Groups as a Markdown table. A number in brackets counts the outputs that have a figure, where not all do."""
    heads = ["", "outputs", *(metric.label for metric in METRICS.values())]
    rows = [_row(heads), "|---" * len(heads) + "|"]
    for each in groups:
        cells = [_cell(metric, each) for metric in METRICS.values()]
        rows.append(_row([each.name.replace("|", "\\|"), str(each.outputs), *cells]))
    return "\n".join(rows)


def scores_csv(scores: Sequence[Score]) -> str:
    """One row an output, empty where there is no figure."""
    names = [field.name for field in fields(Score)]
    return _csv(names, ([_blank(getattr(score, name)) for name in names] for score in scores))


def means_csv(scores: Sequence[Score]) -> str:
    """One row a group: all, every lamp kind, every colour, every scene."""
    heads = ["by", "name", "outputs", *METRICS]
    groups = [each for by in _EVERY_BY for each in group(scores, by)]
    rows = ([g.by, g.name, g.outputs, *(_blank(g.means[name].value) for name in METRICS)] for g in groups)
    return _csv(heads, rows)


def as_json(report: FolderReport) -> dict[str, Any]:
    """Everything: means, every output's scores, and what could not be compared."""
    return {
        "means": {by: [asdict(each) for each in group(report.scores, by)] for by in _EVERY_BY},
        "scores": [asdict(score) for score in report.scores],
        "problems": [asdict(problem) for problem in report.problems],
    }


def write_tables(report: FolderReport, folder: Path) -> list[Path]:
    """Write scores.csv, means.csv and scores.json into `folder`, which is made if need be; their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "scores.csv": scores_csv(report.scores),
        "means.csv": means_csv(report.scores),
        "scores.json": json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        encoding = "utf-8-sig" if name.endswith(".csv") else "utf-8"  # a spreadsheet knows Korean by the mark
        write_whole(folder / name, text.encode(encoding))
    return [folder / name for name in texts]


def _group(by: By, name: str, scores: Sequence[Score]) -> Group:
    means = {}
    for metric in METRICS:
        values = [value for score in scores if (value := getattr(score, metric)) is not None]
        means[metric] = Mean(float(np.mean(values)) if values else None, len(values))
    return Group(by, name, len(scores), means)


def _cell(metric: Metric, of: Group) -> str:
    mean = of.means[metric.name]
    if mean.value is None:
        return "-"
    some = "" if mean.count == of.outputs else f" ({mean.count})"
    return format(mean.value, metric.form) + some


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _csv(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()


def _blank(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
