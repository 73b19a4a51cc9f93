"""What settings and the device decide."""

from __future__ import annotations

import pytest
import torch

from lumiply.engine import start
from lumiply.engine.pauses import Pauses
from lumiply.engine.presets import PRESETS, Sampling, choose_sampling
from lumiply.errors import UserError
from lumiply.settings import Settings
from tests.nano import nano_pipeline

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


def test_half_precision_on_a_gpu_and_float32_on_a_cpu():
    assert start.choose_precision("auto", GPU) is torch.float16
    assert start.choose_precision("auto", CPU) is torch.float32


@pytest.mark.parametrize("capability, expected", [((7, 5), torch.float16), ((9, 0), torch.bfloat16)])
def test_float16_where_a_gpu_has_no_bfloat16(monkeypatch, caplog, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert start.choose_precision("bfloat16", GPU) is expected
    assert ("no bfloat16" in caplog.text) == (expected is torch.float16)


@pytest.mark.parametrize(
    "wanted, device, has, expected",
    [
        ("auto", CPU, True, torch.bfloat16),
        ("auto", CPU, False, torch.float32),
        ("float32", CPU, True, torch.float32),
        ("auto", GPU, True, torch.float32),
    ],
)
def test_a_cpu_that_can_decodes_in_bfloat16_unless_float32_is_asked_for(
    monkeypatch, wanted, device, has, expected
):
    monkeypatch.setattr(start, "_cpu_has_bfloat16", lambda: has)
    assert start.choose_decode_precision(wanted, device, torch.float32) is expected


def test_decoding_in_bfloat16_keeps_40_db_even_with_weights_without_meaning():
    from PIL import Image

    from lumiply.engine.pipeline import Pipeline
    from tests.nano import nano_model

    half = Pipeline(nano_model(), {}, decode_dtype=torch.bfloat16)
    photo = Image.radial_gradient("L").convert("RGB")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = half.decode(latents, half.features(photo)).double()
    exact = nano_pipeline().decode(latents, nano_pipeline().features(photo)).double()
    assert 10 * torch.log10(255**2 / (ours - exact).square().mean()) > 40


def test_presets():
    default = Sampling("ddim", 1)
    assert choose_sampling(None, None, default) is default
    assert choose_sampling(None, 9, default) == Sampling("ddim", 9)
    assert choose_sampling("fast", None, default) is PRESETS["fast"]
    assert choose_sampling("balanced", 7, default) == Sampling("unipc", 7)
    assert PRESETS["exact"] == Sampling("ddim", 50)
    with pytest.raises(UserError, match="exact, balanced, fast"):
        choose_sampling("best", None, default)


def test_nothing_is_compiled_on_a_cpu_unless_asked_for(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(start, "BackgroundCompiler", lambda tasks, *_, **__: made.append(tasks) or "compiler")
    assert start.speed_up(nano_pipeline(), Settings()) is None
    assert start.speed_up(nano_pipeline(), Settings(compile="off")) is None
    asked = Settings(compile="background", max_batch=2, cache_dir=tmp_path)
    assert start.speed_up(nano_pipeline(), asked) == "compiler"
    assert [task.name for task in made[0]] == [
        "the step of 1 pictures",
        "the decoder",
        "the hint of 1 colours",
        "the photo's features",
        "the hint of 2 colours",
        "the step of 2 pictures",
    ]
    start.speed_up(nano_pipeline(), asked, sizes=[7], slots=3)
    assert [task.name for task in made[1] if "step" in task.name] == ["the step of 7 pictures"]


def test_the_settings_preset_decides_the_engines_sampler_and_the_name_of_its_results():
    settings = Settings(model="mini", device="cpu", precision="float32")
    engines = {preset: start.initialize_engine(settings.replace(preset=preset)) for preset in (None, "fast")}
    for engine in engines.values():
        engine.close(10)
    assert engines["fast"].info.steps == PRESETS["fast"].steps
    assert engines[None].info.steps == start.DEFAULT_STEPS["mini"]
    assert engines["fast"].info.fingerprint != engines[None].info.fingerprint


def test_what_compiles_gives_way_to_the_renders_of_the_engine_that_is_started(monkeypatch):
    given = []
    monkeypatch.setattr(start, "speed_up", lambda *_, pauses: given.append(pauses))
    engine = start.initialize_engine(Settings(model="mini", device="cpu", precision="float32"))
    engine.close(10)
    assert given == [engine.pauses]


def test_one_clock_of_pauses_is_for_loading_and_comparing(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(
        start,
        "BackgroundCompiler",
        lambda _, cache, *, slots, pauses: made.extend([cache._pauses, pauses]),
    )
    pauses = Pauses()
    start.speed_up(nano_pipeline(), Settings(compile="background", cache_dir=tmp_path), pauses=pauses)
    assert made == [pauses, pauses]


@pytest.mark.parametrize(
    "wanted, device, capability, gains, expected",
    [
        ("float8", GPU, (9, 0), False, True),
        ("float8", GPU, (8, 9), False, True),
        ("float8", GPU, (8, 6), True, False),
        ("float8", CPU, (9, 0), True, False),
        ("auto", GPU, (9, 0), True, True),
        ("auto", GPU, (9, 0), False, False),
        ("auto", GPU, (8, 9), True, False),
        ("auto", CPU, (9, 0), True, False),
        ("float16", GPU, (9, 0), True, False),
    ],
)
def test_float8_where_it_is_asked_for_or_quicker_and_a_gpu_has_it(
    monkeypatch, caplog, wanted, device, capability, gains, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10")
    assert start.choose_float8(wanted, device, gains=gains) is expected
    assert ("no float8" in caplog.text) == (wanted == "float8" and not expected)
    assert start.choose_precision("float8", GPU) is torch.float16
    assert start.choose_precision("float8", CPU) is torch.float32
