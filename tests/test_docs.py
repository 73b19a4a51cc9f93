"""Every command that a document shows is run: by an engine that paints at once, against a hub on localhost.

Rendering and training take hours, so `synth`, `train` and their like are only checked for their names and options
(`tests/test_readme.py`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from lumiply.api import close_engine
from lumiply.cli import COMMANDS, main
from lumiply.hub import LUMINET, LUMIPLY, Hub
from lumiply.server import FlaskServerThread, create_app
from lumiply.server.site import site_of
from lumiply.server.tunnel import NoTunnel
from lumiply.settings import Settings
from tests.fakes import FakeEngine, photo_bytes
from tests.hub import FakeHub, Repo
from tests.photos import make_scene, make_scenes

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

#: Commands that are run here, and what is added to them so that they listen on a free port, or end soon.
RUN = {
    "doctor": ["--port", "0"],
    "serve": ["--port", "0", "--host", "127.0.0.1"],
    "relight": [],
    "fetch": [],
    "augment": [],
    "evaluate": ["--no-lpips"],
}

#: Files and folders that documents speak of as the reader's own.
PHOTOS = ("room.jpg", "photo.jpg", "a.jpg", "b.jpg", "images/sample_room.png")


def blocks() -> Iterator[tuple[str, list[str]]]:
    """(page, lines) of every shell block."""
    for page in PAGES:
        for block in re.findall(r"^ *```sh\n(.*?)```", page.read_text(), re.S | re.M):
            joined = block.replace("\\\n", " ")
            yield page.name, [line.strip() for line in joined.splitlines() if line.strip()]


def cases() -> list[pytest.param]:  # type: ignore[valid-type]
    found = list(blocks())
    return [
        pytest.param(lines, id=f"{name}-{index}: {lines[0][:30]}")
        for index, (name, lines) in enumerate(found)
    ]


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A reader's folder, with what the documents take for granted; returns it."""
    for name in list(os.environ):
        if name.startswith(("LUMIPLY_", "HF_")) or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name in PHOTOS:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(photo_bytes(format="PNG" if name.endswith("png") else "JPEG"))
    for folder in ("photos", "SOURCE"):
        make_scenes(Path(folder), 4, "off", "on", "red")
    for scene in ("photos/lamp_01", "FOLDER/lamp_01"):
        make_scene(Path(scene), "off", "on", "red", seed=9)
        (Path(scene) / "off.jpg").write_bytes(photo_bytes(size=(24, 16), format="JPEG"))
        (Path(scene) / "off.png").unlink()
        (Path(scene) / "output_red.png").write_bytes(photo_bytes(size=(24, 16)))
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "mini").symlink_to(ROOT / "ckpt" / "mini")
    monkeypatch.setattr("lumiply.api.build_engine", lambda settings: FakeEngine())
    monkeypatch.setattr("lumiply.commands.serve.wait", lambda stop, *rest: stop.set())
    monkeypatch.setattr("lumiply.commands.serve.choose_tunnel", lambda settings: NoTunnel("a test"))
    repos = {
        LUMIPLY: Repo({"ckpt/trained_crossattn.ckpt": b"w" * 400, "adaptors/adaptor_red.pth": b"r" * 300}),
        LUMINET: Repo({"new_decoder.ckpt": b"d" * 200, "last.pth.tar": b"l" * 100}, True, ("hf_good",)),
    }
    with FakeHub(repos) as hub:
        monkeypatch.setattr("lumiply.commands.fetch.Hub", lambda: Hub(hub.url, "hf_good"))
        yield tmp_path


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    """What answers at the address that the documents show."""
    app = create_app(Settings(results_dir=tmp_path / "served"), FakeEngine())
    yield app.test_client()
    site_of(app).close()


