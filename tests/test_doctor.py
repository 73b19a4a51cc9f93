"""`lumiply doctor`: what it finds on machines of every kind, and how it tells it."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lumiply.cli import main
from lumiply.doctor import Finding, Gpu, Machine, check_disk, check_tokens, examine
from lumiply.server import FlaskServerThread, create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import FakeEngine

ROOT = Path(__file__).parents[1]
LAPTOP = Machine((3, 11, 7), "2.13.0+cpu", "", None, (), 16.0, False)
COLAB = replace(LAPTOP, torch="2.9.0+cu128", cuda="12.8", gpus=(Gpu("Tesla T4", 15.8, 15.5),), nvidia=True)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LUMIPLY_", "HF_")) or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        port=0, ckpt_dir=ROOT / "ckpt", adaptors_dir=tmp_path / "adaptors", results_dir=tmp_path / "results"
    )


@pytest.fixture
def full(tmp_path: Path, settings: Settings) -> Settings:
    """Settings under which the full model's files seem to be there."""
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "adaptors").mkdir()
    for name in ("trained_crossattn.ckpt", "new_decoder.ckpt"):
        (tmp_path / "ckpt" / name).write_bytes(bytes(1000))
    for color in ("red", "orange", "yellow", "green", "blue", "purple"):
        (tmp_path / "adaptors" / f"adaptor_{color}.pth").write_bytes(bytes(1000))
    return settings.replace(ckpt_dir=tmp_path / "ckpt")


def find(settings: Settings, machine: Machine, name: str) -> Finding:
    return next(finding for finding in examine(settings, machine) if finding.name == name)


def test_a_laptop_with_the_mini_model_is_all_right(settings: Settings) -> None:
    assert {finding.state for finding in examine(settings, LAPTOP)} == {"ok"}
    assert "lumiply fetch" in find(settings, LAPTOP, "weights").remedy


def test_colab_with_the_full_model_is_all_right(full: Settings) -> None:
    assert {finding.state for finding in examine(full, COLAB)} == {"ok"}
    assert "Tesla T4, 15.5 of 15.8 GB free" in find(full, COLAB, "device").text


@pytest.mark.parametrize(
    ("machine", "name", "state", "part"),
    [
        (replace(LAPTOP, python=(3, 9, 1)), "Python", "problem", "Install Python 3.10 to 3.13"),
        (replace(LAPTOP, torch=None, torch_error="OSError: x"), "torch", "problem", "pip install torch"),
        (replace(LAPTOP, torch="2.1.0"), "torch", "problem", "torch>=2.4"),
        (replace(LAPTOP, nvidia=True), "torch", "warning", "pytorch.org/get-started"),
        (LAPTOP, "device", "warning", "Change runtime type"),
        (replace(COLAB, gpus=(Gpu("Small", 4.0, 4.0),)), "device", "problem", "LUMIPLY_MODEL=mini"),
        (replace(COLAB, gpus=(Gpu("T4", 15.8, 3.0),)), "device", "warning", "nvidia-smi"),
        (replace(COLAB, ram=1e-6), "memory", "warning", "more memory"),
    ],
)
def test_what_is_wrong_has_a_remedy(
    full: Settings, machine: Machine, name: str, state: str, part: str
) -> None:
    finding = find(full, machine, name)
    assert finding.state == state and part in finding.remedy


def test_a_gpu_that_is_asked_for_must_be_there(full: Settings) -> None:
    assert find(full.replace(device="cuda"), LAPTOP, "device").state == "problem"
    assert find(full.replace(device="cuda:3"), COLAB, "device").state == "problem"
    assert find(full.replace(device="cuda:0"), COLAB, "device").state == "ok"


def test_missing_weights_and_adaptors_are_told(full: Settings, tmp_path: Path) -> None:
    (tmp_path / "adaptors" / "adaptor_blue.pth").unlink()
    finding = find(full, COLAB, "weights")
    assert finding.state == "warning" and "none for blue" in finding.text
    (tmp_path / "ckpt" / "new_decoder.ckpt").unlink()
    asked = full.replace(model="full")
    assert find(asked, COLAB, "weights").state == "problem"
    assert "lumiply fetch" in find(asked, COLAB, "weights").remedy
    assert "the full model on a CPU" in find(asked, LAPTOP, "device").text  # though none of it is there yet
    assert find(full, COLAB, "weights").state == "problem"  # nor is the mini model there


