"""`lumiply fetch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from lumiply.commands.common import setting_options, shown
from lumiply.hub import LUMINET_FILES, Fetched, Hub, Place, RemoteFile, fetch_all
from lumiply.settings import Settings
from lumiply.wanted import wanted_files

_STATES = {"there": "is there", "missing": "would be fetched", "fetched": "fetched"}


@click.command()
@click.option(
    "--lumiply/--no-lumiply", "own", default=True, show_default=True,
    help="Lumiply's own weights: ckpt/ and adaptors/ of EthanYJ/Lumiply.",
)  # fmt: skip
@click.option(
    "--luminet", "luminet", multiple=True, type=click.Choice([*LUMINET_FILES, "all"]), metavar="FILE",
    help=f"A file of xyxingx/LumiNet as well, whose conditions you accept on its page; may be given several times."
    f" One of {', '.join(LUMINET_FILES)}, or all.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Say what would be fetched and how large it is, and fetch nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the files as JSON.")
@setting_options("ckpt_dir", "adaptors_dir")
def fetch(own: bool, luminet: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any) -> None:
    """Download the published weights from the Hugging Face hub.

    Each file's size and hash are checked. What is there already is not fetched again, and a file that was cut off
    goes on where it stopped. Log in with `hf auth login` or HF_TOKEN where the hub asks who you are.
    """
    settings = Settings.from_env(**options)
    hub = Hub()
    chosen = wanted_files(hub, luminet, own=own)
    if not as_json:
        click.echo(f"{len(chosen)} files, {sum(file.size for file in chosen) / 1e9:.2f} GB")
    folders: dict[Place, Path] = {"ckpt": settings.ckpt_dir, "adaptors": settings.adaptors_dir}

    def tell(one: Fetched) -> None:
        if not as_json:
            click.echo(line(one))

    done = fetch_all(hub, chosen, folders, dry_run=dry_run, on_file=tell)
    if as_json:
        click.echo(json.dumps([_entry(one) for one in done], indent=1))


def line(one: Fetched) -> str:
    """A file for a person: where it is, what became of it, and where it is from."""
    return f"{shown(one.path)}: {_STATES[one.state]} ({_size(one.file)}, from {one.file.repo})"


def _entry(one: Fetched) -> dict[str, Any]:
    return {
        "path": str(one.path),
        "state": one.state,
        "size": one.file.size,
        "digest": one.file.digest,
        "repo": one.file.repo,
        "revision": one.file.revision,
    }


def _size(file: RemoteFile) -> str:
    return f"{file.size / 1e9:.2f} GB" if file.size >= 1e8 else f"{file.size / 1e6:.2f} MB"
