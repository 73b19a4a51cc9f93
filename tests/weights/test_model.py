"""Loading a model: published files and their twins give the same model; whatever does not fit is refused."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
import torch

from cldm import ControlLDM
from cldm.state import HINT, HINT_TWIN
from ldm.autoencoder import AutoencoderKL
from lumiply.config import config_path, load_config
from lumiply.errors import WeightsError
from lumiply.weights import fetch_text_tower, load_model, read_state, save_state
from lumiply.weights.model import FIRST_STAGE, PRIOR, TEXT
from modi_vae import BypassAutoencoder
from tests.weights.conftest import SMALL, same, under, without


def refused(*args, **kwargs) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(*args, **kwargs)
    return str(caught.value)


def no_text(_params):
    raise AssertionError("the text tower was fetched though the checkpoint holds it")


def test_published_files_give_their_weights(published_files, whole):
    model = load_model(SMALL, **published_files, fetch_text=no_text)
    assert same(model.state_dict(), whole)
    assert isinstance(model.first_stage_model, BypassAutoencoder) and not model.training


def test_a_model_can_be_trained_after_loading(published_files):
    model = load_model(SMALL, **published_files)
    before = model.control_model.time_embed[0].weight.detach().clone()
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    torch.optim.SGD(model.parameters(), lr=1.0)
    model.control_model.time_embed[0].weight.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.control_model.time_embed[0].weight, before)
    assert same(
        load_model(SMALL, **published_files).state_dict(), load_model(SMALL, **published_files).state_dict()
    )


def test_a_loaded_model_computes(published_files):
    model = load_model(SMALL, **published_files)
    with torch.no_grad():
        photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        code, tokens = model.light(torch.ones_like(photo))
        intrinsic = model.control_model.prior_extracter.model_latents.intrinsic(photo)
        conditions = model.conditions(model.cond_stage_model(), intrinsic, code, tokens)
        v = model(torch.zeros(1, 4, 8, 8), torch.tensor([5]), conditions)
    assert v.isfinite().all() and v.shape == (1, 4, 8, 8)


def test_safetensors_twins_give_the_same_bits(published_files, write, published, bypass_state, latents_state):
    twins = {
        "checkpoint": write("trained_crossattn.safetensors", published),
        "bypass": write("new_decoder.safetensors", bypass_state),
        "latents": write("last.safetensors", latents_state),
    }
    assert same(load_model(SMALL, **twins).state_dict(), load_model(SMALL, **published_files).state_dict())


def test_a_plain_state_dict_is_as_good_as_one_under_its_name(
    published_files, write, published, bypass_state, whole
):
    model = load_model(
        SMALL, write("plain.ckpt", published), bypass=write("plain_decoder.ckpt", bypass_state)
    )
    assert same(model.state_dict(), whole)


def test_one_file_may_hold_the_bypass_first_stage(write, whole):
    model = load_model(SMALL, write("lumiply_mini.safetensors", whole))
    assert same(model.state_dict(), whole)


def test_a_bypass_file_wins_over_a_bypass_first_stage_in_the_checkpoint(write, whole, bypass_state):
    other = {name: value + 1 for name, value in bypass_state.items()}
    model = load_model(SMALL, write("x.safetensors", whole), bypass=write("new_decoder.ckpt", other))
    assert same(model.first_stage_model.state_dict(), other)


def test_the_checkpoints_own_first_stage_is_not_looked_at_when_another_replaces_it(
    write, published, bypass_state, whole
):
    strange = {**without(published, FIRST_STAGE), f"{FIRST_STAGE}anything": torch.zeros(1)}
    model = load_model(SMALL, write("x.ckpt", strange), bypass=write("new_decoder.ckpt", bypass_state))
    assert same(model.state_dict(), whole)


def test_without_a_bypass_file_the_plain_first_stage_is_kept(write, published, plain_first_stage):
    model = load_model(SMALL, write("x.ckpt", published))
    assert type(model.first_stage_model) is AutoencoderKL
    assert same(model.first_stage_model.state_dict(), under(plain_first_stage, FIRST_STAGE))


def test_the_published_sequence_gives_the_same_model(published_files):
    model = ControlLDM(SMALL)
    model.add_new_layers()
    model.load_state_dict(read_state(published_files["checkpoint"]))
    model.change_first_stage(published_files["bypass"])
    state = without(model.state_dict(), HINT_TWIN)
    assert same(state, load_model(SMALL, **published_files).state_dict())


def test_the_order_of_add_new_layers_does_not_matter(published_files, whole):
    model = load_model(SMALL, **published_files)
    model.add_new_layers()
    hints = under(model.state_dict(), HINT_TWIN)
    assert same(hints, under(whole, HINT))


@pytest.mark.parametrize("kept", [HINT, HINT_TWIN])
def test_either_name_of_the_hint_convolutions_will_do(write, published, bypass_state, whole, kept):
    other = HINT_TWIN if kept == HINT else HINT
    model = load_model(
        SMALL, write("x.ckpt", without(published, other)), bypass=write("new_decoder.ckpt", bypass_state)
    )
    assert same(model.state_dict(), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_any_precision_on_disk_loads_into_any(write, whole, stored, dtype):
    path = write("x.safetensors", {name: value.to(stored) for name, value in whole.items()})
    state = load_model(SMALL, path, dtype=dtype).state_dict()
    assert same(state, {name: value.to(stored).to(dtype) for name, value in whole.items()})
    assert {value.dtype for value in state.values()} == {dtype}


def test_a_model_saved_and_loaded_is_the_same(tmp_path, published_files):
    first = load_model(SMALL, **published_files)
    save_state(tmp_path / "copy.safetensors", first.state_dict())
    assert same(load_model(SMALL, tmp_path / "copy.safetensors").state_dict(), first.state_dict())


def test_the_prior_is_taken_from_the_latents_file_if_the_checkpoint_lacks_it(
    write, published, published_files, whole
):
    checkpoint = write("no_prior.ckpt", without(published, PRIOR))
    assert same(load_model(SMALL, **{**published_files, "checkpoint": checkpoint}).state_dict(), whole)


def test_what_the_checkpoint_has_of_the_prior_overrides_the_latents_file(
    write, published, published_files, latents_state
):
    other = write("last.pth.tar", {"state_dict": {name: value + 1 for name, value in latents_state.items()}})
    head = {name: value for name, value in published.items() if name.startswith(f"{PRIOR}light_encoder.")}
    checkpoint = write("head_only.ckpt", {**without(published, PRIOR), **head})
    files = {**published_files, "checkpoint": checkpoint, "latents": other}
    latents = load_model(SMALL, **files).control_model.prior_extracter.model_latents
    assert same(latents.light_encoder.state_dict(), under(head, f"{PRIOR}light_encoder."))
    assert same(
        latents.enc.state_dict(),
        {n: v + 1 for n, v in under(published, f"{PRIOR}enc.").items() if "resample" not in n},
    )


def test_the_latents_file_is_not_even_opened_if_the_checkpoint_has_the_prior(
    published_files, tmp_path, whole
):
    files = {**published_files, "latents": tmp_path / "absent.pth.tar"}
    assert same(load_model(SMALL, **files).state_dict(), whole)


def test_a_checkpoint_without_prior_asks_for_the_latents_file(write, published, published_files):
    checkpoint = write("no_prior.ckpt", without(published, PRIOR))
    message = refused(SMALL, checkpoint, bypass=published_files["bypass"])
    assert "no_prior.ckpt" in message and "last.pth.tar" in message and PRIOR in message


def test_an_unknown_key_in_the_latents_file_is_refused(write, published, published_files, latents_state):
    checkpoint = write("no_prior.ckpt", without(published, PRIOR))
    latents = write("odd.pth.tar", {"state_dict": {**latents_state, "module.enc.extra": torch.ones(1)}})
    message = refused(SMALL, **{**published_files, "checkpoint": checkpoint, "latents": latents})
    assert "odd.pth.tar" in message and "enc.extra" in message


def test_a_latents_file_that_lacks_a_key_is_refused(write, published, published_files, latents_state):
    checkpoint = write("no_prior.ckpt", without(published, PRIOR))
    name = next(iter(latents_state))
    latents = write("short.pth.tar", {"state_dict": without(latents_state, name)})
    message = refused(SMALL, **{**published_files, "checkpoint": checkpoint, "latents": latents})
    assert "short.pth.tar" in message and name.removeprefix("module.") in message


def test_a_key_too_many_is_refused(write, published, published_files):
    odd = {**published, "model.diffusion_model.extra.weight": torch.ones(1)}
    message = refused(SMALL, **{**published_files, "checkpoint": write("odd.ckpt", odd)})
    assert "odd.ckpt" in message and "1 key is not the model's: model.diffusion_model.extra.weight" in message


def test_a_key_too_few_is_refused(write, published, published_files):
    name = "model.diffusion_model.out.2.weight"
    message = refused(
        SMALL, **{**published_files, "checkpoint": write("short.ckpt", without(published, name))}
    )
    assert "short.ckpt" in message and f"1 key that the model needs is missing: {name}" in message


def test_of_many_keys_five_are_named_and_all_are_counted(write, published, published_files):
    short = without(published, "model.diffusion_model.")
    message = refused(SMALL, **{**published_files, "checkpoint": write("short.ckpt", short)})
    count = len(published) - len(short)
    assert f"{count} keys" in message and f"and {count - 5} more" in message
    assert message.count("model.diffusion_model.") == 5


def test_a_key_too_few_in_the_bypass_file_names_that_file(write, published_files, bypass_state):
    bypass = write("short_decoder.ckpt", without(bypass_state, "decoder.conv_out.bias"))
    message = refused(SMALL, **{**published_files, "bypass": bypass})
    assert "short_decoder.ckpt" in message and "decoder.conv_out.bias" in message


def test_a_whole_number_tensor_is_refused(write, published, published_files):
    name = "model.diffusion_model.out.2.weight"
    odd = {**published, name: published[name].long()}
    message = refused(SMALL, **{**published_files, "checkpoint": write("odd.ckpt", odd)})
    assert "odd.ckpt" in message and name in message and "int64" in message


def test_a_file_of_another_configuration_is_refused_with_both_shapes(published_files):
    unet = dataclasses.replace(SMALL.unet, model_channels=32)
    other = dataclasses.replace(SMALL, unet=unet, control=dataclasses.replace(SMALL.control, unet=unet))
    message = refused(other, **published_files)
    assert "trained_crossattn.ckpt" in message and "[64, 16]" in message and "[128, 32]" in message
    assert "model=mini" in message


@pytest.mark.parametrize("variant", ["full", "mini"])
def test_the_wrong_shipped_configuration_is_refused(write, whole, variant):
    message = refused(load_config(config_path(variant)), write("x.safetensors", whole))
    assert "differ in shape" in message and "model=full" in message


def test_wrong_kinds_of_file_are_recognised(published_files, write, whole, latents_state):
    files = published_files
    adaptor = write("adaptor_red.pth", {"light_encoder": {"0.weight": torch.ones(2)}, "light_decoder": {}})
    plain = write("vae.ckpt", {"encoder.conv_in.weight": torch.ones(2)})
    no_prior = write("no_prior.ckpt", without(whole, PRIOR))
    for arguments, found, wanted in [
        ({"checkpoint": adaptor}, "a colour's adaptor", "a whole model"),
        ({"checkpoint": files["bypass"]}, "a bypass autoencoder", "a whole model"),
        ({"checkpoint": files["latents"]}, "a latent-intrinsics network", "a whole model"),
        ({"bypass": files["checkpoint"]}, "a whole model", "a bypass autoencoder"),
        ({"bypass": plain}, "an autoencoder without bypass", "a bypass autoencoder"),
        ({"bypass": adaptor}, "a colour's adaptor", "a bypass autoencoder"),
        (
            {"checkpoint": no_prior, "latents": files["bypass"]},
            "a bypass autoencoder",
            "a latent-intrinsics network",
        ),
        ({"checkpoint": no_prior, "latents": adaptor}, "a colour's adaptor", "a latent-intrinsics network"),
    ]:
        message = refused(SMALL, **{**files, **arguments})
        assert f"holds {found}, but {wanted} is needed" in message
        assert any(str(path) in message for path in arguments.values())


@pytest.mark.parametrize("part", ["checkpoint", "bypass"])
def test_a_missing_part_is_refused(published_files, tmp_path, part):
    message = refused(SMALL, **{**published_files, part: tmp_path / "absent.ckpt"})
    assert "absent.ckpt: there is no such file" in message


class FakeOpenClip(types.ModuleType):
    """Stands in for the package: one public function, asked for one model."""

    def __init__(self, state):
        super().__init__("open_clip")
        self.state, self.asked = state, []

    def create_model(self, name, pretrained, device):
        self.asked.append((name, pretrained, device))
        if self.state is None:
            raise OSError("no route to host")
        return types.SimpleNamespace(state_dict=lambda: self.state)


def test_a_missing_text_tower_is_fetched(write, published, published_files, text_state, whole, monkeypatch):
    fake = FakeOpenClip({**{n: v.half() for n, v in text_state.items()}, "visual.proj": torch.ones(1)})
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    checkpoint = write("no_text.ckpt", without(published, TEXT))
    state = load_model(SMALL, **{**published_files, "checkpoint": checkpoint}).state_dict()
    assert fake.asked == [("ViT-H-14", "laion2b_s32b_b79k", "cpu")]
    assert same(under(state, TEXT), {name: value.half().float() for name, value in text_state.items()})
    assert same(without(state, TEXT), without(whole, TEXT))


def test_a_missing_text_tower_without_open_clip_says_what_to_do(
    write, published, published_files, monkeypatch
):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    checkpoint = write("no_text.ckpt", without(published, TEXT))
    message = refused(SMALL, **{**published_files, "checkpoint": checkpoint})
    assert "pip install open-clip-torch" in message


def test_open_clip_is_not_imported_for_a_checkpoint_with_text_tower(published_files):
    load_model(SMALL, **published_files)
    assert "open_clip" not in sys.modules


def test_a_text_tower_that_cannot_be_fetched_is_an_error():
    with pytest.raises(WeightsError, match=r"could not be fetched.*no route to host"):
        fetch_text_tower(SMALL.text, FakeOpenClip(None))


def test_an_open_clip_of_other_names_is_an_error(text_state):
    with pytest.raises(WeightsError, match=r"has no token_embedding\.weight"):
        fetch_text_tower(SMALL.text, FakeOpenClip(without(text_state, "token_embedding")))


def test_a_text_tower_with_a_hole_is_not_filled(write, published, published_files):
    name = f"{TEXT}ln_final.bias"
    checkpoint = write("x.ckpt", without(published, name))
    assert name in refused(SMALL, **{**published_files, "checkpoint": checkpoint}, fetch_text=no_text)
