"""A shell in a reader's folder: each program that documents call, run in this process where that can be."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest
import torch
from click.testing import CliRunner
from flask.testing import FlaskClient

from lumiply.cli import main
from lumiply.settings import Settings
from lumiply.synth.backend import RendererUnavailable, load_mitsuba
from lumiply.synth.render import RoomLayers
from lumiply.synth.spec import RoomSpec
from tests.documents.pages import ASSIGNMENT, ROOT
from tests.documents.small import ADDED, UNRUN, WHOLE, WITH_RAY, row
from tests.training.conftest import made_up_room

#: Files and folders that a line means by these words.
MEANT: Final = {"PHOTO...": "photo.jpg", "FOLDER": "photos", "DIR": "measured"}
#: The doctor may find something on the machine that tests run on; evaluate, that colours have no truth.
MAY_END_WITH_1: Final = ("doctor", "evaluate")
#: Beginnings of variables that make is not to see: those of a make around the tests, and what CI exports.
GIVEN_TO_MAKE: Final = ("MAKE", "MFLAGS", "EXTRAS", "ARGS", "PYTHON")


class Parsed(Exception):
    """Raised in place of the work, once a command's own parser has read its arguments."""


@dataclass
class Shell:
    """Runs lines as they stand in a document, made small.

    Attributes:
        client: answers at the address that the documents show.

    """

    client: FlaskClient
    monkeypatch: pytest.MonkeyPatch

    def run(self, line: str) -> None:
        """Run one line.

        Raises:
            AssertionError: it fails, or nothing here knows how to run it.
        """
        line = WHOLE.get(line, line)
        words = [MEANT.get(word, word) for word in shlex.split(line, comments=True)]
        if not words:
            return
        words = words[sum(ASSIGNMENT.fullmatch(word) is not None for word in words[:1]) :]
        plain = shlex.join(words)
        if (unrun := row(plain, UNRUN)) is not None:
            if UNRUN[unrun].parsed:
                self.parse(words)
            return
        if row(plain, WITH_RAY) is not None:
            return
        name = words[0].strip(".").replace("/", "_")
        program: Callable[[list[str]], None] | None = getattr(self, f"run_{name}", None)
        assert program is not None, f"{line!r}: nothing here knows how to run {words[0]!r}"

        program(words)

    def parse(self, words: list[str]) -> None:
        """Let a `python ...` command's own parser read its arguments, and stop there."""

        def stopped(parser: argparse.ArgumentParser, *given: object) -> None:
            original(parser, *given)  # type: ignore[arg-type]
            raise Parsed

        original = argparse.ArgumentParser.parse_args
        with self.monkeypatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(argparse.ArgumentParser, "parse_args", stopped)
            self._python(words)

    def run_lumiply(self, words: list[str]) -> None:
        if words[1] == "synth" and not renders_here():
            self.monkeypatch.setattr("lumiply.synth.command.Renderer", MadeUpRenderer)
        result = CliRunner().invoke(main, made_small(words)[1:], catch_exceptions=False)
        allowed = (0, 1) if words[1] in MAY_END_WITH_1 else (0,)
        assert result.exit_code in allowed, f"{shlex.join(words)}: {result.output}"
        assert "error:" not in result.stderr, result.stderr

    def run_python(self, words: list[str]) -> None:
        if words[2] == "benchmarks.cluster_throughput":  # with the engine of one replica, in this process
            pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")
            self.monkeypatch.setattr("lumiply.cluster.start.connect", lambda settings, load: load())
        words = made_small(words)
        target = None
        if ">" in words:
            words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = self._python(words)
        assert code in (None, 0), f"{shlex.join(words)} ended with {code}: {said.getvalue()}"
        if target is not None:
            Path(target).parent.mkdir(exist_ok=True)
            Path(target).write_text(said.getvalue())

    def _python(self, words: list[str]) -> object:
        """What the program ended with. As `python` starts it: a file of the project, or a module by its name."""
        script = words[1] != "-m"
        arguments = words[2:] if script else words[3:]
        with self.monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr(sys, "argv", [words[1], *arguments])
            patch.setattr(os, "_exit", sys.exit)  # which would end the tests
            warnings.filterwarnings("ignore", ".*found in sys.modules after import", RuntimeWarning)
            try:
                if script:
                    runpy.run_path(str(ROOT / words[1]), run_name="__main__")
                else:
                    runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            except SystemExit as end:
                return end.code
        return None

    def run_curl(self, words: list[str]) -> None:
        found = re.fullmatch(r"(http://127\.0\.0\.1:5000)(/\S*)", words[-1])
        assert found is not None, words
        base, path = found.groups()
        fields = dict(
            word.split("=", 1) for flag, word in zip(words, words[1:], strict=False) if flag == "-F"
        )
        if not fields:
            assert self.client.get(path, base_url=base).status_code == 200
            return
        photo = Path(fields.pop("image").removeprefix("@"))
        assert (ROOT / photo).is_file()
        form = {**fields, "image": (io.BytesIO(photo.read_bytes()), photo.name)}
        assert self.client.post(path, data=form, base_url=base).status_code == 200

    def run_export(self, words: list[str]) -> None:
        for word in words[1:]:
            name, _, value = word.partition("=")
            known = {row[0] for row in Settings.describe()} | {"NGROK_AUTHTOKEN", "HF_TOKEN"}
            assert name in known or name.startswith("AWS_"), name
            if name == "LUMIPLY_RESULTS_URL":
                pytest.importorskip("s3fs", reason="needs lumiply[cluster]")
                self.monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # nobody listens there
            self.monkeypatch.setenv(name, "token-of-the-reader" if value == "..." else value)

    def run_make(self, words: list[str]) -> None:
        """make would run what CI runs; of `make demo`, which CI has not, the last command is run here."""
        goals = [word for word in words[1:] if "=" not in word]
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        set_up, recipe = dry_run(words[1:])
        assert f'--editable ".[{given.get("EXTRAS", "development")}]"' in set_up or goals == ["demo"]
        if goals == ["demo"]:
            program, *rest = shlex.split(recipe[-1])
            assert program == ".venv/bin/python" and rest[:2] == ["-m", "lumiply"]
            self.run_lumiply(["lumiply", *rest[2:]])
            return
        in_ci = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.M)
        assert goals and set(goals) <= {*in_ci, "check"}
        added = given.get("ARGS", "")
        assert recipe[-1].endswith(added)
        assert [*recipe[:-1], recipe[-1].removesuffix(added)] == dry_run(
            in_ci if goals == ["check"] else goals
        )[1]

    def run_pip(self, words: list[str]) -> None:
        """pip finds every package of the extra here, in a version that the extra allows, and fetches nothing."""
        (asked,) = [word for word in words[2:] if not word.startswith("-")]
        project, extras = re.fullmatch(r"(\.|lumiply)\[([\w,]+)\]", asked).groups()  # type: ignore[union-attr]
        assert (project == ".") == ("-e" in words), "only a checkout is installed in place"
        provided = metadata.metadata("lumiply").get_all("Provides-Extra")
        section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
        written = re.findall(r"^(\w+) = ", section.split("\n[")[0], re.M)
        assert set(extras.split(",")) <= set(written) and sorted(provided or ()) == sorted(written)
        if "cluster" in extras and importlib.util.find_spec("ray") is None:
            pytest.skip("needs lumiply[cluster]")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", f"lumiply[{extras}]"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and "Would install" not in done.stdout, done.stderr

    def run_hf(self, words: list[str]) -> None:
        hf = Path(sys.executable).with_name("hf")
        done = subprocess.run([str(hf), *words[1:]], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def run_ci_run(self, words: list[str]) -> None:
        file = ROOT / ".ci" / "run"
        assert os.access(file, os.X_OK)
        subprocess.run(["bash", "-n", str(file)], check=True)


@lru_cache
def renders_here() -> bool:
    """Whether a Mitsuba variant starts; without one the renderer's own tests are skipped."""
    try:
        load_mitsuba()
    except RendererUnavailable:
        return False
    return True


class MadeUpRenderer:
    """In the place of the renderer where none starts: rooms from numbers alone."""

    def __init__(self, variant: str | None, *, size: int, **options: object) -> None:
        self.size = size

    def render(self, spec: RoomSpec) -> RoomLayers:
        return made_up_room(spec.seed, self.size)


def made_small(words: list[str]) -> list[str]:
    """The words with what `ADDED` adds, before a redirection.

    Raises:
        AssertionError: no row is meant for this command.
    """
    key = row(shlex.join(words), ADDED)
    assert key is not None, f"{shlex.join(words)!r}: tests/documents/small.py has no row for it"
    if "--help" in words:
        return words
    end = words.index(">") if ">" in words else len(words)
    return [*words[:end], *ADDED[key].split(), *words[end:]]


def dry_run(arguments: list[str]) -> tuple[str, list[str]]:
    """(how make would set up .venv, the commands that it would run then)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(GIVEN_TO_MAKE)}
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments],
        cwd=ROOT, env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    set_up, _, recipe = done.stdout.rpartition("\ntouch ")
    return set_up, recipe.splitlines()[1:]


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Put back what training and commands change for the whole process."""
    environ, arguments = dict(os.environ), sys.argv[:]
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn, handlers, level = torch.backends.cudnn.benchmark, logging.root.handlers[:], logging.root.level
    torch.set_num_threads(1)  # tiny models gain nothing from more
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environ)
        sys.argv[:] = arguments
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = cudnn
        logging.root.handlers[:], logging.root.level = handlers, level
