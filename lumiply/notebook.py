"""What the notebooks call, so that their cells stay short and may be run again in any order."""

from __future__ import annotations

import getpass
import importlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from PIL import Image
from tqdm import tqdm

from lumiply import api, client
from lumiply.colors import COLORS, in_palette_order
from lumiply.commands import fetch as fetch_command
from lumiply.commands.doctor import line, summary
from lumiply.commands.relight import folders_for
from lumiply.demo import find_sample
from lumiply.doctor import examine
from lumiply.engine.protocol import Engine
from lumiply.errors import (
    AddressError,
    FetchError,
    ImageError,
    ImageTooLargeError,
    RemoteError,
    UserError,
)
from lumiply.files import write_whole
from lumiply.hub import Hub, fetch_all
from lumiply.images import encode_png, read_photo
from lumiply.refusals import in_english
from lumiply.server.service import Service
from lumiply.server.slot import EngineSlot
from lumiply.server.tunnel import choose_tunnel
from lumiply.settings import PREFIX, Settings
from lumiply.sheet import contact_sheet
from lumiply.wanted import wanted_files

log = logging.getLogger(__name__)

#: Photos that a folder is searched for.
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")

_lock = threading.Lock()
_services: list[Service] = []  # at most one: what the last `serve` started


def read_settings(**cell: Any) -> Settings:
    """The settings: those of the environment, then the cell's, then the defaults.

    Tokens come from the environment, else from Colab's secrets; ngrok's, where the tunnel is wanted, else from a
    prompt that shows nothing.

    Raises:
        SettingsError: a name or value that cannot be meant.
    """
    named = {name: value for name, value in cell.items() if PREFIX + name.upper() not in os.environ}
    if not any(os.environ.get(name) for name in (PREFIX + "NGROK_AUTHTOKEN", "NGROK_AUTHTOKEN")):
        token = _colab_secret("NGROK_AUTHTOKEN")
        if token is None and named.get("tunnel", os.environ.get(PREFIX + "TUNNEL")) == "ngrok":
            token = _prompt("ngrok authtoken (https://dashboard.ngrok.com/get-started/your-authtoken): ")
        named.setdefault("ngrok_authtoken", token)
    if not os.environ.get(PREFIX + "TOKEN"):
        named.setdefault("token", _colab_secret(PREFIX + "TOKEN"))
    return Settings.from_env(**named)


def doctor(settings: Settings) -> None:
    """Print what `lumiply doctor` finds."""
    found = []
    for finding in examine(settings):
        found.append(finding)
        print(line(finding, color=False))
    print("\n" + summary(found, "the cells below"))


def fetch_weights(settings: Settings, fetch: str = "auto", luminet: str | Sequence[str] = ()) -> None:
    """Download the published weights, if that is wanted; what is there already is not fetched again.

    Args:
        settings: where they go.
        fetch: "yes", "no", or "auto": where there is a GPU for them and the mini model is not asked for.
        luminet: files of LumiNet's repository to fetch as well.

    Raises:
        FetchError: they cannot be had, and the settings want the full model or `fetch` is "yes". With "auto", the
            reason is printed, and the mini model will run.
        UserError: `fetch` is none of the three, or `luminet` names a file that LumiNet does not have.
    """
    if fetch not in ("yes", "no", "auto"):
        raise UserError(f"FETCH must be one of yes, no, auto, not {fetch!r}.")
    if fetch == "no" or (fetch == "auto" and (settings.model == "mini" or not _has_gpu())):
        print("가중치를 내려받지 않습니다 · no weights are fetched (FETCH, MODEL, GPU)")
        return
    try:
        hub = Hub(token=os.environ.get("HF_TOKEN") or _colab_secret("HF_TOKEN"))
        fetch_all(
            hub,
            wanted_files(hub, luminet),
            {"ckpt": settings.ckpt_dir, "adaptors": settings.adaptors_dir},
            on_file=lambda one: print(fetch_command.line(one)),
        )
    except FetchError as exc:
        if fetch == "yes" or settings.model == "full":
            raise
        print(f"⚠️ {exc}\n내장된 작은 모델로 계속합니다 · going on with the embedded mini model")


