"""The losses of a run, step by step and epoch by epoch: as a table, as a graph, and in its checkpoints."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lumiply.files import write_whole


@dataclass
class History:
    """What a run has logged so far.

    Attributes:
        train: (epoch, optimiser step, loss) of every step; steps count from 1, epochs from 1.
        validation: (epoch, optimiser step, loss) after every epoch; epoch 0 is the model as it was before.
    """

    train: list[tuple[int, int, float]] = field(default_factory=list)
    validation: list[tuple[int, int, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return {
            "train": [list(row) for row in self.train],
            "validation": [list(row) for row in self.validation],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.train = [(epoch, step, loss) for epoch, step, loss in state["train"]]
        self.validation = [(epoch, step, loss) for epoch, step, loss in state["validation"]]

    def mean_train_loss(self, epoch: int) -> float:
        """The mean over the steps of one epoch, which must have some."""
        return statistics.fmean(loss for at, _, loss in self.train if at == epoch)

    def write_table(self, path: Path) -> None:
        """Write every row as CSV: epoch, step, train_loss or val_loss.

        Raises:
            OSError: the disk is full or the folder cannot be written; the old file is then still there.
        """
        text = StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["epoch", "step", "train_loss", "val_loss"])
        rows: list[tuple[int, int, float | str, float | str]] = [(*row, "") for row in self.train]
        rows += [(epoch, step, "", loss) for epoch, step, loss in self.validation]
        rows.sort(key=lambda row: row[:2])  # stable: an epoch's validation comes last
        table.writerows(rows)
        write_whole(path, text.getvalue().encode())

    def write_graph(self, path: Path) -> None:
        """Draw losses against steps as a PNG.

        Raises:
            OSError: as `write_table`.
        """
        figure = Figure(figsize=(8.0, 4.0), layout="constrained")
        axes = figure.subplots()
        steps, losses = [row[1] for row in self.train], [row[2] for row in self.train]
        axes.plot(steps, losses, color="0.8", linewidth=0.8, label="training, a step")
        ends = {epoch: step for epoch, step, _ in self.train}
        means = [(step, self.mean_train_loss(epoch)) for epoch, step in ends.items()]
        validation = [(step, loss) for _, step, loss in self.validation]
        for points, mark, label in (
            (means, "o-", "training, mean of an epoch"),
            (validation, "s-", "validation"),
        ):
            axes.plot([p[0] for p in points], [p[1] for p in points], mark, markersize=3, label=label)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("mean squared error of v")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        write_whole(path, buffer.getvalue())
