"""`lumiply_inference.ipynb`: how it is written, and that it runs from top to bottom."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lumiply import notebook
from lumiply.errors import RemoteError, SettingsError
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "lumiply_inference.ipynb"

#: Run by the kernel before the first cell: the notebook then finds an engine that paints at once.
FAKE_ENGINE = """
from lumiply import api
from tests.fakes import FakeEngine
api.build_engine = lambda settings: FakeEngine()
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LUMIPLY_") or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)


@pytest.fixture
def kernel_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel inherits; returns its start-up folder."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LUMIPLY_PORT", "0")
    monkeypatch.setenv("LUMIPLY_RESULTS_DIR", str(tmp_path / "inference"))
    return startup


def run(folder: Path) -> str:
    """Run all cells in `folder`; what they printed or showed."""
    written = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(written, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in written.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.get("text") or ",".join(output.get("data", {})) for output in outputs]
    return "\n".join(shown)


def test_the_notebook_is_written_as_agreed() -> None:
    written = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert "PORT" in code[0].source and "import" not in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(len(cell.source.splitlines()) <= 10 for cell in code)
    assert len(code) < len(written.cells) / 2 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_from_top_to_bottom(tmp_path: Path, kernel_environment: Path) -> None:
    (kernel_environment / "fake_engine.py").write_text(FAKE_ENGINE)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "sample_room.png").write_bytes(photo_bytes())
    shown = run(tmp_path)
    assert "✅ Colab 서버가 시작되었습니다!\n🌐 Public URL: http://127.0.0.1:" in shown
    assert "NGROK_AUTHTOKEN" in shown  # why there is no tunnel
    assert "image/png" in shown
    assert "sample" not in shown.lower() and "Error" not in shown


@pytest.mark.skipif(not list((ROOT / "ckpt" / "mini").glob("*")), reason="the mini weights are not there yet")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_on_the_mini_model(kernel_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_MODEL", "mini")
    monkeypatch.setenv("LUMIPLY_TUNNEL", "none")
    shown = run(ROOT)
    assert "lumiply-mini" in shown
    assert "LUMIPLY_TUNNEL=none" in shown
    assert "image/png" in shown


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