def serve(engine: Engine, settings: Settings) -> Service:
    """Start serving in the background; what an earlier call started is closed first.

    Args:
        engine: the current engine (`lumiply.initialize_engine`). In place of one that has ended, as a server replaced
            it, the one that is current now serves.
        settings: where to listen, and all else.

    Raises:
        AddressError: another program uses the port.
        TunnelError: no public address could be opened.
    """
    stop()
    if api.has_ended(engine):
        engine = api.initialize_engine(settings)
    slot = EngineSlot(engine, build=lambda: api.replace_engine(settings))
    service = Service(settings, slot, choose_tunnel(settings))
    service.on_move = lambda moved: print(moved.announcement())
    try:
        service.start()
    except AddressError as exc:
        raise AddressError(
            f"{exc} 다른 프로그램이 {settings.port} 포트를 쓰고 있습니다. 설정 셀의 PORT를 바꾸거나 0으로 두고 다시"
            " 실행하세요 · change PORT in the settings cell, or set it to 0, and run again."
        ) from exc
    with _lock:
        _services.append(service)
    return service


def stop() -> None:
    """Close what `serve` started. Safe to call twice."""
    with _lock:
        services, _services[:] = list(_services), []
    for service in services:
        service.close()


def shut_down() -> None:
    """Close the server and the engine; the cells above may then be run again. Safe to call twice."""
    stop()
    api.close_engine()


def try_out(service: Service, photo: str | Path | None = None, *, cell: int = 320) -> Image.Image:
    """Send a photo (by default a sample room) in all seven colours over HTTP; the results as a contact sheet.

    Raises:
        ImageError, ImageTooLargeError: `photo` cannot be used.
        RemoteError: the server answered with an error.
    """
    path = Path(photo) if photo else find_sample()
    job_id = f"notebook-{secrets.token_hex(4)}"
    pictures = {"off": read_photo(path, service.settings.max_megapixels)}
    for color in COLORS:
        answer = client.process(service.url, path, job_id, color, token=service.token)
        url = answer["result"]["images"][color]
        local = url.replace(service.public_url, service.url, 1)  # no need to go out and come back
        pictures[color] = Image.open(BytesIO(client.fetch(local)))
    return contact_sheet(pictures, cell=cell)


def watch(service: Service, seconds: float = 0, every: float = 2.0) -> None:
    """Show the state of the server in place, again and again for `seconds`, or until the cell is interrupted.

    Args:
        service: what `serve` gave.
        seconds: how long; 0 shows it once.
        every: seconds between two looks.
    """
    show = _display()
    show(status(service))
    waiting = threading.Event()
    try:
        for _ in range(int(seconds / every)):
            waiting.wait(every)
            show(status(service))
    except KeyboardInterrupt:
        pass


def status(service: Service) -> str:
    """The server's state in a few lines, as it tells it itself: address, queue, last renders, memory."""
    if service not in _services:
        return (
            "서버가 꺼져 있습니다. 엔진 셀부터 다시 실행하세요"
            " · The server has stopped: run again from the engine's cell"
        )
    lines = [f"{'address':9} {service.public_url}"]
    try:
        found = client.Client(service.url).health()
    except RemoteError as exc:  # it may answer the next time
        found = {"engine": str(exc)}
    if queue := found.get("queue"):
        lines.append(f"{'engine':9} {found['model']} · {found['device']} · {found['precision']}")
        lines.append(f"{'queue':9} {queue['length']} of {queue['limit']}")
    else:
        lines.append(f"{'engine':9} {found['engine']}")
    lines += [f"{'memory':9} {memory()}", f"{'renders':9} {_renders(service.settings)}"]
    return "\n".join(lines)


