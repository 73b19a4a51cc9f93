"""Adaptors: both forms hold the same, wrong ones are refused, and a folder's are found by colour."""

from __future__ import annotations

import os

import pytest
import torch

from lumiply.colors import COLORS
from lumiply.errors import WeightsError
from lumiply.weights import Adaptor, find_adaptors, read_adaptor, save_adaptor
from tests.weights.conftest import SMALL, same, under, without

PREFIX = "control_model.prior_extracter."


@pytest.fixture(scope="module")
def adaptor(whole) -> Adaptor:
    return Adaptor(
        under(whole, f"{PREFIX}model_latents.light_encoder."), under(whole, f"{PREFIX}light_decoder.")
    )


def flat(adaptor: Adaptor) -> dict[str, torch.Tensor]:
    return {
        **{f"light_encoder.{name}": value for name, value in adaptor.light_encoder.items()},
        **{f"light_decoder.{name}": value for name, value in adaptor.light_decoder.items()},
    }


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_adaptor(path, SMALL)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["adaptor_red.pth", "adaptor_red.safetensors"])
def test_what_was_saved_is_read_back(tmp_path, adaptor, name):
    save_adaptor(tmp_path / name, adaptor)
    assert same(flat(read_adaptor(tmp_path / name, SMALL)), flat(adaptor))
    assert os.listdir(tmp_path) == [name]


def test_the_published_form_is_two_dicts(tmp_path, adaptor):
    save_adaptor(tmp_path / "adaptor_red.pth", adaptor)
    stored = torch.load(tmp_path / "adaptor_red.pth", weights_only=True)
    assert set(stored) == {"light_encoder", "light_decoder"} and "0.weight" in stored["light_encoder"]


def test_an_adaptor_is_stored_in_two_forms_only(tmp_path, adaptor):
    with pytest.raises(WeightsError, match=r"not '\.ckpt'"):
        save_adaptor(tmp_path / "adaptor_red.ckpt", adaptor)
    assert os.listdir(tmp_path) == []


def test_a_part_of_a_larger_tensor_is_stored_alone(tmp_path, adaptor):
    large = torch.zeros(1000, *adaptor.light_encoder["0.weight"].shape)
    encoder = {**adaptor.light_encoder, "0.weight": large[0]}
    save_adaptor(tmp_path / "adaptor_red.pth", Adaptor(encoder, adaptor.light_decoder))
    assert (tmp_path / "adaptor_red.pth").stat().st_size < 100_000


def test_a_missing_key_is_refused(write, adaptor):
    message = refused(write("a.safetensors", without(flat(adaptor), "light_decoder.4.bias")))
    assert "1 key that the model needs is missing: light_decoder.4.bias" in message


def test_an_unknown_key_is_refused(write, adaptor):
    message = refused(write("a.safetensors", {**flat(adaptor), "light_decoder.9.bias": torch.ones(1)}))
    assert "1 key is not the model's: light_decoder.9.bias" in message


def test_a_missing_part_is_refused(write, adaptor):
    message = refused(write("a.safetensors", without(flat(adaptor), "light_decoder.")))
    assert "6 keys" in message


def test_an_adaptor_of_another_model_is_refused_with_both_shapes(write, adaptor):
    odd = {**flat(adaptor), "light_encoder.2.bias": torch.zeros(7)}
    message = refused(write("a.safetensors", odd))
    assert "light_encoder.2.bias has shape [7], but [16] is needed" in message and "ckpt/mini/" in message


def test_other_files_are_recognised(published_files):
    assert "holds a whole model, but a colour's adaptor is needed" in refused(published_files["checkpoint"])
    assert "holds a bypass autoencoder" in refused(published_files["bypass"])
    assert "holds a latent-intrinsics network" in refused(published_files["latents"])


def test_adaptors_are_found_by_colour_in_palette_order(tmp_path):
    for color in reversed(COLORS):
        (tmp_path / f"adaptor_{color}.pth").touch()
    (tmp_path / "adaptor_pink.pth").touch()
    assert list(find_adaptors(tmp_path)) == list(COLORS)


def test_the_published_form_is_preferred_and_the_twin_taken_without_it(tmp_path):
    for name in ("adaptor_red.pth", "adaptor_red.safetensors", "adaptor_blue.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "adaptor_green.pth").mkdir()
    assert find_adaptors(tmp_path) == {
        "red": tmp_path / "adaptor_red.pth",
        "blue": tmp_path / "adaptor_blue.safetensors",
    }


def test_no_folder_means_no_adaptors(tmp_path):
    assert find_adaptors(tmp_path / "absent") == {}
