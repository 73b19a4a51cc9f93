"""`EDA_SSIM.ipynb` and `EDA_LPIPS.ipynb`: how they are written, and that they run from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = {"EDA_SSIM.ipynb": "images/inference", "EDA_LPIPS.ipynb": "data/validation"}

#: Run by the kernel before the first cell: LPIPS cannot be had, or is a stand-in.
NO_LPIPS = "import sys\nsys.modules['lpips'] = None\n"
STAND_IN = """
import lumiply.evaluation as evaluation
stand_in = evaluation.Lpips(lambda truth, output: float(abs(truth - output).mean()), "LPIPS by a stand-in")
evaluation.find_lpips = lambda: stand_in
"""


def run(name: str, folder: Path) -> list[dict[str, str]]:
    """Run all cells in `folder`; what each output is, by its kind."""
    written = nbformat.read(ROOT / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(written, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in written.cells if cell.cell_type == "code" for output in cell.outputs]
    return [
        {"text/plain": output["text"]} if "text" in output else dict(output["data"]) for output in outputs
    ]


@pytest.fixture
def startup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The start-up folder of the kernel."""
    folder = tmp_path / "ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_is_written_as_agreed(name: str) -> None:
    written = nbformat.read(ROOT / name, as_version=4)
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert f'FOLDER = "{NOTEBOOKS[name]}"' in code[0].source and "import" not in code[0].source
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(len(cell.source.splitlines()) <= 10 for cell in code)
    assert len(code) < len(written.cells) / 2 + 1


@pytest.mark.parametrize(
    ("name", "start", "sentence"),
    [
        ("EDA_SSIM.ipynb", NO_LPIPS, "3 scenes, 6 outputs, 1 problems"),
        ("EDA_LPIPS.ipynb", NO_LPIPS, "LPIPS is left out"),
        ("EDA_LPIPS.ipynb", STAND_IN, "LPIPS by a stand-in"),
    ],
    ids=["ssim", "lpips absent", "lpips there"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_it_runs_from_top_to_bottom(
    name: str, start: str, sentence: str, scenes: Path, tmp_path: Path, startup: Path
) -> None:
    (startup / "lpips.py").write_text(start)
    (scenes / "lamp_01" / "output_pink.png").write_text("no picture")
    (tmp_path / NOTEBOOKS[name]).parent.mkdir(parents=True)
    scenes.rename(tmp_path / NOTEBOOKS[name])
    outputs = run(name, tmp_path)
    text = "\n".join(output["text/plain"] for output in outputs)
    assert sentence in text and "'pink' is none of white" in text
    tables = [output["text/markdown"] for output in outputs if "text/markdown" in output]
    assert len(tables) == 1 and "| pendant | 2 |" in tables[0]
    lpips_of_all = tables[0].splitlines()[2].split(" | ")[5]
    assert (lpips_of_all != "-") == (start is STAND_IN)
    assert len([output for output in outputs if "image/png" in output]) == 2  # the bars and the worst
    assert (tmp_path / "evaluation" / "scores.csv").is_file()
