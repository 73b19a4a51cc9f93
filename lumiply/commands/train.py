"""`lumiply train`, a group of trainings."""

from __future__ import annotations

from typing import Final

import click

from lumiply.cli import LazyGroup

TRAININGS: Final = {
    "crossattn": (
        "lumiply.training.finetune_command",
        "crossattn",
        "Fine-tune the attention of a model on your own photos.",
    ),
    "adaptors": (
        "lumiply.training.finetune_command",
        "adaptors",
        "Train the colours' adaptors of a model on your own photos.",
    ),
    "mini": ("lumiply.training.command", "main", "Train the embedded mini model from nothing."),
}


@click.group(cls=LazyGroup, table=TRAININGS)
def train() -> None:
    """Train a model (needs the training extra)."""
