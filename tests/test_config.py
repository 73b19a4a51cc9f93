"""Configurations: the shipped ones load, the published form loads, and anything unclear is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cldm import ControlLDM, ControlLDMParams
from cldm.state import HINT_TWIN, is_ignored
from lumiply.config import FILES, config_path, load_config
from lumiply.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"

#: Every key that published files may carry beside the sizes, with the values they have there.
PUBLISHED_EXTRAS = {
    "model.params": {
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "control_key": "hint",
        "cond_stage_trainable": False,
        "monitor": "val/loss_simple_ema",
        "use_ema": False,
        "only_mid_control": False,
        "parameterization": "v",
    },
    "model.params.control_stage_config.params": {
        "use_checkpoint": True,
        "image_size": 32,
        "legacy": False,
        "hint_channels": 6,
        "use_fp16": True,
    },
    "model.params.unet_config.params": {"use_checkpoint": True, "image_size": 32, "legacy": False},
    "model.params.first_stage_config.params": {"monitor": "val/rec_loss", "embed_dim": 4},
    "model.params.first_stage_config.params.ddconfig": {"resolution": 256, "dropout": 0.0},
    "model.params.cond_stage_config.params": {"freeze": True, "layer": "penultimate"},
}


def content(variant: str = "full") -> dict[str, Any]:
    return yaml.safe_load(config_path(variant).read_text())


def at(tree: dict[str, Any], path: str) -> dict[str, Any]:
    for key in path.split("."):
        tree = tree[key]
    return tree


@pytest.fixture
def load(tmp_path):
    """Write a tree of values as YAML and load it."""

    def write_and_load(tree: Any) -> ControlLDMParams:
        path = tmp_path / "model.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return load_config(path)

    return write_and_load


def refused(load, tree: Any) -> str:
    """The message with which `tree` is refused; it always names the file."""
    with pytest.raises(ConfigError) as caught:
        load(tree)
    assert "model.yaml" in str(caught.value)
    return str(caught.value)


def changed(path: str, **values: Any) -> dict[str, Any]:
    tree = content()
    at(tree, path).update(values)
    return tree


def test_every_shipped_file_loads():
    shipped = {path.name for path in config_path("full").parent.glob("*.yaml")}
    assert shipped == set(FILES.values())
    for variant in FILES:
        load_config(config_path(variant))


def test_the_full_configuration_is_the_published_one():
    assert load_config(config_path("full")) == ControlLDMParams()


def test_the_full_configuration_has_the_published_names_and_shapes():
    with torch.device("meta"):
        model = ControlLDM(load_config(config_path("full")))
    published = json.loads((GOLDEN / "full_state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == {
        name: shape
        for name, shape in published.items()
        if not is_ignored(name) and not name.startswith(HINT_TWIN)
    }


def test_the_mini_model_fits_into_its_files():
    params = load_config(config_path("mini"))
    assert params.picture_size == 256
    with torch.device("meta"):
        model = ControlLDM(params)
        model.use_bypass_first_stage()
    prior = model.control_model.prior_extracter
    adaptor = [*prior.model_latents.light_encoder.parameters(), *prior.light_decoder.parameters()]
    numbers = sum(p.numel() for p in model.parameters()) + 6 * sum(p.numel() for p in adaptor)
    assert 2 * numbers <= 0.99 * 24e6


def test_the_published_form_loads_with_all_the_keys_that_change_nothing(load):
    tree = content()
    for path, extras in PUBLISHED_EXTRAS.items():
        at(tree, path).update(extras)
    tree["model"]["base_learning_rate"] = 1e-5
    assert load(tree) == ControlLDMParams()


def test_what_a_file_leaves_out_has_the_published_size(load):
    tree = content()
    for stage in ("control_stage_config", "unet_config", "first_stage_config", "cond_stage_config"):
        tree["model"]["params"][stage].pop("params")
    tree["model"]["params"] = {
        key: value for key, value in tree["model"]["params"].items() if "config" in key
    }
    assert load(tree) == ControlLDMParams()


def test_every_size_in_a_file_counts(load):
    """Each number of the mini configuration, changed, changes the parameters or is refused."""
    reference = load(content("mini"))
    ignored = {"resolution", "freeze"}

    def numbers(tree: Any, path: tuple[Any, ...] = ()):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, value in items:
            yield from numbers(value, (*path, key))
            if isinstance(value, (int, float)) and key not in ignored:
                yield (*path, key)

    places = list(numbers(content("mini")))
    assert len(places) > 60
    for place in places:
        tree = content("mini")
        inner: Any = tree
        for key in place[:-1]:
            inner = inner[key]
        value = inner[place[-1]]
        inner[place[-1]] = not value if isinstance(value, bool) else value * 2 if value else 0.5
        try:
            assert load(tree) != reference, place
        except ConfigError:
            continue


@pytest.mark.parametrize(("layer", "skipped"), [("penultimate", 1), ("last", 0)])
def test_the_layer_of_the_text_tower_is_read(load, layer, skipped):
    assert load(changed("model.params.cond_stage_config.params", layer=layer)).text.skip_last == skipped


def test_the_causal_mask_is_read(load):
    params = load(changed("model.params.cond_stage_config.params", causal_mask=True))
    assert params.text == dataclasses.replace(ControlLDMParams().text, causal_mask=True)


@pytest.mark.parametrize("path", PUBLISHED_EXTRAS)
def test_an_unknown_key_is_refused_with_its_place_and_near_names(load, path):
    tree = content()
    values = at(tree, path)
    name = next(iter(values))
    values[f"{name}x"] = 1
    message = refused(load, tree)
    assert f"{path}.{name}x" in message and f"did you mean {name}" in message


def test_an_unknown_key_unlike_any_other_is_refused_with_the_known_ones(load):
    message = refused(load, changed("model.params.unet_config.params", zzz=1))
    assert "unet_config.params.zzz" in message and "model_channels" in message


@pytest.mark.parametrize("stage", ["control_stage_config", "unet_config", "first_stage_config"])
@pytest.mark.parametrize("target", ["os.system", "antigravity.Flight", "torch.nn.Identity", None, 3, ["a"]])
def test_an_unknown_target_is_refused_and_never_imported(load, stage, target):
    message = refused(load, changed(f"model.params.{stage}", target=target))
    assert f"{stage}.target" in message and repr(target) in message
    assert "antigravity" not in sys.modules


def test_a_target_in_the_place_of_another_is_refused(load):
    message = refused(load, changed("model.params.unet_config", target="cldm.LumiNet.ControlNet"))
    assert "must be cldm.LumiNet.ControlledUnetModel" in message


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("model.params", "parameterization", "eps"),
        ("model.params", "conditioning_key", "concat"),
        ("model.params", "ckpt_path", "x.ckpt"),
        ("model.params.unet_config.params", "use_linear_in_transformer", False),
        ("model.params.unet_config.params", "use_spatial_transformer", False),
        ("model.params.unet_config.params", "num_heads", 8),
        ("model.params.control_stage_config.params", "use_scale_shift_norm", True),
        ("model.params.first_stage_config.params", "embed_dim", 3),
        ("model.params.first_stage_config.params.ddconfig", "double_z", False),
        ("model.params.first_stage_config.params.ddconfig", "double_z", 1),
        ("model.params.first_stage_config.params.ddconfig", "attn_resolutions", [16]),
        ("model.params.first_stage_config.params.ddconfig", "dropout", 0.1),
        ("model.params.cond_stage_config.params", "layer", "pooled"),
        ("model.params.cond_stage_config.params", "arch", "ViT-L-14"),
        ("model.params.cond_stage_config.params", "max_length", 76),
    ],
)
def test_a_value_that_cannot_be_honoured_is_refused(load, path, key, value):
    message = refused(load, changed(path, **{key: value}))
    assert f"{path}.{key}" in message and str(value) in message


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("model.params", "image_size", 63),
        ("model.params", "image_size", 64.0),
        ("model.params", "scale_factor", "much"),
        ("model.params", "scale_factor", float("nan")),
        ("model.params", "timesteps", 0),
        ("model.params", "linear_end", 2.0),
        ("model.params.unet_config.params", "model_channels", True),
        ("model.params.unet_config.params", "model_channels", "320"),
        ("model.params.unet_config.params", "model_channels", 100),
        ("model.params.unet_config.params", "channel_mult", 4),
        ("model.params.unet_config.params", "channel_mult", [1, 0]),
        ("model.params.unet_config.params", "context_dim", 768),
        ("model.params.unet_config.params", "out_channels", 8),
        ("model.params.unet_config.params", "num_res_blocks", 3),
        ("model.params.control_stage_config.params", "hint_width", -1),
        ("model.params.control_stage_config.params", "channel_mult", [1, 2]),
        ("model.params.control_stage_config.params.intrinsics", "num_blocks", [1]),
        ("model.params.control_stage_config.params.intrinsics", "token_width", 512),
        ("model.params.first_stage_config.params.ddconfig", "ch", 100),
        ("model.params.first_stage_config.params.ddconfig", "ch_mult", [1, 2, 4]),
        ("model.params.cond_stage_config.params", "causal_mask", "no"),
        ("model.params.cond_stage_config.params", "heads", 7),
    ],
)
def test_a_size_out_of_its_limits_is_refused(load, path, key, value):
    message = refused(load, changed(path, **{key: value}))
    disagree = "must equal" in message or "fit a context" in message or "must agree" in message
    assert path in message or disagree


@pytest.mark.parametrize(
    "stage", ["control_stage_config", "unet_config", "first_stage_config", "cond_stage_config"]
)
def test_a_missing_stage_is_refused(load, stage):
    tree = content()
    del tree["model"]["params"][stage]
    assert f"model.params.{stage} is missing" in refused(load, tree)


@pytest.mark.parametrize(
    "text", ["", "model: 3", "- a", "model: {", "just words", "model: {target: x, params: [1]}"]
)
def test_a_file_of_another_form_is_refused(load, text):
    refused(load, text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"\x80\x81\xff")
    with pytest.raises(ConfigError, match=r"model\.yaml"):
        load_config(tmp_path / "model.yaml")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: there is no such file"):
        load_config(tmp_path / "absent.yaml")


def test_loading_does_not_depend_on_the_order_of_keys(load):
    def backwards(tree: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(tree.items())} if isinstance(tree, dict) else tree

    tree = backwards(copy.deepcopy(content("mini")))
    assert load(yaml.safe_dump(tree, sort_keys=False)) == load_config(config_path("mini"))
