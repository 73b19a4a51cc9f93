"""`lumiply train`: from folders of photos to files that a server loads, and one line for every mistake."""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from lumiply.cli import main
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.start import initialize_engine
from lumiply.settings import Settings
from lumiply.training import tuning_jobs
from lumiply.weights import load_model, read_adaptor, read_state, save_adaptor
from tests.nano import NANO, nano_adaptor
from tests.photos import make_scene, make_split
from tests.training.nano_files import write_own_nano, write_published_nano

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
PHOTO = Image.new("RGB", (50, 40), (90, 80, 70))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with photos in white and red, a published base and one of our own; logging as it was."""
    monkeypatch.chdir(tmp_path)
    for name in ("LUMIPLY_CKPT_DIR", "LUMIPLY_ADAPTORS_DIR"):
        monkeypatch.delenv(name, raising=False)
    make_split(Path("photos"), train=2, validation=1)
    write_published_nano(Path("ckpt"))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield tmp_path
    logging.root.handlers[:], logging.root.level = handlers, level


def train(line: str) -> Result:
    return CliRunner().invoke(main, ["train", *shlex.split(line)])


COMMON = (
    "--data photos --base ckpt/trained_crossattn.ckpt --config ckpt/nano.yaml --device cpu --workers 0"
    " --picture-steps 2 --epochs 1 --batch 2"
)


def test_crossattn_writes_a_model_that_relights(here: Path) -> None:
    done = train(f"crossattn {COMMON} --out runs/c --learning-rate 0.001 --gradient-checkpointing")
    assert done.exit_code == 0, done.stderr
    assert re.search(
        r"epoch 1 of 1 is the best: validation loss \d\.\d+, \d\.\d+ before training", done.output
    )
    assert "written: runs/c/trained_crossattn.ckpt" in done.output
    before, after = read_state("ckpt/trained_crossattn.ckpt"), read_state("runs/c/trained_crossattn.ckpt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(
        re.search(r"\.(transformer_blocks|proj_in|proj_out|norm)\.", name) for name in changed
    )
    pictures = [
        Pipeline(load_model(NANO, checkpoint, bypass="ckpt/new_decoder.ckpt"), {}).relight(
            PHOTO, ["white"], seed=1, steps=2
        )["white"]
        for checkpoint in ("ckpt/trained_crossattn.ckpt", "runs/c/trained_crossattn.ckpt")
    ]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_adaptors_are_written_where_the_server_looks_in_the_published_layout(here: Path) -> None:
    done = train(f"adaptors {COMMON} --out runs/a --color red --color white --learning-rate 0.01")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in Path("adaptors").iterdir()) == [
        "adaptor_red.pth",
        "adaptor_white.pth",
    ]
    stored = torch.load("adaptors/adaptor_red.pth", weights_only=True)
    assert {part: sorted(stored[part]) for part in stored} == {
        "light_encoder": ["0.bias", "0.weight", "2.bias", "2.weight"],
        "light_decoder": ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"],
    }
    red, white = (read_adaptor(f"adaptors/adaptor_{color}.pth", NANO) for color in ("red", "white"))
    assert not torch.equal(red.light_encoder["0.weight"], white.light_encoder["0.weight"])
    assert not torch.equal(red.light_decoder["0.weight"], white.light_decoder["0.weight"])
    model = load_model(NANO, "ckpt/trained_crossattn.ckpt", bypass="ckpt/new_decoder.ckpt")
    assert Pipeline(model, {"red": red}).relight(PHOTO, ["red"], seed=1, steps=2)


def test_an_adaptor_that_is_there_is_kept(here: Path) -> None:
    Path("adaptors").mkdir()
    save_adaptor("adaptors/adaptor_red.pth", nano_adaptor("blue"))
    for epochs in (1, 1, 2):  # what was written becomes what --start finds, which a run that goes on ignores
        done = train(f"adaptors {COMMON} --out runs/a --color red --start adaptors --epochs {epochs}")
        assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in Path("adaptors").iterdir()) == [
        "adaptor_red.pth", "adaptor_red.pth.before", "adaptor_red.pth.before1",
    ]  # fmt: skip
    kept = read_adaptor("adaptors/adaptor_red.pth.before", NANO)
    assert torch.equal(kept.light_encoder["0.weight"], nano_adaptor("blue").light_encoder["0.weight"])


def test_adaptors_go_where_the_setting_says(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_ADAPTORS_DIR", "shelf")
    assert train(f"adaptors {COMMON} --out runs/a --color red").exit_code == 0
    assert [path.name for path in Path("shelf").iterdir()] == ["adaptor_red.pth"]


def test_a_result_is_not_taken_for_a_former_one(here: Path) -> None:
    for _ in range(2):
        assert train(f"adaptors {COMMON} --out runs/a --color red").exit_code == 0
    assert [path.name for path in Path("adaptors").iterdir()] == ["adaptor_red.pth"]


@pytest.mark.parametrize("kind", ["crossattn", "adaptors --color red"])
def test_the_mini_model_gets_a_folder_that_a_server_starts_from(here: Path, kind: str) -> None:
    folder = Path("mine/mini")
    base = write_own_nano(folder)
    save_adaptor(folder / "adaptor_blue.safetensors", nano_adaptor("blue"))
    stored = {path: path.read_bytes() for path in folder.iterdir()}
    done = train(f"{kind} {COMMON.replace('ckpt/trained_crossattn.ckpt', str(base))} --out runs/m")
    assert done.exit_code == 0, done.stderr
    result = Path("runs/m/ckpt/mini")
    adaptor = ["adaptor_red.pth"] if "red" in kind else []
    assert sorted(path.name for path in result.iterdir()) == [
        "adaptor_blue.safetensors", *adaptor, "lumiply_mini.safetensors",
    ]  # fmt: skip
    load_model(NANO, result / "lumiply_mini.safetensors")
    assert {path: path.read_bytes() for path in folder.iterdir()} == stored


def test_the_shipped_mini_model_is_trained_and_served(here: Path) -> None:
    line = COMMON.replace("ckpt/trained_crossattn.ckpt --config ckpt/nano.yaml", "mini")
    Path("ckpt/mini").symlink_to(ROOT / "ckpt/mini")
    done = train(f"adaptors {line} --out runs/m --color red --start ckpt/mini --batch 1")
    assert done.exit_code == 0, done.stderr
    engine = initialize_engine(Settings(model="mini", ckpt_dir=Path("runs/m/ckpt"), device="cpu"))
    try:
        assert engine.info.colors == COLORS
        assert engine.submit(PHOTO, ["red"]).result(60)["red"].size == PHOTO.size
    finally:
        engine.close(10)


# mistakes


@pytest.mark.parametrize(
    "line, code, said",
    [
        ("crossattn --data nowhere --base ckpt/trained_crossattn.ckpt", 2, "nowhere cannot be read"),
        ("crossattn --data empty --base ckpt/trained_crossattn.ckpt", 2, "no folder train"),
        ("crossattn --data photos --base ckpt/no.ckpt", 1, "no.ckpt: there is no such checkpoint"),
        ("crossattn --data photos --base mini", 1, "there is no lumiply_mini.safetensors"),
        ("crossattn --data photos --base ckpt/trained_crossattn.ckpt", 1, "is not complete"),
        ("crossattn --data photos --base ckpt/new_decoder.ckpt", 1, "holds a bypass autoencoder"),
        (f"adaptors {COMMON} --color blue", 2, "photos/train: none of its 2 scenes has a photo blue"),
        (f"adaptors {COMMON}", 2, "has a photo orange"),
        (f"adaptors {COMMON} --color red --start empty", 1, "empty: holds no adaptor of red"),
        (f"adaptors {COMMON} --color pink", 2, "'pink' is not one of"),
        (f"crossattn {COMMON} --device cuda:7", 2, "cuda:7"),
        (f"crossattn {COMMON} --out photos/train/room00/on.png/x", 2, "cannot be written"),
        (f"crossattn {COMMON} --ema 1", 2, "--ema"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(here: Path, line: str, code: int, said: str) -> None:
    Path("empty").mkdir()
    done = train(line)
    error = [row for row in done.stderr.splitlines() if row.startswith("lumiply: error:")]
    assert done.exit_code == code and len(error) == 1, done.stderr
    assert said in error[0]
    assert not Path("adaptors").exists()


def test_a_photo_that_is_damaged_behind_its_header_is_told_before_training(here: Path) -> None:
    scene = make_scene(Path("photos/validation/zz"), seed=5)
    whole = (scene / "on.png").read_bytes()
    (scene / "on.png").write_bytes(whole[: len(whole) // 2])
    done = train(f"crossattn {COMMON}")
    assert done.exit_code == 2 and "zz/on.png cannot be read: replace it" in done.stderr
    assert not list(Path("runs/crossattn/checkpoints").iterdir())


def test_without_the_training_extra_the_command_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    for name in [name for name in sys.modules if name.startswith("lumiply.training.")]:
        monkeypatch.delitem(sys.modules, name)
    done = train(f"crossattn {COMMON}")
    assert done.exit_code == 1 and "pip install 'lumiply[training]'" in done.stderr


# the ways in


def test_the_group_names_its_trainings_and_mini_is_the_former_command(here: Path) -> None:
    listed = train("--help")
    assert listed.exit_code == 0 and all(name in listed.output for name in ("crossattn", "adaptors", "mini"))
    forwarded = train("mini --help")
    assert forwarded.exit_code == 0 and "--rooms" in forwarded.output
    group = main.get_command(click.Context(main), "train")
    assert isinstance(group, click.Group)
    assert group.get_command(click.Context(group), "mini").callback.__module__ == "lumiply.training.command"
    assert train("nothing").exit_code == 2


@pytest.mark.parametrize("name", ["crossattn", "adaptors"])
def test_the_scripts_at_the_root_are_the_commands(name: str) -> None:
    script = subprocess.run(
        [sys.executable, str(ROOT / f"train_{name}.py"), "--help"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    command = CliRunner().invoke(main, ["train", name, "--help"], prog_name="lumiply")
    assert script.stdout.split() == command.stdout.split() and "--base" in script.stdout


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from lumiply.cli import main\n"
        "main(['train', 'adaptors', '--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'pytorch_lightning') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_all_colours_are_six(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def note(job: object, colors: list[str], *rest: object) -> tuning_jobs.Written:
        asked.append(colors)
        raise click.ClickException("noted")

    monkeypatch.setattr(tuning_jobs, "train_adaptors", note)
    for line in ("", "--color all", "--color all --color red", "--color blue --color red"):
        train(f"adaptors {COMMON} {line}")
    assert asked == [*[sorted(COLORS[1:])] * 3, ["blue", "red"]]