def test_tokens_are_looked_for_and_never_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    secret = settings.replace(ngrok_authtoken="sesame")
    assert find(secret, LAPTOP, "ngrok token").text == "set"
    assert find(secret, LAPTOP, "hub token").text == "set"
    assert "sesame" not in str(list(examine(secret, LAPTOP)))
    assert "NGROK_AUTHTOKEN" in find(settings, LAPTOP, "ngrok token").remedy


def test_a_port_in_use_is_told_and_who_is_there(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = settings.replace(port=listener.getsockname()[1])
        finding = find(busy, LAPTOP, "port")
    assert finding.state == "problem" and "LUMIPLY_PORT" in finding.remedy
    assert finding.text == f"127.0.0.1:{busy.port}: Address already in use"
    app = create_app(settings, FakeEngine())
    with FlaskServerThread(app, "127.0.0.1", 0) as server:
        finding = find(settings.replace(port=server.port), LAPTOP, "port")
    site_of(app).close()
    assert finding.state == "warning" and "Lumiply server answers" in finding.text


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    assert check_disk("results disk", tmp_path / "new" / "folder", 0.001).state == "ok"
    finding = check_disk("results disk", tmp_path, 1e9)
    assert finding.state == "warning" and "LUMIPLY_RESULTS_DIR" in finding.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "new/folder"])
def test_a_results_folder_that_is_a_file_or_below_one_is_a_problem(tmp_path: Path, below: str) -> None:
    (tmp_path / "notes").write_text("milk, bread")
    finding = check_disk("results disk", tmp_path / "notes" / below, 0.001)
    assert finding.state == "problem" and f"{tmp_path / 'notes'} is a file" in finding.text
    assert "LUMIPLY_RESULTS_DIR" in finding.remedy


def test_the_command_prints_a_line_each_and_ends_with_0_or_1(settings: Settings) -> None:
    words = ["doctor", "--ckpt-dir", str(settings.ckpt_dir), "--port", "0"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert re.search(r"^ok +weights +the embedded mini model", result.stdout, re.M)
    assert result.stdout.rstrip().endswith("Next: `lumiply serve`.")
    result = CliRunner().invoke(main, [*words, "--ckpt-dir", "nowhere"])
    assert result.exit_code == 1
    assert "problem  weights" in result.stdout and "1 problem to solve" in result.stdout


def test_json_for_scripts(settings: Settings) -> None:
    words = ["doctor", "--json", "--port", "0", "--ckpt-dir", str(settings.ckpt_dir)]
    result = CliRunner().invoke(main, words)
    found = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert found["Python"]["state"] == "ok" and set(found["port"]) == {"name", "state", "text", "remedy"}


def test_a_bad_setting_is_a_finding_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_PORT", "99999")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found[0]["name"], found[0]["state"]) == (1, "settings", "problem")
    assert "LUMIPLY_PORT" in found[0]["remedy"] and len(found) > 8


def test_this_machine_can_be_read() -> None:
    machine = Machine.read()
    assert machine.torch and machine.ram and machine.ram > 0.5


@pytest.mark.parametrize(
    ("values", "state", "words"),
    [
        ({"token": "sixteen-or-more-letters"}, "ok", "set: callers must bring it"),
        ({}, "ok", "need none"),
        ({"page": "token"}, "ok", "one is made"),
        ({"host": "0.0.0.0"}, "warning", "lets other machines in"),
    ],
)
def test_who_may_call_is_said_and_the_token_is_not(values: dict[str, str], state: str, words: str) -> None:
    first = next(iter(check_tokens(Settings(**values))))
    assert (first.name, first.state) == ("server token", state) and words in first.text
    assert "sixteen" not in str(first) and bool(first.remedy) == (state == "warning")
