"""Choosing weights: the published ones if they are complete, the mini model otherwise, and it is always said."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest

from cldm import ControlLDMParams
from lumiply.config import config_path, load_config
from lumiply.errors import WeightsError
from lumiply.weights import WeightFiles, find_weights

FULL = ("trained_crossattn.ckpt", "new_decoder.ckpt")


@pytest.fixture
def folders(tmp_path):
    """`ckpt` with the mini model and its red adaptor, and an empty `adaptors`."""
    (tmp_path / "ckpt/mini").mkdir(parents=True)
    (tmp_path / "adaptors").mkdir()
    (tmp_path / "ckpt/mini/lumiply_mini.safetensors").write_bytes(b"mini" * 100)
    (tmp_path / "ckpt/mini/adaptor_red.safetensors").write_bytes(b"red")
    return tmp_path


def put(folders, *names: str) -> None:
    for name in names:
        (folders / name).write_bytes(name.encode())


def find(folders, model: str = "auto") -> WeightFiles:
    return find_weights(folders / "ckpt", folders / "adaptors", model)


def test_without_published_files_the_mini_model_is_used_in_silence(folders, caplog):
    found = find(folders)
    assert found == WeightFiles(
        "mini",
        config_path("mini"),
        folders / "ckpt/mini/lumiply_mini.safetensors",
        adaptors={"red": folders / "ckpt/mini/adaptor_red.safetensors"},
    )
    assert found.params() == load_config(config_path("mini")) and not caplog.records


def test_complete_published_files_are_used(folders):
    put(folders, *(f"ckpt/{name}" for name in FULL), "ckpt/last.pth.tar", "adaptors/adaptor_blue.pth")
    for model in ("auto", "full"):
        assert find(folders, model) == WeightFiles(
            "full",
            config_path("full"),
            folders / "ckpt/trained_crossattn.ckpt",
            folders / "ckpt/new_decoder.ckpt",
            folders / "ckpt/last.pth.tar",
            {"blue": folders / "adaptors/adaptor_blue.pth"},
        )
    assert find(folders).params() == ControlLDMParams()


def test_the_latents_file_is_not_needed(folders):
    put(folders, *(f"ckpt/{name}" for name in FULL))
    assert find(folders).variant == "full" and find(folders).latents is None


def test_safetensors_twins_are_taken(folders):
    put(
        folders, "ckpt/trained_crossattn.safetensors", "ckpt/new_decoder.safetensors", "ckpt/last.safetensors"
    )
    found = find(folders)
    assert found.variant == "full" and found.bypass == folders / "ckpt/new_decoder.safetensors"
    assert found.latents == folders / "ckpt/last.safetensors"


def test_luminets_own_weights_turn_the_causal_mask_on(folders):
    put(folders, "ckpt/LumiNet.ckpt", "ckpt/new_decoder.ckpt")
    found, default = find(folders), ControlLDMParams()
    assert found.params() == dataclasses.replace(
        default, text=dataclasses.replace(default.text, causal_mask=True)
    )
    put(folders, "ckpt/trained_crossattn.safetensors")
    assert find(folders).checkpoint.name == "trained_crossattn.safetensors" and not find(folders).causal_mask


@pytest.mark.parametrize("present", FULL)
def test_incomplete_published_files_are_warned_about_and_the_mini_model_used(folders, caplog, present):
    put(folders, f"ckpt/{present}")
    (missing,) = set(FULL) - {present}
    assert find(folders).variant == "mini"
    assert missing in caplog.text and present not in caplog.text and str(folders / "ckpt") in caplog.text


@pytest.mark.parametrize("name", ["ckpt/last.pth.tar", "adaptors/adaptor_red.pth"])
def test_files_that_are_of_no_use_alone_are_warned_about(folders, caplog, name):
    put(folders, name)
    assert find(folders).variant == "mini" and "trained_crossattn.ckpt and new_decoder.ckpt" in caplog.text


@pytest.mark.parametrize("missing", FULL)
def test_the_full_model_is_not_replaced_where_it_was_asked_for(folders, missing):
    put(folders, *(f"ckpt/{name}" for name in FULL if name != missing))
    with pytest.raises(WeightsError) as caught:
        find(folders, "full")
    message = str(caught.value)
    assert missing in message and str(folders / "ckpt") in message
    assert "model=mini" in message and ".safetensors" in message and "LumiNet.ckpt" in message


def test_the_mini_model_may_be_asked_for_beside_published_files(folders, caplog):
    put(folders, *(f"ckpt/{name}" for name in FULL))
    assert find(folders, "mini").variant == "mini" and not caplog.records


@pytest.mark.parametrize("model", ["auto", "mini"])
def test_no_weights_at_all_is_an_error(tmp_path, model):
    with pytest.raises(WeightsError) as caught:
        find(tmp_path, model)
    assert "lumiply_mini.safetensors" in str(caught.value) and str(tmp_path / "ckpt/mini") in str(
        caught.value
    )


def test_an_unknown_model_is_an_error(folders):
    with pytest.raises(WeightsError, match=r"one of auto, full, mini, not 'huge'"):
        find(folders, "huge")


def test_the_description_names_the_files_and_the_colours_that_are_lacking(folders):
    assert find(folders).describe() == (
        f"the embedded mini model ({folders}/ckpt/mini/lumiply_mini.safetensors), adaptors for 1 of 6 colours "
        "(none for orange, yellow, green, blue, purple)"
    )
    put(folders, *(f"ckpt/{name}" for name in FULL))
    put(
        folders,
        *(f"adaptors/adaptor_{c}.pth" for c in ("red", "orange", "yellow", "green", "blue", "purple")),
    )
    assert find(folders).describe() == (
        f"the published full model ({folders}/ckpt/trained_crossattn.ckpt with new_decoder.ckpt), "
        "adaptors for 6 of 6 colours"
    )


def test_the_fingerprint_does_not_change_when_files_move_or_are_touched(folders, tmp_path):
    before = find(folders).fingerprint()
    assert len(before) == 16 and find(folders).fingerprint() == before
    os.utime(folders / "ckpt/mini/lumiply_mini.safetensors", (0, 0))
    shutil.copytree(folders / "ckpt", tmp_path / "elsewhere/ckpt")
    assert find(tmp_path / "elsewhere").fingerprint() == before == find(folders).fingerprint()


def test_the_fingerprint_changes_with_any_file(folders):
    seen = {find(folders).fingerprint()}
    data = bytearray(b"mini" * 100)
    data[200] ^= 1
    (folders / "ckpt/mini/lumiply_mini.safetensors").write_bytes(data)
    seen.add(find(folders).fingerprint())
    put(folders, "ckpt/mini/adaptor_red.safetensors")
    seen.add(find(folders).fingerprint())
    put(folders, "ckpt/mini/adaptor_blue.safetensors")
    seen.add(find(folders).fingerprint())
    put(folders, "ckpt/LumiNet.ckpt", "ckpt/new_decoder.ckpt")
    seen.add(find(folders).fingerprint())
    seen.add(dataclasses.replace(find(folders), causal_mask=False).fingerprint())
    assert len(seen) == 6


def test_the_fingerprint_of_a_large_file_sees_its_ends_its_size_and_changes_in_between(folders):
    path = folders / "ckpt/mini/lumiply_mini.safetensors"
    size = 80 * 2**20

    def with_bytes(place: int, count: int = 1, size: int = size) -> str:
        with path.open("wb") as file:
            file.truncate(size)
            file.seek(place)
            file.write(b"\x01" * count)
        return find(folders).fingerprint()

    seen = [with_bytes(0), with_bytes(size - 1), with_bytes(size // 3, 400_000), with_bytes(0, size=size + 1)]
    assert len(set(seen)) == 4


def test_a_file_that_went_away_is_an_error(folders):
    found = find(folders)
    found.checkpoint.unlink()
    with pytest.raises(WeightsError, match=r"lumiply_mini\.safetensors: cannot be read"):
        found.fingerprint()
