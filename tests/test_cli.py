"""The command line: help, exit codes, one-line errors, and each command's way from start to end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import lumiply
from lumiply import client
from lumiply.cli import COMMANDS, main
from lumiply.colors import COLORS
from lumiply.errors import RemoteError, WeightsError
from lumiply.images import read_photo
from tests.fakes import PATIENCE_S, FakeEngine, photo_bytes


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own, without settings from outside."""
    for name in list(os.environ):
        if name.startswith("LUMIPLY_") or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room.png").write_bytes(photo_bytes())
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("lumiply.api.build_engine", lambda settings: fake)
    return fake


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_mistake_names_the_help_that_corrects_it() -> None:
    assert "See `lumiply --help`" in run("relihgt")[2]
    assert "See `lumiply relight --help`" in run("relight", "room.png", "--color", "pink")[2]
    assert "See `lumiply train --help`" in run("train", "nothing")[2]


def test_help_shows_what_may_be_chosen() -> None:
    _, out, _ = run("serve", "--help")
    assert "--tunnel [auto|ngrok|none]" in out and "--preset [exact|balanced|fast]" in out
    assert "usage: lumiply bench" in run("bench", "--help")[1]


def test_a_reader_that_has_enough_is_no_error() -> None:
    root = Path(lumiply.__file__).parents[1]
    line = f"{sys.executable} -m lumiply doctor | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_help_names_every_command() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


def test_version() -> None:
    assert run("--version")[:2] == (0, f"lumiply, version {lumiply.__version__}\n")


@pytest.mark.parametrize("command", ["serve", "relight", "demo"])
def test_every_command_has_help(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "LUMIPLY_SEED" in out


def test_help_and_the_package_load_nothing_heavy() -> None:
    code = (
        "import sys, lumiply\n"
        "from lumiply.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'flask', 'PIL', 'numpy') if name in sys.modules])"
    )
    root = Path(lumiply.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, timeout=60
    )
    assert done.stdout.endswith("[]\n")


def test_python_dash_m_works() -> None:
    root = Path(lumiply.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "lumiply", "--version"], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"lumiply, version {lumiply.__version__}\n")


def test_everything_promised_can_be_imported() -> None:
    assert all(getattr(lumiply, name) is not None for name in lumiply.__all__)
    assert set(lumiply.__all__) <= set(dir(lumiply))
    with pytest.raises(AttributeError, match="nothing_such"):
        lumiply.nothing_such  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["fly"], 2, "fly"),
        (["serve", "--fly"], 2, "--fly"),
        (["serve", "--port", "99999"], 2, "port must be a whole number from 0 to 65535"),
        (["relight", "nowhere.png"], 2, "nowhere.png"),
        (["relight"], 2, "PHOTO"),
        (["relight", "room.png", "--color", "pink"], 2, "pink"),
        (["demo"], 2, "Name a photo with --photo"),
    ],
)
def test_errors_are_one_line_on_stderr(
    arguments: list[str], code: int, part: str, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> None:
    monkeypatch.setattr("lumiply.demo.SAMPLES", "nothing_*.png")
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, "")
    assert err.startswith("lumiply: error: ") and part in err and err.count("\n") == 1


def test_a_bad_variable_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_PROT", "1")
    code, _, err = run("serve")
    assert (code, err.count("\n")) == (2, 1)
    assert "LUMIPLY_PORT" in err


@pytest.mark.parametrize(
    ("error", "part"), [(WeightsError("no file x"), "no file x"), (KeyError("x"), "KeyError")]
)
@pytest.mark.parametrize("command", [["relight", "room.png"], ["serve", "--port", "0"]])
def test_an_engine_that_cannot_be_had_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, command: list[str], error: Exception, part: str
) -> None:
    def refuse(settings: object) -> None:
        raise error

    monkeypatch.setattr("lumiply.api.build_engine", refuse)
    code, _, err = run(*command)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("lumiply: error: ") and part in last


