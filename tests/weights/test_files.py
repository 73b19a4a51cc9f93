"""Reading and writing state dicts: formats agree, damage is named, nothing runs, nothing is half-written."""

from __future__ import annotations

import os
import pickle
import stat

import pytest
import torch

from lumiply.errors import WeightsError
from lumiply.weights import read_state, save_state
from tests.weights.conftest import same

STATE = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "b": torch.tensor(0.5), "c": torch.zeros(4096)}


def refused(path) -> str:
    """The message with which `path` is refused; it always names the file."""
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["x.ckpt", "x.pth", "x.pth.tar", "x.pt", "x.safetensors", "x.bin"])
def test_every_format_gives_the_same_tensors(write, name):
    assert same(read_state(write(name, STATE)), STATE)


def test_a_state_dict_may_stand_under_its_name_beside_other_things(write):
    assert same(read_state(write("x.ckpt", {"state_dict": STATE, "epoch": 3, "global_step": 12})), STATE)


def test_the_content_decides_and_not_the_suffix(write):
    path = write("x.safetensors", STATE)
    assert same(read_state(path.rename(path.with_suffix(".ckpt"))), STATE)


def test_a_file_in_the_format_before_torch_1_6_is_read(tmp_path):
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state(tmp_path / "old.pth"), STATE)


def test_tensors_stay_in_the_file_until_they_are_used(write):
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("only Linux lists what is mapped")
    for name in ("x.ckpt", "x.safetensors"):
        path = write(name, STATE)
        state = read_state(path)
        with open("/proc/self/maps") as maps:
            assert str(path) in maps.read(), name
        del state


def test_changing_a_tensor_leaves_the_file_alone(write):
    for name in ("x.ckpt", "x.safetensors"):
        path = write(name, STATE)
        read_state(path)["c"].add_(1)
        assert same(read_state(path), STATE)


def test_half_precision_stays_half(write):
    state = {"a": torch.ones(3, dtype=torch.float16), "b": torch.ones(3, dtype=torch.bfloat16)}
    for name in ("x.ckpt", "x.safetensors"):
        assert {key: value.dtype for key, value in read_state(write(name, state)).items()} == {
            "a": torch.float16,
            "b": torch.bfloat16,
        }


def test_parameters_come_as_plain_tensors(write):
    state = read_state(write("x.ckpt", {"a": torch.nn.Parameter(torch.ones(2))}))
    assert not state["a"].requires_grad


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.ckpt")


def test_a_folder_is_refused(tmp_path):
    assert "cannot be read" in refused(tmp_path)


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "x.ckpt").touch()
    assert "is empty" in refused(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_said_to_be(write, name, share):
    path = write(name, STATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut short" in refused(path)


def test_an_old_file_that_is_cut_short_is_said_to_be(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    for share in (0.5, 0.999):
        data = path.read_bytes()
        (tmp_path / "cut.pth").write_bytes(data[: int(len(data) * share)])
        assert "cut short" in refused(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "web page"),
        (b"\x00" * 5, "unknown format"),
        (b"PK\x03\x04" + b"\x00" * 100, "damaged"),
        (b"\x80\x02garbage", "damaged"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{garbage", "damaged"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_a_file_of_another_format_is_said_to_be(tmp_path, name, data, found):
    (tmp_path / name).write_bytes(data)
    assert found in refused(tmp_path / name)


class Trap:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_refused_and_not_run(write, tmp_path):
    path = write("x.ckpt", {"state_dict": {"a": torch.ones(1)}, "callbacks": Trap(tmp_path / "trap")})
    message = refused(path)
    assert "refused" in message and "mkdir" in message
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Trap(tmp_path / "trap"), protocol=2))
    refused(tmp_path / "plain.ckpt")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"state_dict": {}},
        [1, 2],
        torch.ones(3),
        "text",
        {"a": 1},
        {"a": {"b": torch.ones(1)}},
        {3: torch.ones(1)},
    ],
)
def test_what_is_no_state_dict_is_refused(write, value):
    assert "no state dict" in refused(write("x.ckpt", value))


def test_sparse_tensors_are_refused(write):
    assert "sparse" in refused(write("x.ckpt", {"a": torch.eye(3).to_sparse()}))


def test_what_was_saved_is_read_back_bit_for_bit(tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": shared,
        "again": shared,
        "turned": shared.T,
        "part": shared[1:],
        "half": shared.half(),
        "spread": torch.zeros(1, 4, 6, 6).to(memory_format=torch.channels_last),
        "learned": torch.nn.Parameter(torch.ones(2)),
        "nothing": torch.zeros(0),
    }
    save_state(tmp_path / "x.safetensors", state, {"commit": "abc"})
    assert same(read_state(tmp_path / "x.safetensors"), state)


def test_saving_what_was_read_gives_the_same_again(write, tmp_path):
    save_state(tmp_path / "y.safetensors", read_state(write("x.ckpt", STATE)))
    save_state(tmp_path / "y.safetensors", read_state(tmp_path / "y.safetensors"))  # over itself
    assert same(read_state(tmp_path / "y.safetensors"), STATE)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_state(path, STATE)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, {"a": torch.ones(1)})
    assert os.listdir(tmp_path) == ["x.safetensors"]
    assert same(read_state(path), STATE)


def test_others_may_read_what_was_saved(tmp_path):
    save_state(tmp_path / "x.safetensors", STATE)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o644
