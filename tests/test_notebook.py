"""`lumiply_inference.ipynb` and `Lumiply.ipynb`: how they are written, and that they run, on Colab too."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from lumiply import api, client, notebook
from lumiply.colors import COLORS
from lumiply.errors import AddressError, FetchError, RemoteError, SettingsError, UserError
from lumiply.settings import Settings
from tests.fakes import PATIENCE_S, FakeEngine, photo_bytes, wait_until
from tests.server.test_ngrok import Agent, lives

ROOT = Path(__file__).parent.parent
SERVER, FOLDER = ROOT / "lumiply_inference.ipynb", ROOT / "Lumiply.ipynb"

#: Run by the kernel before the first cell: the notebook then finds an engine that paints at once.
FAKE_ENGINE = """
from lumiply import api
from tests.fakes import FakeEngine
def build(settings):
    print("engine loaded")
    return FakeEngine()
api.build_engine = build
"""

#: Run by the kernel before the first cell: Colab, as far as the notebooks can see it.
FAKE_COLAB = """
import sys, types
google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
userdata, drive, files = (types.ModuleType(f"google.colab.{name}") for name in ("userdata", "drive", "files"))
class SecretNotFoundError(Exception): pass
def get(name):
    if name == "NGROK_AUTHTOKEN": return "colab_sesame"
    raise SecretNotFoundError(name)
userdata.get = get
drive.mount = lambda place: print("mounted", place)
def upload():
    import os, shutil
    chosen = os.environ.get("UPLOAD")
    print("upload button")
    return {shutil.copy(chosen, "."): b""} if chosen else {}
files.upload = upload
google.colab, colab.userdata, colab.drive, colab.files = colab, userdata, drive, files
for module in (google, colab, userdata, drive, files): sys.modules[module.__name__] = module
get_ipython().register_magic_function(lambda words: print("pip", words), magic_name="pip")
"""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LUMIPLY_", "HF_")) or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)


@pytest.fixture
def startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's start-up folder; the kernel also inherits settings for a test."""
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LUMIPLY_RESULTS_DIR", str(tmp_path / "inference"))
    return folder