def test_a_port_in_use_ends_with_1(engine: FakeEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, _, err = run("serve", "--port", str(listener.getsockname()[1]))
    assert code == 1
    assert "--port" in err


def test_relight_writes_all_seven_colours_and_prints_their_paths(here: Path, engine: FakeEngine) -> None:
    code, out, err = run("relight", "room.png")
    assert code == 0
    assert out.splitlines() == [f"relit/output_{color}.jpg" for color in COLORS]
    assert all(read_photo(here / line).size == (40, 30) for line in out.splitlines())
    assert "100%" in err
    assert engine.closed


def test_relight_takes_colours_seed_steps_and_a_folder(here: Path, engine: FakeEngine) -> None:
    code, out, _ = run(
        "relight",
        "room.png",
        "--color",
        "blue",
        "--color",
        "red",
        "--out",
        "there/new",
        "--seed",
        "5",
        "--steps",
        "3",
    )
    assert code == 0
    assert out.splitlines() == ["there/new/output_red.jpg", "there/new/output_blue.jpg"]
    assert (engine.renders[0].seed, engine.renders[0].steps) == (5, 3)


def test_a_photo_that_cannot_be_used_is_named_in_english_and_the_others_go_on(
    here: Path, engine: FakeEngine
) -> None:
    (here / "notes.png").write_text("milk, bread")
    (here / "huge.png").write_bytes(photo_bytes(size=(2000, 1000)))
    code, out, err = run(
        "relight", "notes.png", "huge.png", "room.png", "--color", "red", "--max-megapixels", "1"
    )
    assert out.splitlines() == ["relit/room/output_red.jpg"]
    assert "notes.png: no readable picture (11 bytes arrived)." in err
    assert "huge.png: the picture is too large: 2.0 megapixels, at most 1 megapixels." in err
    assert "photos that could not be used: 2 of 3" in err and not re.search("[가-힣]", err)
    assert code == 2


def test_several_photos_get_a_folder_each(here: Path, engine: FakeEngine) -> None:
    (here / "b").mkdir()
    (here / "b" / "room.png").write_bytes(photo_bytes(red=9))
    code, out, _ = run("relight", "room.png", "b/room.png", "--color", "red")
    assert code == 0
    assert out.splitlines() == ["relit/room/output_red.jpg", "relit/room-2/output_red.jpg"]


class Visitor(threading.Thread):
    """Waits until a server answers, does something there, then sends the test's process a signal."""

    def __init__(self, port: int, number: int, visit: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}"
        self.number = number
        self.visit = visit
        self.error: BaseException | None = None
        self._given_up = threading.Event()

    def run(self) -> None:
        try:
            self._wait_for_engine()
            self.visit(self.url)
        except BaseException as exc:
            self.error = exc
        finally:
            os.kill(os.getpid(), self.number)

    def _wait_for_engine(self) -> None:
        for _ in range(int(PATIENCE_S / 0.02)):
            try:
                if json.loads(client.fetch(f"{self.url}/health"))["engine"] == "ready":
                    return
            except RemoteError:
                pass
            self._given_up.wait(0.02)
        raise TimeoutError("no server came up")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_a_signal_and_ends_with_0(here: Path, engine: FakeEngine, number: int) -> None:
    port = free_port()

    def visit(url: str) -> None:
        result = client.process(url, here / "room.png", "job", "red")["result"]
        assert client.fetch(result["images"]["red"])

    visitor = Visitor(port, number, visit)
    visitor.start()
    code, out, _ = run("serve", "--port", str(port), "--results-dir", "results")
    visitor.join(PATIENCE_S)
    assert visitor.error is None
    assert code == 0
    assert f"http://127.0.0.1:{port}/process" in out
    assert out.endswith("Stopped.\n")
    assert (here / "results" / "job" / "output_red.jpg").is_file()
    assert engine.closed


def test_serve_can_be_stopped_while_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()

    def load(settings: object) -> FakeEngine:
        os.kill(os.getpid(), signal.SIGTERM)
        loaded.wait(PATIENCE_S)
        return FakeEngine()

    monkeypatch.setattr("lumiply.api.build_engine", load)
    code, out, _ = run("serve", "--port", "0")
    loaded.set()
    assert code == 0
    assert "Ready" not in out


def test_demo_serves_on_after_the_sheet_until_a_signal(here: Path, engine: FakeEngine) -> None:
    port = free_port()
    sheet = here / "images" / "inference" / "demo" / "sheet.jpg"

    def visit(url: str) -> None:
        for _ in range(int(PATIENCE_S / 0.02)):
            if sheet.is_file():
                break
            visitor._given_up.wait(0.02)
        assert client.fetch(f"{url}/static/inference/demo/sheet.jpg")

    visitor = Visitor(port, signal.SIGINT, visit)
    visitor.start()
    code, out, _ = run("demo", "--photo", "room.png", "--port", str(port))
    visitor.join(PATIENCE_S)
    assert visitor.error is None
    assert code == 0
    assert "Serving on. Ctrl-C ends." in out
