"""The benchmark of fine-tuning's memory and time runs where there is no GPU, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import finetune_memory

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_configuration_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finetune_memory.main(["--tiny", "--batch", "1", "--steps", "1", "--out", "report.md"])
    report = (tmp_path / "report.md").read_text()
    assert report == capsys.readouterr().out
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in report.splitlines() if row[:1] == "|"][
        2:
    ]
    assert {(row[0], row[2], row[3]) for row in rows} == {
        (training, precision, checkpointing)
        for training in finetune_memory.TRAININGS
        for precision in finetune_memory.PRECISIONS
        for checkpointing in ("no", "yes")
    }
    assert all(float(row[6]) > 0 for row in rows)