def run(
    path: Path,
    folder: Path,
    times: int = 1,
    cells: int | None = None,
    then: Sequence[int | str] = (),
    **changed: Any,
) -> str:
    """Run all cells, or the first `cells`, in `folder`, `times` over, with settings `changed`.

    After that, the cells `then`: of the notebook by number, or others by their text. Where the notebook says
    /content, it gets `folder`. Returns what the cells printed or showed.
    """
    written = nbformat.read(path, as_version=4)
    code = [cell for cell in written.cells if cell.cell_type == "code"][:cells]
    for cell in code:
        cell.source = cell.source.replace('"/content', f'"{folder}')
    for name, value in changed.items():
        owner = next(cell for cell in code if re.search(rf"^{name} = ", cell.source, re.M))
        owner.source = re.sub(rf"^{name} = .*$", f"{name} = {value!r}", owner.source, flags=re.M)
    written.cells = [cell.copy() for _ in range(times) for cell in code]
    for one in then:
        written.cells.append(nbformat.v4.new_code_cell(one) if isinstance(one, str) else code[one].copy())
    NotebookClient(
        written, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    outputs = [output for cell in written.cells for output in cell.outputs]
    shown = [output.get("text") or "\n".join(map(str, output.get("data", {}).items())) for output in outputs]
    return "\n".join(shown)


def project(folder: Path) -> Path:
    """A folder that the notebooks take for the project, with two photos; what they import is this checkout."""
    (folder / "lumiply").mkdir(parents=True)
    (folder / "lumiply" / "cli.py").symlink_to(ROOT / "lumiply" / "cli.py")
    (folder / "images").mkdir()
    for name, red in (("sample_room.png", 200), ("second.jpg", 90)):
        format = "PNG" if name.endswith("png") else "JPEG"
        (folder / "images" / name).write_bytes(photo_bytes(red=red, format=format))
    return folder


@pytest.mark.parametrize("path", [SERVER, FOLDER], ids=lambda path: path.name)
def test_a_notebook_is_written_as_agreed(path: Path) -> None:
    written = nbformat.read(path, as_version=4)
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert "PROJECT" in code[0].source and "import" not in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(len([line for line in cell.source.splitlines() if line]) <= 10 for cell in code)
    assert len(code) <= len(written.cells) / 2
    assert not re.search(r"(token|secret)\w* = [\"']\w", "".join(cell.source for cell in code), re.I)


def test_the_server_runs_from_top_to_bottom_and_again(
    tmp_path: Path, startup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMIPLY_CKPT_DIR", str(ROOT / "ckpt"))
    (startup / "fake_engine.py").write_text(FAKE_ENGINE)
    shown = run(SERVER, project(tmp_path / "here"), times=2, PORT=0)
    assert shown.count("✅ Colab 서버가 시작되었습니다!\n🌐 Public URL: http://127.0.0.1:") == 2
    assert "NGROK_AUTHTOKEN" in shown  # why there is no tunnel
    assert re.search(r"^ok +Python ", shown, re.M) and "Ready" in shown  # doctor
    assert "no weights are fetched" in shown
    assert shown.count("image/png") == 2
    assert re.search(rf"queue +0 of {Settings().queue_size}", shown) and re.search(
        r"renders +\d+ stored; last: notebook-", shown
    )


@pytest.mark.parametrize("path", [SERVER, FOLDER], ids=lambda path: path.name)
def test_on_colab_drive_is_mounted_the_project_cloned_and_packages_installed(
    path: Path, tmp_path: Path, startup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (startup / "a_colab.py").write_text(FAKE_COLAB)
    (startup / "b_engine.py").write_text(FAKE_ENGINE)
    monkeypatch.setenv("LUMIPLY_TUNNEL", "none")
    source, content = project(tmp_path / "source"), tmp_path / "content"
    content.mkdir()
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "-m", "Start"]):
        subprocess.run(["git", *words], cwd=source, check=True)
    more: dict[str, Any] = {"PORT": 0} if path == SERVER else {"PHOTOS": "images"}
    shown = run(path, content, times=2, USE_DRIVE=True, REPOSITORY=source.as_uri(), **more)
    assert shown.count(f"mounted {content}/drive") == 2 and "upload button" not in shown
    assert shown.count("pip install --quiet --requirement requirements.txt") == 2
    assert (content / "Lumiply" / "images" / "sample_room.png").is_file()
    assert "image/png" in shown
    assert (
        path == SERVER or "relit/second/output_red.png" in shown
    )  # of a folder, each photo in one of its own
    assert "colab_sesame" not in shown
    assert path == FOLDER or "ngrok token   set" in shown


#: Cells until the project is found and one stands in it.
UNTIL_FOUND = 5
#: What the notebooks say where there is no project: each way, in both languages.
WAYS = ("zip으로 묶어", "Zip the folder", "USE_DRIVE = True", "to My Drive", "REPOSITORY or PROJECT")


def archive(folder: Path, source: Path, inside: str) -> Path:
    """A zip file of the project `source`, its folder `inside` of it, as people make them."""
    with zipfile.ZipFile(folder / "Lumiply-main (1).zip", "w") as packed:
        for path in ("lumiply/cli.py", "images/sample_room.png"):
            packed.write(source / path, inside + path)
    return folder / "Lumiply-main (1).zip"


@pytest.mark.parametrize("path", [SERVER, FOLDER], ids=lambda path: path.name)
@pytest.mark.parametrize("colab", [True, False], ids=["colab", "elsewhere"])
def test_without_a_project_the_notebook_says_what_to_do(
    path: Path, colab: bool, tmp_path: Path, startup: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from nbclient.exceptions import CellExecutionError

    if colab:
        (startup / "a_colab.py").write_text(FAKE_COLAB)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "holiday.zip").write_bytes(b"none")
    with pytest.raises(CellExecutionError) as caught:
        run(path, tmp_path / "empty", cells=UNTIL_FOUND)
    assert all(way.lower() in str(caught.value).lower() for way in WAYS)
    assert ("upload button" in str(caught.value)) == colab


@pytest.mark.parametrize(
    ("way", "inside"), [("upload", "Lumiply-main/"), ("lies-there", ""), ("on-drive", "Lumiply-main/")]
)
def test_on_colab_a_zip_of_the_project_will_do(
    way: str, inside: str, tmp_path: Path, startup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (startup / "a_colab.py").write_text(FAKE_COLAB)
    content = tmp_path / "content"
    (content / "drive" / "MyDrive").mkdir(parents=True)
    places = {"upload": tmp_path, "lies-there": content, "on-drive": content / "drive" / "MyDrive"}
    packed = archive(places[way], project(tmp_path / "source"), inside)
    if way == "upload":
        monkeypatch.setenv("UPLOAD", str(packed))
    shown = run(SERVER, content, times=2, cells=UNTIL_FOUND)
    assert (content / "Lumiply" / inside / "images" / "sample_room.png").is_file()
    assert shown.count("upload button") == shown.count("Zip the folder") == (way == "upload")


@pytest.mark.parametrize("place", ["drive/MyDrive/방 조명", "drive/MyDrive", "Lumiply-main"])
def test_on_colab_an_unpacked_project_is_found_whatever_its_folder_is_called(
    place: str, tmp_path: Path, startup: Path
) -> None:
    (startup / "a_colab.py").write_text(FAKE_COLAB)
    (startup / "z_where.py").write_text(
        "import atexit, os; atexit.register(lambda: open(os.environ['WHERE'], 'w').write(os.getcwd()))"
    )
    content = tmp_path / "content"
    content.mkdir()
    found = project(content / place)
    where = tmp_path / "where"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHERE", str(where))
        run(FOLDER, content, cells=UNTIL_FOUND)
    assert where.read_text() == str(found)


#: Numbers of code cells of the server's notebook.
ENGINE, SERVE, TRY, STATUS = 8, 9, 10, 11

#: Tunnels are looked after twenty times a second.
LOOK_OFTEN = """
from lumiply.server.tunnel import KeptTunnel
KeptTunnel.__init__.__defaults__ = (0.05,)
"""

#: Kill the tunnel's agent, and wait until the notebook has been told of the new address.
KILL_AGENT = """
import json, os, signal, threading
moved, tell = threading.Event(), service.on_move
service.on_move = lambda one: (tell(one), moved.set())
os.kill(json.loads(open("{runs}").readlines()[-1])["pid"], signal.SIGKILL)
assert moved.wait(20)
"""


def test_cells_run_again_in_any_order_with_a_tunnel(
    tmp_path: Path, startup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (("a_colab", FAKE_COLAB), ("b_engine", FAKE_ENGINE), ("c_look", LOOK_OFTEN)):
        (startup / f"{name}.py").write_text(source)
    (tmp_path / "agent").mkdir()
    agent = Agent(tmp_path / "agent")
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(agent.path))
    move = f"open({str(agent.folder / 'orders.json')!r}, 'w').write('{{\"url\": \"https://new.ngrok-free.dev\"}}')"
    kill = KILL_AGENT.replace("{runs}", str(agent.folder / "runs.jsonl"))
    again = [SERVE, TRY, ENGINE, ENGINE, SERVE, STATUS, move, kill, STATUS, "print(service.token)"]
    stop = ["notebook.shut_down()", "notebook.shut_down()", STATUS, ENGINE, SERVE, TRY]
    shown = run(SERVER, project(tmp_path / "here"), then=[*again, *stop], PORT=0)
    addresses = re.findall(r"   (https://\S+)\n", shown)
    token = re.search(r"^([\w-]{32})$", shown, re.M)
    assert token, shown
    first, new = (f"https://{host}.ngrok-free.dev/process?token={token[1]}" for host in ("a1b2", "new"))
    assert addresses == [first, first, first, new, new]  # the token stays, so the gateway need not be told
    assert shown.count("engine loaded") == 2  # once before the end, once after it
    assert shown.count("image/png") == 3
    assert shown.count(f"https://a1b2.ngrok-free.dev/?token={token[1]}\n") == 3  # the page
    assert (
        shown.count("The server has stopped: run again from the engine's cell") == 1
    )  # the status after the end
    assert "colab_sesame" not in shown and len(agent.runs) == 5
    assert not any(lives(ran["pid"]) for ran in agent.runs)


def test_the_server_runs_on_the_mini_model(startup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_TUNNEL", "none")
    shown = run(SERVER, ROOT, PORT=0, MODEL="mini")
    assert "lumiply-mini" in shown
    assert "LUMIPLY_TUNNEL=none" in shown
    assert "image/png" in shown


def test_a_folder_is_relit_on_the_mini_model(tmp_path: Path, startup: Path) -> None:
    shown = run(FOLDER, ROOT, MODEL="mini", OUT=str(tmp_path / "relit"), COLORS=["red", "white"], STEPS=1)
    (result,) = [path for path in (tmp_path / "relit").rglob("output_red.png")]
    assert result.with_name("output_white.png").is_file() and not result.with_name("output_blue.png").exists()
    assert str(result) in shown and "image/png" in shown
    with Image.open(result) as relit, Image.open(ROOT / "images" / "sample_room.png") as photo:
        assert relit.size == photo.size and relit.convert("RGB").tobytes() != photo.convert("RGB").tobytes()


def test_several_photos_get_a_folder_each_and_one_photo_none(tmp_path: Path) -> None:
    images = project(tmp_path / "here") / "images"
    engine, settings = FakeEngine(), Settings(seed=5, steps=3)
    results = notebook.relight(engine, settings, images, tmp_path / "relit")
    assert [len(paths) for paths in results.values()] == [7, 7]
    assert (tmp_path / "relit" / "second" / "output_purple.png").is_file()
    assert (engine.renders[0].seed, engine.renders[0].steps) == (5, 3)
    assert [sheet.mode for sheet in notebook.grid(results)] == ["RGB", "RGB"]
    one = notebook.relight(engine, settings, images / "second.jpg", tmp_path / "one", "blue")
    assert one == {images / "second.jpg": {"blue": tmp_path / "one" / "output_blue.png"}}
    with pytest.raises(UserError, match="no photo at .*Set PHOTOS"):
        notebook.relight(engine, settings, tmp_path / "nowhere", tmp_path)


def test_a_photo_that_cannot_be_used_is_named_and_the_others_are_relit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = project(tmp_path / "here") / "images"
    (images / "notes.png").write_text("milk, bread")
    results = notebook.relight(FakeEngine(), Settings(), images, tmp_path / "relit", "red")
    assert [photo.name for photo in results] == ["sample_room.png", "second.jpg"]
    told = capsys.readouterr().out
    assert f"{images / 'notes.png'}: 이미지" in told and "no readable picture (11 bytes arrived)" in told
    with pytest.raises(UserError, match="No photo at .*notes.png can be used"):
        notebook.relight(FakeEngine(), Settings(), images / "notes.png", tmp_path / "relit")


def test_the_environment_wins_over_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_PORT", "7000")
    settings = notebook.read_settings(port=5000, seed=7)
    assert (settings.port, settings.seed, settings.model) == (7000, 7, "auto")
    with pytest.raises(SettingsError, match="port must be"):
        monkeypatch.delenv("LUMIPLY_PORT")
        notebook.read_settings(port="x")


def test_the_token_may_come_from_colabs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_colab_secret", lambda name: {"NGROK_AUTHTOKEN": "secret1"}.get(name))
    assert notebook.read_settings(tunnel="ngrok").ngrok_authtoken == "secret1"
    monkeypatch.setenv("NGROK_AUTHTOKEN", "nearer")
    assert notebook.read_settings().ngrok_authtoken == "nearer"


def test_the_servers_own_token_may_come_from_colabs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_colab_secret", lambda name: f"from-the-key-sign-{name}".replace("_", "-"))
    assert notebook.read_settings().token == "from-the-key-sign-LUMIPLY-TOKEN"
    monkeypatch.setenv("LUMIPLY_TOKEN", "nearer-than-the-key-sign")
    assert notebook.read_settings().token == "nearer-than-the-key-sign"


def test_the_token_is_asked_for_only_where_the_tunnel_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda question: asked.append(question) or "typed1")
    assert notebook.read_settings(tunnel="auto").ngrok_authtoken is None and asked == []
    assert notebook.read_settings(tunnel="ngrok").ngrok_authtoken == "typed1"
    assert len(asked) == 1 and "typed1" not in "".join(capsys.readouterr())


def test_results_behind_a_url_are_named_in_the_state() -> None:
    assert notebook._renders(Settings(results_url="s3://bucket/prefix")) == "stored at s3://bucket/prefix"


def test_serving_again_closes_the_former_server_and_keeps_its_port(tmp_path: Path) -> None:
    (tmp_path / "room.png").write_bytes(photo_bytes())
    settings = Settings(port=0, results_dir=tmp_path / "inference")
    first = notebook.serve(FakeEngine(), settings)
    port = int(first.url.rpartition(":")[2])
    second = notebook.serve(FakeEngine(), settings.replace(port=port))
    assert second.url == first.url
    assert notebook.try_out(second, tmp_path / "room.png").mode == "RGB"
    notebook.stop()
    notebook.stop()
    with pytest.raises(RemoteError, match="did not answer"):
        notebook.try_out(second, tmp_path / "room.png")


def test_a_photo_that_was_held_upright_is_shown_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    Image.new("RGB", (40, 30)).save(tmp_path / "room.jpg", exif=exif)
    service = notebook.serve(FakeEngine(), Settings(port=0, results_dir=tmp_path / "inference"))
    shown: dict[str, Image.Image] = {}
    monkeypatch.setattr(notebook, "contact_sheet", lambda pictures, cell: shown.update(pictures))
    notebook.try_out(service, tmp_path / "room.jpg")
    notebook.stop()
    assert {picture.size for picture in shown.values()} == {(30, 40)} and len(shown) == 8


def test_the_state_counts_what_waits_in_the_server_as_well_as_what_the_engine_has(tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.png" for number in range(4)]
    for number, photo in enumerate(photos):
        photo.write_bytes(photo_bytes(red=number))
    engine = FakeEngine(manual=True)
    service = notebook.serve(engine, Settings(port=0, results_dir=tmp_path / "inference", shutdown_s=0))
    with ThreadPoolExecutor() as callers:
        calls = [callers.submit(client.process, service.url, photo, photo.stem, "red") for photo in photos]
        try:
            wait_until(lambda: "queue     4 of 64" in notebook.status(service))
            assert engine.queue_length < 4
        finally:
            notebook.stop()
        assert all(isinstance(call.exception(PATIENCE_S), RemoteError) for call in calls)


def test_a_busy_port_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(port=listener.getsockname()[1], results_dir=tmp_path)
        with pytest.raises(AddressError, match="change PORT in the settings cell"):
            notebook.serve(FakeEngine(), settings)


def test_after_shutting_down_the_engine_can_be_had_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "build_engine", lambda settings: FakeEngine())
    settings = Settings(port=0, results_dir=tmp_path)
    engine = api.initialize_engine(settings)
    assert api.initialize_engine(settings) is engine
    notebook.serve(engine, settings)
    notebook.shut_down()
    notebook.shut_down()
    again = api.initialize_engine(settings)
    assert isinstance(engine, FakeEngine) and engine.closed
    assert isinstance(again, FakeEngine) and not again.closed
    notebook.shut_down()


def test_an_engine_that_the_server_replaced_is_the_notebooks_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FakeEngine] = []

    def build(settings: Settings) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr(api, "build_engine", build)
    (tmp_path / "room.png").write_bytes(photo_bytes())
    settings = Settings(port=0, results_dir=tmp_path)
    former = api.initialize_engine(settings)
    service = notebook.serve(former, settings)
    service.slot.restart(former, "its worker died")
    assert service.slot.wait(PATIENCE_S)
    wait_until(lambda: made[0].closed)
    assert service.slot.engine is made[1] is api.initialize_engine(settings)  # the engine's cell again
    again = notebook.serve(former, settings)  # the server's cell alone
    assert notebook.try_out(again, tmp_path / "room.png").mode == "RGB"
    notebook.shut_down()
    assert [engine.closed for engine in made] == [True, True]


def test_weights_that_cannot_be_had_stop_only_who_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise FetchError("you are not logged in")

    monkeypatch.setattr(notebook, "Hub", refuse)
    monkeypatch.setattr(notebook, "_has_gpu", lambda: True)
    notebook.fetch_weights(Settings())
    assert "not logged in" in capsys.readouterr().out
    for settings, fetch in ((Settings(model="full"), "auto"), (Settings(), "yes")):
        with pytest.raises(FetchError):
            notebook.fetch_weights(settings, fetch)
    notebook.fetch_weights(Settings(), "no")
    with pytest.raises(UserError, match="FETCH must be one of yes, no, auto"):
        notebook.fetch_weights(Settings(), "maybe")


def test_the_seven_colours_are_named_as_the_notebook_says() -> None:
    text = FOLDER.read_text()
    assert ", ".join(COLORS) in text
