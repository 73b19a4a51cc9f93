"""Every command that a document shows or names is run, made small, on a model of milliseconds.

What is added to make it small stands in `small.py`, and so does the short list of what is not run, each with its
reason. What starts Ray is run by `tests/cluster/test_documents.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.scaling import read_times
from tests.documents.pages import (
    FENCE,
    LANGUAGES,
    NOTEBOOKS,
    PAGES,
    REPORTS,
    blocks,
    elsewhere,
    in_sentences,
    named,
    shell_lines,
)
from tests.documents.shell import Shell
from tests.documents.small import ADDED, UNRUN, WHOLE, WITH_RAY, row
from tests.photos import make_split
from tests.training.conftest import made_up_room

SHOWN = [page for page in PAGES if blocks(page)]
ALONE = {line.partition("#")[0].strip() for _, line in shell_lines()}
UNTRIED = {*WITH_RAY, *(key for key, unrun in UNRUN.items() if not unrun.parsed)}
#: Not those that a shell block shows as well, nor those of which nothing is tried here.
NAMED = [
    line for line in in_sentences([*PAGES, *NOTEBOOKS]) if line not in ALONE and row(line, UNTRIED) is None
]
#: Pages that take the published files for granted, and those that take rendered rooms.
PUBLISHED, RENDERED = ("docs/finetuning.md", "docs/performance.md"), ("docs/performance.md",)


def make_rooms() -> None:
    for part in ("train", "validation", "test"):
        made_up_room(1).save(Path("runs") / part / "room_000000.npz")


#: Lightning's own.
quiet = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")


@quiet
@pytest.mark.parametrize("page", SHOWN, ids=named)
def test_every_command_of_the_page_works_one_after_another(page: Path, shell: Shell, published: Path) -> None:
    if named(page) in PUBLISHED:
        shutil.copytree(published, Path(), dirs_exist_ok=True)
    if named(page) in RENDERED:
        make_rooms()
    Path("benchmarks/results").mkdir(parents=True)  # as in a checkout
    Path("seconds.json").write_text('{"service_times": [1.0, 1.5]}')
    for lines in blocks(page):
        with shell.monkeypatch.context() as patch:  # each block is a shell of its own, in the same folder
            inner = Shell(shell.client, patch)
            for line in lines:
                inner.run(line)
    if (measured := Path("benchmarks/results/cluster_throughput.json")).exists():
        assert read_times(measured)[0]


@quiet
@pytest.mark.parametrize("line", NAMED)
def test_every_command_that_a_sentence_names_works(line: str, shell: Shell) -> None:
    for kind in ("crossattn", "adaptor"):
        make_split(Path("data") / kind, train=1)
    make_rooms()
    shell.run(line)


@pytest.mark.parametrize("line", in_sentences(REPORTS))
def test_the_command_that_a_report_names_is_still_one(line: str, shell: Shell) -> None:
    shell.parse(line.split())


def test_commands_stand_only_where_they_are_found() -> None:
    assert {named(page): elsewhere(page) for page in PAGES if elsewhere(page)} == {}
    assert {language for page in PAGES for language, _ in FENCE.findall(page.read_text())} <= LANGUAGES


def test_every_row_is_for_a_command_that_is_still_shown() -> None:
    lines = [*in_sentences([*PAGES, *NOTEBOOKS]), *(line for _, line in shell_lines())]
    for table in (ADDED, UNRUN, WITH_RAY):
        used = {row(WHOLE.get(line, line), table) for line in lines}
        assert set(table) - used <= {"lumiply demo"}  # that of make demo
    assert set(WHOLE) <= set(lines)


def test_what_is_not_run_is_little_and_its_page_tells_how_it_runs() -> None:
    assert len(UNRUN) <= 6
    for source in PAGES:
        text = " ".join(source.read_text().split())
        for line in [*in_sentences([source]), *(line for block in blocks(source) for line in block)]:
            if (key := row(line, UNRUN)) is not None:
                assert UNRUN[key].told in text, f"{named(source)}: {line}"
    assert all(unrun.reason for unrun in UNRUN.values())


def test_a_command_that_nothing_is_written_for_is_refused(shell: Shell) -> None:
    for line in ("lumiply polish photo.jpg", "python -m benchmark.bench", "wget http://127.0.0.1:5000/"):
        with pytest.raises(AssertionError):
            shell.run(line)