@pytest.mark.parametrize("lines", cases())
def test_every_line_of_the_block_works(
    lines: list[str], reader: Path, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in lines:
        words = shlex.split(line, comments=True)
        if not words:
            continue
        handler = HANDLERS.get(words[0])
        assert handler is not None, f"{line!r}: tests/test_docs.py does not know how to run {words[0]!r}"
        handler(words, client, monkeypatch)


def _lumiply(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[1] in COMMANDS, words
    if words[1] not in RUN:
        return
    result = CliRunner().invoke(main, [*words[1:], *RUN[words[1]]])
    # The doctor may find something on the machine that tests run on; evaluate, that colours have no truth.
    allowed = (0, 1) if words[1] in ("doctor", "evaluate") else (0,)
    assert result.exit_code in allowed, f"{' '.join(words)}: {result.output}"
    assert "error:" not in result.stderr, result.stderr


def _curl(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    base, path = re.fullmatch(r"(http://127\.0\.0\.1:5000)(/\S*)", words[-1]).groups()  # type: ignore[union-attr]
    fields = dict(word.split("=", 1) for flag, word in zip(words, words[1:], strict=False) if flag == "-F")
    if not fields:
        assert client.get(path, base_url=base).status_code == 200
        return
    photo = Path(fields.pop("image").removeprefix("@"))
    assert (ROOT / photo).is_file()
    form = {**fields, "image": (BytesIO(photo.read_bytes()), photo.name)}
    assert client.post(path, data=form, base_url=base).status_code == 200


def _export(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in words[1:]:
        name, _, value = word.partition("=")
        known = {row[0] for row in Settings.describe()} | {"NGROK_AUTHTOKEN", "HF_TOKEN"}
        assert name in known or name.startswith("AWS_"), name
        if name == "LUMIPLY_RESULTS_URL":
            pytest.importorskip("s3fs", reason="needs lumiply[cluster]")
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # nobody listens there
        monkeypatch.setenv(name, "token-of-the-reader" if value == "..." else value)


def _make(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = [word for word in words[1:] if "=" not in word]
    assert asked and set(asked) <= targets, words


def _python(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None, words
    else:
        assert (ROOT / words[1]).is_file(), words


def _pip(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (
        (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    )
    extras = re.findall(r"^(\w+) = ", section, re.M)
    assert set(re.findall(r"\[(\w+)\]", " ".join(words))) <= set(extras), words


def _ray(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[:2] == ["ray", "start"], words


def _serve(words: list[str], client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[1] == "deploy" and (ROOT / words[2]).is_file(), words


HANDLERS: dict[str, Callable[[list[str], FlaskClient, pytest.MonkeyPatch], None]] = {
    "lumiply": _lumiply,
    "curl": _curl,
    "export": _export,
    "make": _make,
    "python": _python,
    "pip": _pip,
    "ray": _ray,
    "serve": _serve,
}


PYTHON = [
    pytest.param(block, id=f"{page.name}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"^```python\n(.*?)```", page.read_text(), re.S | re.M))
]


@pytest.mark.parametrize("source", PYTHON)
def test_every_python_example_works(source: str, reader: Path) -> None:
    for part in ("train", "validation"):
        make_scenes(Path("data/crossattn") / part, 1, "off", "on")
    app = create_app(Settings(results_dir=reader / "served"), FakeEngine())
    server = FlaskServerThread(app, "127.0.0.1", 0).start()
    try:
        exec(source.replace("http://127.0.0.1:5000", server.url), {})
    finally:
        site_of(app).close()
        server.shutdown()
        close_engine()
    assert [*reader.rglob("output_red.jpg")] or "red" not in source


def test_commands_are_shown_at_all() -> None:
    lines = [line for _, block in blocks() for line in block]
    assert len(lines) > 50 and all(any(line.startswith(f"lumiply {name}") for line in lines) for name in RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {row[0] for row in Settings.describe()}
    named = set(re.findall(r"\bLUMIPLY_[A-Z][A-Z_]*[A-Z]\b", page.read_text()))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_its_heading_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target, heading in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", text):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading[1:] in slugs, heading


@pytest.mark.parametrize(
    "pattern", [r"(?m)^curl .*$", r"(?s)```json\n(.*?)```", r"(?m)^make \w+", r"(?s)```python\n(.*?)```"]
)
def test_both_readmes_show_the_same_requests(pattern: str) -> None:
    english, korean = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))
    assert re.findall(pattern, english) == re.findall(pattern, korean) != []
