"""Pictures of scores: bar charts, and the outputs that scored worst."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from lumiply.colors import LAMP_RGB
from lumiply.evaluation import metrics
from lumiply.evaluation.folder import FolderReport, Score, read_display
from lumiply.evaluation.report import METRICS, By, Group, group, worst
from lumiply.files import write_whole
from lumiply.images import encode_png
from lumiply.sheet import contact_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS: Final[tuple[tuple[By, str], ...]] = (("kind", "by lamp"), ("color", "by colour"))
_PLAIN: Final = "0.6"  # grey, as matplotlib writes it


def bar_chart(scores: Sequence[Score], metric: str) -> Image.Image:
    """The means of one metric by lamp kind and by colour, as an RGB picture. Needs matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    figure.suptitle(METRICS[metric].label)
    for axes, (by, title) in zip(figure.subplots(1, 2, width_ratios=(4, 7)), _PANELS, strict=True):
        axes.set_title(title, fontsize="medium")
        _bars(axes, group(scores, by), metric)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer).convert("RGB")


def write_charts(scores: Sequence[Score], folder: Path) -> list[Path]:
    """Write `<metric>.png` for every metric that has a value into `folder`, which exists; their paths.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    written = []
    for metric in METRICS:
        if worst(scores, metric, 1):
            path = folder / f"{metric}.png"
            write_whole(path, encode_png(bar_chart(scores, metric)))
            written.append(path)
    return written


def worst_sheet(report: FolderReport, metric: str, *, count: int = 4, cell: int = 320) -> Image.Image | None:
    """The outputs that are worst by a metric, each beside what it was compared with.

    By SSIM that is the unlit photo, and a third picture shows where they agree (white) and differ (black);
    by any other metric it is the truth.

    Returns:
        None where no output has that figure.
    """
    scenes = {scene.name: scene for scene in report.scenes}
    pictures: dict[str, Image.Image] = {}
    for place, score in enumerate(worst(report.scores, metric, count), start=1):
        scene = scenes[score.scene]
        reference = scene.off if metric == "ssim" else scene.truths[score.color]
        assert reference is not None
        beside, output = read_display(reference), read_display(scene.outputs[score.color])
        value = format(getattr(score, metric), METRICS[metric].form)
        pictures[f"{place} {reference.stem}"] = _picture(beside)
        pictures[f"{place} output {score.color} {value}"] = _picture(output)
        if metric == "ssim":
            similarity = metrics.ssim_grey_map(beside, output)[1]
            pictures[f"{place} SSIM"] = _picture(similarity)
    columns = 3 if metric == "ssim" else 4
    return contact_sheet(pictures, cell=cell, columns=columns) if pictures else None


def _bars(axes: Axes, groups: Sequence[Group], metric: str) -> None:
    shown = [(each.name, value) for each in groups if (value := each.means[metric].value) is not None]
    bars = axes.bar(
        [name for name, _ in shown],
        [value for _, value in shown],
        color=[_paint(name) for name, _ in shown],
        edgecolor="black",
        linewidth=0.6,
    )
    axes.bar_label(bars, fmt="{:" + METRICS[metric].form + "}", fontsize="x-small", padding=2)
    axes.margins(y=0.15)
    axes.tick_params(axis="x", labelsize="small")


def _paint(name: str) -> tuple[float, ...] | str:
    """A lamp's colour as a screen shows it; grey for what is no colour."""
    if name not in LAMP_RGB:
        return _PLAIN
    return tuple(float(part) for part in metrics.to_display(np.array(LAMP_RGB[name])))


def _picture(display: metrics.Picture) -> Image.Image:
    """(H, W, 3), or (H, W) in grey, of [0, 1] -> RGB picture; what lies outside is clipped."""
    return Image.fromarray((np.clip(display, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
