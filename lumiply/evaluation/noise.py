"""How near rendered truth comes to itself, rendered with more light paths: no model can be seen to come nearer.

    lumiply synth --split test --out runs/fine --count 6 --samples 256
    python -m lumiply.evaluation.noise --rooms runs/test --fine runs/fine --count 6

Judges the pictures of ROOMS as if a model had made them, against those of the same rooms in the other folder
(`docs/training.md`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from lumiply.errors import LumiplyError, UserError
from lumiply.evaluation.rooms import RoomScore, by_color, first_rooms, report, score_room, shown_rooms, table
from lumiply.files import write_whole


def score_noise(rooms: Sequence[Path], fine: Sequence[Path]) -> list[RoomScore]:
    """Scores of the pictures of `rooms` against those of the same rooms in `fine`, room by room.

    Raises:
        UserError: the two name different rooms.
        ValueError: a file is no rendered room.
    """
    scores = []
    for coarse, truth in zip(shown_rooms(rooms), shown_rooms(fine), strict=True):
        if coarse.name != truth.name:
            raise UserError(
                f"{coarse.name} of --rooms stands against {truth.name} of --fine; render the same rooms"
            )
        scores += score_room(
            truth.name, truth.pictures, coarse.pictures.lit, ambient=truth.ambient, pasted=truth.pasted
        )
    return scores


@click.command(context_settings={"show_default": True})
@click.option("--rooms", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--fine",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The same rooms with more light paths a pixel.",
)
@click.option("--count", type=click.IntRange(1), default=6, help="Rooms to use.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures there.")
def main(rooms: Path, fine: Path, count: int, json_path: Path | None) -> None:
    """Print how near rendered ROOMS come to themselves with more light paths, colour by colour."""
    try:
        scores = score_noise(first_rooms(rooms, count), first_rooms(fine, count))
    except (LumiplyError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(by_color(scores)))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        settings = {"rooms": str(rooms), "fine": str(fine), "count": count}
        write_whole(json_path, json.dumps(report(scores, settings), indent=1, allow_nan=False).encode())


if __name__ == "__main__":
    main()
