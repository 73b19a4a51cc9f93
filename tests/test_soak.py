"""The proofs of `python -m benchmarks.soak`, each in small: that they run, and that they would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.soak import __main__ as command
from benchmarks.soak import load as loads
from benchmarks.soak.hostile import hostile
from benchmarks.soak.kills import kills
from benchmarks.soak.load import PERIOD_S, HealthProbe, load
from benchmarks.soak.stage import Row, Solo


def test_load_compares_every_file_and_times_health() -> None:
    answers, _, health, memory = load("nano", clients=4, jobs=10, photos=3, stored=True)
    assert answers.ok and answers.measured.startswith("10 of 10 in ")
    assert "p99" in health.measured and memory.ok


def test_the_server_is_compared_at_the_threads_that_this_process_has() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # another number rounds otherwise, and one is not the usual one
    try:
        answers = load("nano", clients=2, jobs=6, photos=2)[0]
    finally:
        torch.set_num_threads(before)
    assert answers.ok, answers.measured


def test_load_notices_a_file_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swapped(Solo):
        def differs(self, number: int, color: str, served: bytes) -> str:
            return super().differs(1 - number, color, served)

    monkeypatch.setattr(loads, "Solo", Swapped)
    answers = load("nano", clients=2, jobs=6, photos=2)[0]
    assert not answers.ok and "levels" in answers.measured


def test_the_probe_counts_what_it_could_not_ask_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = HealthProbe("http://127.0.0.1:9")
    monkeypatch.setattr(probe, "_process", type("Process", (), {"join": lambda self, timeout: None})())
    probe._answers.put(([0.01, 3.5 * PERIOD_S], [0.0, 0.001]))
    probe.__exit__()
    assert probe.times == pytest.approx([0.01, *[PERIOD_S * left for left in (3.5, 2.5, 1.5, 0.5)]])


def test_kills_checks_all_that_was_answered() -> None:
    answers, leftovers = kills(times=1, photos=2, clients=2)
    assert answers.ok and leftovers.ok, (answers.measured, leftovers.measured)


def test_hostile_finds_nothing_wrong() -> None:
    assert all(row.ok for row in hostile(count=20, examples=2))


def test_a_table_is_printed_and_kept_and_a_missed_bar_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.PROOFS, "disk", lambda: [Row("a disk", "a bar", "too little", False)])
    monkeypatch.setitem(command.PROOFS, "slow", lambda: [Row("slow ones", "a bar", "enough", True)])
    assert command.main(["slow"]) == 0
    assert command.main(["slow", "disk", "--out", str(tmp_path / "table.md")]) == 1
    table = (tmp_path / "table.md").read_text()
    assert "| slow ones | a bar | enough | ok |\n| a disk | a bar | too little | **missed** |\n" in table
    assert table in capsys.readouterr().out


def test_a_proof_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["kill"])
    assert "'kill' is none of gateways, load," in capsys.readouterr().err
