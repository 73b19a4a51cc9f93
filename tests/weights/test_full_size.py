"""The published sizes, in files that have no content: 8 GB that take no room on disk and must take none in memory."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
import torch

from lumiply.config import config_path, load_config
from lumiply.errors import WeightsError
from lumiply.weights import find_weights, load_model

GOLDEN = Path(__file__).parents[1] / "golden"
STATUS = Path("/proc/self/status")


def hollow(path: Path, listed: str) -> int:
    """A safetensors file of zeros, in single precision, with the names and shapes of a golden list; its size."""
    header, end = {}, 0
    for name, shape in json.loads((GOLDEN / listed).read_text()).items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path.stat().st_size


def memory() -> int:
    """Bytes of this process that no file stands for."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    if not STATUS.exists():
        pytest.skip("only Linux says how much memory is a file's")
    path = tmp_path_factory.mktemp("ckpt")
    assert hollow(path / "trained_crossattn.safetensors", "full_state_dict.json") > 7.9e9
    hollow(path / "new_decoder.safetensors", "bypass_state_dict.json")
    return path


def test_the_full_model_is_mapped_and_not_read(folder):
    files = find_weights(folder, folder)
    before = memory()
    model = load_model(files.params(), files.checkpoint, bypass=files.bypass)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1.9e9
    assert not any(value.is_meta for value in model.state_dict().values())
    assert memory() - before < 0.5e9
    assert torch.equal(model.control_model.time_embed[0].bias, torch.zeros(1280))


def test_the_full_checkpoint_does_not_fit_the_mini_configuration(folder):
    params = load_config(config_path("mini"))
    width = params.unet.model_channels
    needed = rf"\[1280, 320\], but \[{4 * width}, {width}\] is needed .*model=mini"
    with pytest.raises(WeightsError, match=needed):
        load_model(params, folder / "trained_crossattn.safetensors")
