"""The converted form: the same pictures from two small files, and an error for whatever does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from lumiply.cli import main
from lumiply.engine.convert import picture_psnr
from lumiply.engine.palette import Constants, Palette
from lumiply.engine.pipeline import Pipeline
from lumiply.errors import WeightsError
from lumiply.weights import Header, find_weights, load_converted, save_converted
from lumiply.weights.converted import NETWORKS, PALETTE, read_header
from lumiply.weights.model import TEXT
from tests.nano import NANO, nano_adaptor, nano_model, nano_pipeline

PHOTO = Image.radial_gradient("L").resize((60, 40)).convert("RGB")
COLORS = ("white", "red")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The nano model, converted."""
    model = nano_model()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    constants = Constants.of(model, {"red": nano_adaptor("red")})
    palette = constants.palette
    numbers = {"codes": palette.codes, "tokens": palette.tokens, "text": constants.text}
    return save_converted(tmp_path, state, numbers, Header("mini", "abc", palette.names))


def pipeline_of(files: tuple[Path, Path]) -> Pipeline:
    stored = load_converted(NANO, *files)
    return Pipeline(stored.model, Constants(Palette(stored.colors, stored.codes, stored.tokens), stored.text))


def test_pictures_stay_the_same_but_for_half_precision(files):
    ours = pipeline_of(files).relight(PHOTO, COLORS, seed=1, steps=4)
    exact = nano_pipeline().relight(PHOTO, COLORS, seed=1, steps=4)
    between_colors = picture_psnr(exact["white"], exact["red"])
    assert all(picture_psnr(ours[color], exact[color]) > between_colors + 5 for color in COLORS)


def test_networks_are_halved_and_whole_but_for_the_text_tower(files):
    with safe_open(files[0], framework="pt") as file:
        names = set(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.float16}
    assert names == {name for name in nano_model().state_dict() if not name.startswith(TEXT)}
    assert any(".light_encoder." in name for name in names) and any(
        ".light_decoder." in name for name in names
    )


def test_colours_and_prompt_are_exact(files):
    stored = load_converted(NANO, *files)
    assert stored.colors == COLORS
    assert torch.equal(stored.codes, nano_pipeline().palette.select(COLORS)[0])
    assert torch.equal(stored.text, nano_model().cond_stage_model())


def test_files_that_do_not_belong_together_are_refused(files, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    state = nano_model().state_dict()
    numbers = {
        "codes": torch.zeros(1, 16),
        "tokens": torch.zeros(1, 3, 32),
        "text": torch.zeros(1, 4, 32),
    }
    _, palette = save_converted(other, state, numbers, Header("mini", "xyz", ("white",)))
    with pytest.raises(WeightsError, match="not made together"):
        load_converted(NANO, files[0], palette)


def test_a_damaged_or_foreign_file_is_refused_with_the_remedy(files):
    files[0].write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(WeightsError, match="lumiply convert"):
        load_converted(NANO, *files)
    shutil.copy("ckpt/mini/lumiply_mini.safetensors", files[0])
    with pytest.raises(WeightsError, match="no converted model"):
        read_header(files[0])


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be halved"):
        save_converted(tmp_path, {"model.x": torch.tensor([1e6])}, {}, Header("mini", "", ()))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A copy of the shipped mini model's folder."""
    return Path(shutil.copytree("ckpt/mini", tmp_path / "ckpt" / "mini")).parent


def convert(mini: Path, *more: str):
    arguments = ["convert", "--model", "mini", "--ckpt-dir", str(mini), "--device", "cpu", "--steps", "1"]
    return CliRunner().invoke(main, [*arguments, *more])


def test_the_command_converts_the_mini_model_and_the_next_start_takes_it(mini, monkeypatch):
    result = convert(mini)
    assert result.exit_code == 0, result.output
    assert result.output.count("keeps") == 7 and NETWORKS in result.output
    found = find_weights(mini, mini / "none", "mini")
    assert found.checkpoint.name == NETWORKS and found.palette.name == PALETTE
    assert "converted" in found.describe() and "purple" in found.describe()
    original = find_weights(mini, mini / "none", "mini", converted=False)
    assert found.fingerprint() != original.fingerprint()
    before = [original.checkpoint, *original.adaptors.values()]
    assert sum(path.stat().st_size for path in (found.checkpoint, found.palette)) < sum(
        path.stat().st_size for path in before
    )
    assert [path.name for path in (mini / "mini").iterdir() if path.name.startswith(".")] == []
    # other weights beside it: it is not used, and that is said
    (mini / "mini" / "adaptor_red.safetensors").unlink()
    said: list[str] = []
    monkeypatch.setattr("lumiply.weights.find.log.warning", lambda text, *values: said.append(text))
    assert find_weights(mini, mini / "none", "mini").palette is None
    assert len(said) == 1 and "lumiply convert" in said[0]
    # without the original it is all that is needed
    for path in (mini / "mini").iterdir():
        if path.name not in (NETWORKS, PALETTE):
            path.unlink()
    assert find_weights(mini, mini / "none", "auto").palette is not None


def test_pictures_that_differ_too_much_are_not_written(mini, monkeypatch):
    monkeypatch.setattr("lumiply.engine.convert.picture_psnr", lambda ours, exact: 44.9)
    result = convert(mini)
    assert result.exit_code == 1 and "44.9 dB" in result.output and "Nothing was written" in result.output
    assert not (mini / "mini" / NETWORKS).exists()