def memory() -> str:
    """What this process and its GPU hold, in words."""
    import torch

    parts = []
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        parts.append(f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB")
    except (OSError, ValueError):
        pass  # no Linux
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        parts.append(f"GPU {index}: {(total - free) / 1e9:.1f} of {total / 1e9:.1f} GB")
    return ", ".join(parts) or "not known"


def relight(
    engine: Engine,
    settings: Settings,
    photos: str | Path,
    out: str | Path,
    colors: Sequence[str] = (),
) -> dict[Path, dict[str, Path]]:
    """Relight a photo, or every photo of a folder, without a server. One that cannot be used is named and left out.

    Args:
        engine: what renders.
        settings: seed and steps.
        photos: a photo, or a folder of them.
        out: folder of the results, `output_COLOR.png`; with several photos, each in a folder of its name.
        colors: some of the seven, or one; all if empty.

    Returns:
        Path of each result by colour, by photo.

    Raises:
        UserError: no photo is there, none can be used, or a colour is unknown.
    """
    found = find_photos(Path(photos))
    chosen = in_palette_order([colors] if isinstance(colors, str) and colors else colors or COLORS)
    done: dict[Path, dict[str, Path]] = {}
    for photo, folder in zip(tqdm(found, unit="photo"), folders_for(found, Path(out)), strict=True):
        try:
            picture = read_photo(photo, settings.max_megapixels)
        except (ImageError, ImageTooLargeError) as exc:
            print(f"⚠️ {photo}: {exc} · {in_english(exc.code, exc.figures)}")
            continue
        future = engine.submit(picture, chosen, seed=settings.seed, steps=settings.steps)
        try:
            pictures = future.result()
        except BaseException:  # such as the stop button
            future.cancel()
            raise
        folder.mkdir(parents=True, exist_ok=True)
        done[photo] = {color: folder / f"output_{color}.png" for color in pictures}
        for color, path in done[photo].items():
            write_whole(path, encode_png(pictures[color]))
    if not done:
        raise UserError(f"No photo at {photos} can be used; the lines above say why. Set PHOTOS to others.")
    return done


def find_photos(place: Path) -> list[Path]:
    """The photo at `place`, or the photos of that folder in the order of their names.

    Raises:
        UserError: there is none.
    """
    if place.is_file():
        return [place]
    found = sorted(path for path in place.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(
            f"There is no photo at {place} ({', '.join(SUFFIXES)}). Set PHOTOS to a photo or a folder."
        )
    return found


def grid(results: Mapping[Path, Mapping[str, Path]], *, cell: int = 320) -> list[Image.Image]:
    """A contact sheet for each photo of `relight`."""
    sheets = []
    for photo, paths in results.items():
        pictures = {"off": read_photo(photo)}
        for color, path in paths.items():
            with Image.open(path) as opened:
                pictures[color] = opened.convert("RGB")
        sheets.append(contact_sheet(pictures, cell=cell))
    return sheets


def _renders(settings: Settings) -> str:
    return (
        f"stored at {settings.results_url}" if settings.results_url else _last_renders(settings.results_dir)
    )


def _last_renders(folder: Path, count: int = 3) -> str:
    jobs = [path for path in folder.glob("*") if path.is_dir() and list(path.glob("output_*"))]
    newest = sorted(jobs, key=lambda path: path.stat().st_mtime, reverse=True)
    names = ", ".join(f"{path.name} ({len(list(path.glob('output_*')))})" for path in newest[:count])
    return f"{len(jobs)} stored" + (f"; last: {names}" if names else "")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _display() -> Callable[[str], None]:
    """Shows text in one place of the notebook; prints where there is none."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return print
    if get_ipython() is None:
        return print
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def _prompt(question: str) -> str | None:
    try:
        return getpass.getpass(question).strip() or None
    except Exception as exc:  # a notebook that runs without anybody
        log.info("no prompt: %s", type(exc).__name__)
        return None


def _colab_secret(name: str) -> str | None:
    """A secret of Colab's key sign, if this is Colab and the notebook may read it."""
    try:
        userdata = importlib.import_module("google.colab.userdata")
        secret: str | None = userdata.get(name)
    except ImportError:
        return None
    except Exception as exc:  # its own errors: no such secret, no access
        log.info("Colab secret %s not used: %s", name, type(exc).__name__)
        return None
    return secret
