"""Which base a name means, and the whole model that is written: published names, nothing else changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cldm import ControlLDM, ControlLDMParams
from cldm.state import is_ignored
from ldm.schedule import NoiseSchedule
from lumiply.errors import WeightsError
from lumiply.training.crossattn import CrossAttentionTuning, model_names
from lumiply.training.tuning_base import find_base, load_base, merged, with_derived_names
from lumiply.weights import load_model, read_state
from lumiply.weights.model import FIRST_STAGE, PRIOR
from tests.nano import NANO
from tests.training.nano_files import published_state, write_own_nano, write_published_nano

GOLDEN = Path(__file__).parents[1] / "golden"
CKPT = Path(__file__).parents[2] / "ckpt"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published_nano(tmp_path / "ckpt")


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def trained_by(model: ControlLDM) -> dict[str, Tensor]:
    """What cross-attention training would change, changed."""
    trained = model_names(dict(CrossAttentionTuning(model).trained()))
    return {name: value.detach() + 1 for name, value in trained.items()}


# which base


def test_mini_is_the_embedded_model() -> None:
    found = find_base("mini", CKPT)
    assert found.checkpoint == CKPT / "mini" / "lumiply_mini.safetensors"
    assert found.variant == "mini" and found.config.name == "lumiply_mini.yaml" and not found.adaptors


def test_a_published_checkpoint_comes_with_what_stands_beside_it(published: Path) -> None:
    found = find_base(published, CKPT)
    assert found.variant == "full" and found.config.name == "cldm_v21_LumiNet.yaml"
    assert found.bypass == published.parent / "new_decoder.ckpt" and found.latents is None
    assert not found.causal_mask
    assert find_base(published.rename(published.with_name("LumiNet.ckpt")), CKPT).causal_mask


def test_a_base_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no\.ckpt: there is no such checkpoint .*'mini'"):
        find_base(tmp_path / "no.ckpt", CKPT)


# what is written


def test_the_result_has_the_published_names_and_shapes_at_full_size() -> None:
    listed = json.loads((GOLDEN / "full_state_dict.json").read_text())
    with torch.device("meta"):
        base = {name: torch.empty(shape) for name, shape in listed.items()}
        trained = trained_by_meta()
    state = with_derived_names(merged(base, trained), NoiseSchedule.scaled_linear())
    assert shapes(state) == listed
    assert len(trained) > 300 and set(trained) <= set(listed)


def trained_by_meta() -> dict[str, Tensor]:
    model = ControlLDM(ControlLDMParams())
    names = [
        f"{part}.{name}"
        for part, network in (("model", model.model), ("control_model", model.control_model))
        for name, _ in network.named_parameters()
        if ".transformer_blocks." in name or ".proj_in." in name or ".proj_out." in name
    ]
    state = model.state_dict()
    return {name: state[name] for name in names}


def test_a_published_base_without_derived_names_gets_them(tmp_path: Path) -> None:
    """As our own model's state dict is, say: schedule buffers, doubled hint names and filters are made."""
    folder = write_published_nano(tmp_path).parent
    bare = {name: value for name, value in published_state().items() if not is_ignored(name)}
    bare = {name: value for name, value in bare.items() if "input_latent_hint_cat_atten_block" not in name}
    torch.save(bare, folder / "trained_crossattn.ckpt")
    base = load_base(find_base(folder / "trained_crossattn.ckpt", CKPT, folder / "nano.yaml"))
    base.save(tmp_path / "result.ckpt", {})
    unused = {name for name in published_state() if name.startswith(PRIOR) and name not in bare}
    unused = {name for name in unused if not name.endswith("resample_filter")}
    expected = {name: list(v.shape) for name, v in published_state().items() if name not in unused}
    assert shapes(read_state(tmp_path / "result.ckpt")) == expected


def test_only_what_was_trained_differs_from_the_base(published: Path, tmp_path: Path) -> None:
    stored = published.read_bytes()
    base = load_base(find_base(published, CKPT, published.parent / "nano.yaml"))
    trained = trained_by(base.model)
    base.save(tmp_path / "result.ckpt", trained)
    assert published.read_bytes() == stored
    before, after = read_state(published), read_state(tmp_path / "result.ckpt")
    assert list(torch.load(tmp_path / "result.ckpt", weights_only=True)) == ["state_dict"]
    assert shapes(after) == shapes(before) == shapes(published_state())
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(trained)
    loaded = load_model(NANO, tmp_path / "result.ckpt", bypass=base.files.bypass)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in trained.items())


def test_the_first_stage_of_a_published_checkpoint_stays_without_bypass(
    published: Path, tmp_path: Path
) -> None:
    base = load_base(find_base(published, CKPT, published.parent / "nano.yaml"))
    assert any("new_merge" in name for name in base.model.state_dict())
    base.save(tmp_path / "result.ckpt", {})
    first_stage = [name for name in read_state(tmp_path / "result.ckpt") if name.startswith(FIRST_STAGE)]
    assert first_stage and not any("new_merge" in name for name in first_stage)


def test_a_checkpoint_without_its_latents_is_completed_from_the_file_beside_it(tmp_path: Path) -> None:
    published = write_published_nano(tmp_path)
    whole = published_state()
    rest = {name: value for name, value in whole.items() if not name.startswith(PRIOR)}
    latents = {f"module.{name.removeprefix(PRIOR)}": v for name, v in whole.items() if name.startswith(PRIOR)}
    torch.save(rest, published)
    torch.save({"state_dict": latents}, tmp_path / "last.pth.tar")
    load_base(find_base(published, CKPT, tmp_path / "nano.yaml")).save(tmp_path / "result.ckpt", {})
    written = read_state(tmp_path / "result.ckpt")
    assert shapes(written) == shapes(whole)
    assert all(torch.equal(written[name], value) for name, value in whole.items())


def test_an_own_model_keeps_its_names_and_its_precision(tmp_path: Path) -> None:
    path = write_own_nano(tmp_path)
    base = load_base(find_base(path, CKPT, tmp_path / "nano.yaml"))
    trained = trained_by(base.model)
    base.save(tmp_path / "result.safetensors", trained)
    before, after = read_state(path), read_state(tmp_path / "result.safetensors")
    assert shapes(before) == shapes(after)
    assert all(after[name].dtype == (torch.float32 if name in trained else torch.float16) for name in after)
    load_model(NANO, tmp_path / "result.safetensors")


def test_a_tensor_that_the_base_lacks_is_refused() -> None:
    with pytest.raises(KeyError):
        merged({"a": torch.zeros(1)}, {"b": torch.zeros(1)})
