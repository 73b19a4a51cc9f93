"""What the README shows is what happens: its request, its commands, its links."""

from __future__ import annotations

import json
import re
import shlex
from io import BytesIO
from pathlib import Path

import click
import pytest

from lumiply.cli import main
from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_commands() -> list[tuple[str, str]]:
    """(page, command line) of every `lumiply ...` in a shell block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
            joined = block.replace("\\\n", " ")
            found += [(page.name, line) for line in joined.splitlines() if line.startswith("lumiply ")]
    return found


def test_the_answer_shown_is_the_servers_answer(tmp_path):
    text = (ROOT / "README.md").read_text()
    shown = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    curl = re.search(r"curl (.*) (http://\S+)/process", text)
    fields = dict(part.split("=", 1) for part in re.findall(r"-F (\S+)", curl[1]))
    assert (ROOT / fields.pop("image").removeprefix("@")).is_file()
    app = create_app(Settings(results_dir=tmp_path), FakeEngine())
    form = {**fields, "image": (BytesIO(photo_bytes()), "room.png", "image/png")}
    answer = app.test_client().post("/process", data=form, base_url=curl[2])
    site_of(app).close()
    assert answer.status_code == 200
    assert answer.get_json() == shown


@pytest.mark.parametrize("page, line", shown_commands())
def test_every_command_shown_exists_with_the_options_shown(page, line):
    words = shlex.split(line, comments=True)[1:]
    command: click.Command | None = main
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(click.Context(command), name)
    assert command is not None, f"{page}: no command {name}"
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    assert unknown == [], f"{page}: {line}"


def test_commands_are_shown_at_all():
    assert len(shown_commands()) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_project_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert missing == []


def test_the_make_targets_shown_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    shown = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M)
    assert shown and set(shown) <= set(targets)
