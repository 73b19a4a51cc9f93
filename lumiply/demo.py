"""`lumiply demo`: the whole way a photo goes, over real HTTP, to a contact sheet one can look at."""

from __future__ import annotations

import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from PIL import Image
from tqdm import tqdm

from lumiply import api, client
from lumiply.colors import COLORS
from lumiply.commands.common import set_up_logging, setting_options, shown, stop_signals
from lumiply.commands.serve import describe_engine, wait, wait_for_engine
from lumiply.errors import UserError
from lumiply.files import write_whole
from lumiply.images import encode_jpeg
from lumiply.server.folder import FolderStorage
from lumiply.server.names import SHEET_NAME
from lumiply.server.service import Service
from lumiply.server.slot import EngineSlot
from lumiply.settings import Settings
from lumiply.sheet import contact_sheet

JOB_ID: Final = "demo"
SAMPLES: Final = "sample_*.png"


@click.command()
@click.option(
    "--photo", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help=f"Photo to send.  [default: the first of images/{SAMPLES}]",
)  # fmt: skip
@click.option("--once", is_flag=True, help="End after the sheet.")
@setting_options("port", "host", "results_dir", "device", "model", "steps", "seed", "log_level")
def demo(photo: Path | None, once: bool, **options: Any) -> None:
    """Serve, send a sample room in all seven colours, go on serving until Ctrl-C."""
    settings = Settings.from_env(**options).replace(public_url=None, results_url=None, tunnel="none")
    set_up_logging(settings.replace(log_level="warning") if settings.log_level == "info" else settings)
    photo = photo or find_sample()
    FolderStorage(settings.results_dir).remove(
        JOB_ID
    )  # render anew: the weights may not be those of the last time
    slot = EngineSlot()
    with stop_signals() as stop:
        try:
            with Service(settings, slot) as service:
                slot.load(lambda: api.build_engine(settings))
                wait_for_engine(slot, stop)
                if not stop.is_set():
                    describe_engine(slot)
                    started = time.perf_counter()
                    paths = relight_over_http(service.url, photo, settings.results_dir, stop, service.token)
                    _tell(service, photo, paths, time.perf_counter() - started)
                if not once and not stop.is_set():
                    click.echo("Serving on. Ctrl-C ends.")
                    wait(stop, slot)
        finally:
            slot.close(timeout=10)


def find_sample(folder: Path | None = None) -> Path:
    """The first sample room in `folder`: `images/` here, else beside the package.

    Raises:
        UserError: there is none.
    """
    folders = [folder] if folder else [Path("images"), Path(__file__).parent.parent / "images"]
    for place in folders:
        for path in sorted(place.glob(SAMPLES)):
            return path
    raise UserError(f"There is no {SAMPLES} in {shown(folders[0])}. Name a photo with --photo.")


def relight_over_http(
    url: str, photo: Path, results_dir: Path, stop: threading.Event | None = None, token: str | None = None
) -> list[Path]:
    """Ask a server for all seven colours as the gateway does, and make the contact sheet.

    Args:
        url: address of a server that stores its results in `results_dir`.
        photo: what to send.
        stop: once set, no further colour is asked for.
        token: what the server asks for, if it asks for one.

    Returns:
        Paths of the photo, of the results so far, and of the sheet.

    Raises:
        RemoteError: the server answered with an error.
    """
    folder = FolderStorage(results_dir).folder(JOB_ID)
    urls: dict[str, str] = {}
    for color in tqdm(COLORS, desc=photo.name, unit="colour"):
        if stop is not None and stop.is_set():
            break
        result = client.process(url, photo, JOB_ID, color, token=token)["result"]
        urls.setdefault("off", result["input_image_url"])
        urls[color] = result["images"][color]
    if not urls:
        return []
    pictures = {name: Image.open(BytesIO(client.fetch(address))) for name, address in urls.items()}
    write_whole(folder / SHEET_NAME, encode_jpeg(contact_sheet(pictures), 92))
    names = [urlsplit(address).path.rpartition("/")[2] for address in urls.values()]
    return [folder / name for name in names] + [folder / SHEET_NAME]


def _tell(service: Service, photo: Path, paths: list[Path], seconds: float) -> None:
    for path in paths:
        click.echo(shown(path))
    click.echo(f"Time: {seconds:.1f} s, from the first request to the sheet")
    click.echo(f"URL: {service.url}")
    click.echo(f"curl -F image=@{shown(photo)} -F job_id=mine -F color=red {service.webhook_url}")
