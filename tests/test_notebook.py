"""`lumiply_inference.ipynb` and `Lumiply.ipynb`: how they are written, and that they run, on Colab too."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from lumiply import api, notebook
from lumiply.colors import COLORS
from lumiply.errors import AddressError, FetchError, RemoteError, SettingsError, UserError
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

ROOT = Path(__file__).parent.parent
SERVER, FOLDER = ROOT / "lumiply_inference.ipynb", ROOT / "Lumiply.ipynb"

#: Run by the kernel before the first cell: the notebook then finds an engine that paints at once.
FAKE_ENGINE = """
from lumiply import api
from tests.fakes import FakeEngine
api.build_engine = lambda settings: FakeEngine()
"""

#: Run by the kernel before the first cell: Colab, as far as the notebooks can see it.
FAKE_COLAB = """
import sys, types
google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
userdata, drive = types.ModuleType("google.colab.userdata"), types.ModuleType("google.colab.drive")
class SecretNotFoundError(Exception): pass
def get(name):
    if name == "NGROK_AUTHTOKEN": return "colab_sesame"
    raise SecretNotFoundError(name)
userdata.get = get
drive.mount = lambda place: print("mounted", place)
google.colab, colab.userdata, colab.drive = colab, userdata, drive
for module in (google, colab, userdata, drive): sys.modules[module.__name__] = module
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


def run(path: Path, folder: Path, times: int = 1, **changed: Any) -> str:
    """Run all cells in `folder`, `times` over, with settings `changed`; what they printed or showed."""
    written = nbformat.read(path, as_version=4)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    for name, value in changed.items():
        owner = next(cell for cell in code if re.search(rf"^{name} = ", cell.source, re.M))
        owner.source = re.sub(rf"^{name} = .*$", f"{name} = {value!r}", owner.source, flags=re.M)
    written.cells = [cell.copy() for _ in range(times) for cell in code]
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
    assert all(len(cell.source.splitlines()) <= 10 for cell in code)
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
    more: dict[str, Any] = {"PORT": 0} if path == SERVER else {}
    shown = run(path, content, times=2, USE_DRIVE=True, REPOSITORY=source.as_uri(), **more)
    assert shown.count("mounted /content/drive") == 2
    assert shown.count("pip install --quiet --requirement requirements.txt") == 2
    assert (content / "Lumiply" / "images" / "sample_room.png").is_file()
    assert "image/png" in shown
    assert "colab_sesame" not in shown
    assert path == FOLDER or "ngrok token   set" in shown


def test_without_a_project_the_notebook_says_what_to_set(tmp_path: Path, startup: Path) -> None:
    from nbclient.exceptions import CellExecutionError

    (tmp_path / "empty").mkdir()
    with pytest.raises(CellExecutionError, match="set PROJECT or REPOSITORY"):
        run(SERVER, tmp_path / "empty")


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
    one = notebook.relight(engine, settings, images / "second.jpg", tmp_path / "one", ["blue"])
    assert one == {images / "second.jpg": {"blue": tmp_path / "one" / "output_blue.png"}}
    with pytest.raises(UserError, match="no photo at .*Set PHOTOS"):
        notebook.relight(engine, settings, tmp_path / "nowhere", tmp_path)


def test_the_environment_wins_over_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_PORT", "7000")
    settings = notebook.read_settings(port=5000, seed=7)
    assert (settings.port, settings.seed, settings.model) == (7000, 7, "auto")
    with pytest.raises(SettingsError, match="port must be"):
        monkeypatch.delenv("LUMIPLY_PORT")
        notebook.read_settings(port="x")


def test_the_token_may_come_from_colabs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_colab_secret", lambda name: {"NGROK_AUTHTOKEN": "secret1"}[name])
    assert notebook.read_settings(tunnel="ngrok").ngrok_authtoken == "secret1"
    monkeypatch.setenv("NGROK_AUTHTOKEN", "nearer")
    assert notebook.read_settings().ngrok_authtoken == "nearer"


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
