"""`lumiply_inference.ipynb` and `Lumiply.ipynb`: how they are written, and that they run, on Colab too."""

from __future__ import annotations

import re
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from lumiply.colors import COLORS
from lumiply.settings import Settings
from tests.server.test_ngrok import Agent, lives
from tests.test_notebook import clean_environment, project  # noqa: F401  (a fixture)

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


def test_the_seven_colours_are_named_as_the_notebook_says() -> None:
    text = FOLDER.read_text()
    assert ", ".join(COLORS) in text
