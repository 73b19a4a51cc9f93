"""`Augmentation.ipynb`: how it is written, and that it runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lumiply.training.photos import scan
from tests.photos import make_scenes

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "Augmentation.ipynb"


def test_the_notebook_is_written_as_agreed() -> None:
    written = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert "SOURCE" in code[0].source and "import" not in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(len(cell.source.splitlines()) <= 10 for cell in code)
    assert len(code) < len(written.cells) / 2 + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_from_top_to_bottom_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make_scenes(tmp_path / "photos", 3, "off", "on", "red")
    (tmp_path / "photos" / "room00" / "bleu.jpg").write_bytes(b"")
    written = nbformat.read(NOTEBOOK, as_version=4)
    written.cells += [
        cell.copy() for cell in written.cells if "write(" in cell.source
    ]  # any cell may run again
    NotebookClient(
        written, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in written.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = "\n".join(output.get("text") or ",".join(output.get("data", {})) for output in outputs)
    assert "room00/bleu.jpg: unknown name, did you mean blue?" in shown
    assert "train      2 of 3 scenes (67 %), written as 16: 48 files" in shown
    assert "image/png" in shown
    assert "written: 24 scenes, 72 files" in shown and "24 were there already" in shown
    assert "skipped: nothing" in shown and "Error" not in shown
    found = scan(tmp_path / "data" / "crossattn")
    assert (len(found.split("train")), len(found.split("validation"))) == (16, 8)
