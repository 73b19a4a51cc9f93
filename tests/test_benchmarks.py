"""The benchmarks run from end to end, on a model of milliseconds; figures mean nothing here."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks import bench, caches, forms, fp8, h200, models, samplers, stream
from benchmarks.kernels import kind_of
from benchmarks.measure import Results, flop, table
from benchmarks.models import Subject
from lumiply.engine import ahead, local
from lumiply.engine.compiling import CompilationError
from lumiply.engine.float8 import uses_float8
from lumiply.engine.pauses import Pauses
from lumiply.engine.pipeline import Pipeline
from lumiply.errors import UserError
from lumiply.settings import Settings
from tests.nano import nano_adaptor, nano_model, nano_pipeline


def nano_subject(*_) -> Subject:
    def pipeline(
        device: torch.device, dtype: torch.dtype, decode: torch.dtype, float8: bool = False
    ) -> Pipeline:
        adaptors = {
            color: nano_adaptor(color) for color in ("red", "orange", "yellow", "green", "blue", "purple")
        }
        return Pipeline(
            nano_model(), adaptors, device=device, dtype=dtype, decode_dtype=decode, float8=float8
        )

    return Subject("nano, filled by name", pipeline, nano_model, 2)


@pytest.fixture(autouse=True)
def nano(monkeypatch):
    for module in (bench, samplers):
        monkeypatch.setattr(module, "subject", nano_subject)
    monkeypatch.setattr(bench, "photo_of", lambda width, height, real=bench.photo_of: real(64, 48))


def test_bench_prints_every_table_and_writes_what_it_prints(tmp_path, capsys):
    assert (
        bench.main(["--model", "mini", "--device", "cpu", "--quick", "--out", str(tmp_path / "b.json")]) == 0
    )
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    for title in ("decoded photo to JPEG", "time goes", "published way", "by preset", "Growth"):
        assert title in printed
    assert {"load", "end_to_end", "stages", "original", "presets", "growth", "commit", "device"} <= set(found)
    assert found["end_to_end"]["7"]["min"] <= found["end_to_end"]["7"]["median"]
    stage = found["stages"]["7"]
    assert stage["tflops"] * 1e12 == pytest.approx(
        stage["share_of_matrix_product"] * found["stages"]["matrix_product_tflops"] * 1e12
    )
    assert found["original"]["ratio"] == pytest.approx(
        found["original"]["original_s"] / found["original"]["ours_s"]
    )


@pytest.mark.parametrize("full", [True, False])
def test_bench_chooses_float8_as_a_server_does_whichever_way_the_model_was_chosen(monkeypatch, full):
    asked = []
    monkeypatch.setattr("lumiply.engine.start.choose_float8", lambda *_, gains: bool(asked.append(gains)))
    chosen = replace(nano_subject(), full=full)
    one = bench.Bench(chosen, Settings(model="auto", device="cpu"), Results(None, {}), quick=True)
    one.load()
    one.close()
    assert asked == [full]


def test_a_model_to_measure_knows_whether_it_is_the_full_one(tmp_path):
    assert models.subject("full", tmp_path, tmp_path).full  # filled by name
    assert not models.subject("mini").full


def test_samplers_prints_a_row_a_number_of_steps(tmp_path, capsys):
    photo = tmp_path / "room.png"
    bench.photo_of(64, 48).save(photo)
    samplers.main(
        ["--device", "cpu", "--quick", "--colors", "red", "--out", str(tmp_path / "s.json"), str(photo)]
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    found = json.loads((tmp_path / "s.json").read_text())["distance"]
    assert found["ddim"]["1"][0] > found["ddim"]["2"][0] > 0  # more steps come nearer


def test_caches_compares_reused_halves_with_fewer_steps(tmp_path, capsys):
    photo = tmp_path / "room.png"
    bench.photo_of(64, 48).save(photo)
    caches.main(
        ["--device", "cpu", "--quick", "--colors", "red", "--out", str(tmp_path / "c.json"), str(photo)]
    )
    rows = json.loads((tmp_path / "c.json").read_text())["ways"]
    assert capsys.readouterr().out.count("| ") > len(rows) == len(caches.WAYS)
    exact, second, third = (row["dB to 1000 steps"] for row in rows[:3])
    assert exact > second > third


def test_first_halves_are_computed_in_one_of_so_many_steps(monkeypatch):
    pipeline = nano_pipeline()
    network, conditions = pipeline.network, pipeline.conditions(bench.photo_of(64, 48), ["white"])
    x, computed = pipeline.noise(3), []
    real = network.encode
    monkeypatch.setattr(network, "encode", lambda *given: computed.append(1) or real(*given))
    with torch.inference_mode():
        step = caches.propagated(network, conditions, 2)
        first, reused, again = (step(x, torch.tensor([t])) for t in (900, 700, 500))
        assert len(computed) == 2
        for v, t in ((first, 900), (again, 500)):
            exact = network(x, torch.tensor([t]), conditions.hint_features, conditions.keys_values)
            assert torch.allclose(v, exact)
        other = network(x, torch.tensor([700]), conditions.hint_features, conditions.keys_values)
        assert not torch.allclose(reused, other)


def test_samplers_compares_rendered_rooms_with_their_truth(tmp_path, capsys, monkeypatch):
    from PIL import Image

    room = bench.photo_of(64, 48)
    lit = {"red": np.asarray(Image.new("RGB", room.size, (200, 60, 60)))}
    monkeypatch.setattr(samplers, "rooms_of", lambda folder, count: [samplers.Subject(room, lit)] * count)
    samplers.main(["--device", "cpu", "--quick", "--colors", "red", "--rooms", str(tmp_path), "--count", "2"])
    printed = capsys.readouterr().out
    assert "2 photos" in printed and "ddim, dB to the truth" in printed


def test_samplers_says_how_many_rooms_there_are(tmp_path):
    pytest.importorskip("skimage")
    with pytest.raises(UserError, match="holds 0 rooms, 3 were asked for"):
        samplers.rooms_of(tmp_path, 3)


def test_stream_serves_the_same_arrivals_both_ways(tmp_path, capsys):
    stream.main(["--model", "nano", "--device", "cpu", "--requests", "4", "--steps", "2", "--loads", "0.7",
                 "--out", str(tmp_path / "p.json")])  # fmt: skip
    found = json.loads((tmp_path / "p.json").read_text())["stream"]
    ways = found["loads"]["0.7"]
    assert set(ways) == {"continuous", "whole jobs"}
    assert all(0 < way["mean_s"] < 60 for way in ways.values()) and found["seconds_a_job"] > 0
    assert "whole jobs" in capsys.readouterr().out


TOY = ["--model", "nano", "--device", "cpu", "--compile", "off"]


def test_the_gpu_plan_goes_on_after_a_part_that_fails_and_says_which_bars_are_reached(
    tmp_path, monkeypatch, capsys
):
    def refuse(bench):
        raise RuntimeError("no presets here")

    monkeypatch.setattr(bench.Bench, "presets", refuse)
    h200.main([*TOY, "--out", str(tmp_path), "--steps", "2", "--sizes", "7", "1"])
    found, printed = json.loads((tmp_path / "h200.json").read_text()), capsys.readouterr().out
    assert min(found["quality"]["worst_db"], found["quality"]["alone and among seven, db"]) > 45
    assert found["original"]["ratio"] > 0
    assert "no presets here" in found["presets of seven"]["failed"]
    assert set(found["growth"]) >= {"1 colours", "2 photos, 7 colours each", "64 x 48, 7 colours"}
    assert found["stream"]["loads"] and found["finished"] is True
    assert "seven colours, s" in printed and "not measured" in printed


def test_the_gpu_plan_measures_what_was_compiled_and_what_users_met_meanwhile(tmp_path, monkeypatch):
    class Plain(ahead.AheadOfTime):
        def __call__(self, part, name):
            return getattr(part.network, part.method)

    start = h200.Plan.start
    monkeypatch.setattr(h200, "AheadOfTime", Plain)
    monkeypatch.setattr(local, "Pauses", partial(Pauses, limit=0.1))  # one request follows the other
    monkeypatch.setattr(
        h200.Plan, "start", lambda plan, kind: start(plan, kind) if kind == "converted" else {}
    )
    h200.main([*TOY[:-1], "on", "--out", str(tmp_path), "--steps", "2", "--sizes", "2", "--budget", "260"])
    found = json.loads((tmp_path / "h200.json").read_text())
    meanwhile = found["requests while it compiles"]
    assert meanwhile["over"] and meanwhile["taken over"] == [2] and "decoder, 1" in meanwhile["stages"]
    assert found["step"]["2"]["compiled"]["relative_error"] < 1e-5
    assert found["step"]["2"]["compiled"]["kernels"]["by_kind"]["convolution"]["ms"] > 0
    assert found["files"]["converted_gb"] > 0 and found["start, converted"]["seven_s"] > 0


def test_the_gpu_plan_skips_what_there_is_no_time_for(tmp_path):
    h200.main([*TOY, "--out", str(tmp_path), "--budget", "0"])
    found = json.loads((tmp_path / "h200.json").read_text())
    assert "are needed" in found["matrix product"]["skipped"] and "end_to_end" not in found


def test_kernels_are_known_by_their_names():
    names = {
        "triton_red_fused_var_mean_12": "fused by the compiler",
        "sm90_xmma_fprop_implicit_gemm_f16f16": "convolution",
        "nvjet_hsh_128x256_64x4_coopA_NNT": "matrix product",
        "void pytorch_flash::flash_fwd_kernel<...>": "attention",
        "void cudnn::ops::nchwToNhwcKernel<...>": "layout copies",
    }
    assert {name: kind_of(name) for name in names} == names


def test_fp8_products_are_rounded_and_the_pictures_compared(tmp_path, capsys):
    fp8.main(["--device", "cpu", "--steps", "1", "--colors", "red", "--out", str(tmp_path / "f.json")])
    found = json.loads((tmp_path / "f.json").read_text())["fp8"]["1"]
    assert 30 < found["worst_db"] < 90 and 0 < found["latent_relative_error"] < 0.1
    assert found["products_a_step"] > 50 and "the worst colour" in capsys.readouterr().out


def test_fp8_as_the_engine_computes_it_leaves_the_pipeline_as_it_was(tmp_path, capsys, monkeypatch):
    pipelines = []
    made = nano_subject()

    def kept(*given):
        pipelines.append(made.pipeline(*given))
        return pipelines[-1]

    monkeypatch.setattr(fp8, "subject", lambda model: Subject("nano", kept, made.plain, 2))
    fp8.main(["--device", "cpu", "--steps", "2", "--colors", "red", "--products", "engine",
              "--out", str(tmp_path / "f.json")])  # fmt: skip
    found = json.loads((tmp_path / "f.json").read_text())["fp8"]["2"]
    assert 30 < found["worst_db"] < 90 and found["products_a_step"] == 36
    assert not uses_float8(pipelines[0].network)


def test_fp8_tells_what_parts_of_the_step_cost(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fp8, "subject", nano_subject)
    fp8.main(["--device", "cpu", "--parts", "--out", str(tmp_path / "f.json")])
    found = json.loads((tmp_path / "f.json").read_text())["step"]
    assert (
        0
        < found["products after GEGLU"]
        < found["feed-forwards"]
        < found["all but those after attention"]
        < 0.2
    )
    assert found["as the engine"] == found["all but those after attention"]
    assert found["feed-forwards"] == found["feed-forwards of maps twice as wide"]
    assert "feed-forwards of the finest maps" not in found  # this model has none
    assert "relative error of a step" in capsys.readouterr().out


def test_the_forms_of_the_step_are_measured_and_compared(tmp_path, capsys):
    forms.main([*TOY, "--out", str(tmp_path), "--steps", "1", "--size", "1",
                "--only", "as it is", "fp8, feed-forward"])  # fmt: skip
    found, printed = json.loads((tmp_path / "forms.json").read_text()), capsys.readouterr().out
    assert found["as it is"]["relative_error"] == 0 and found["as it is"]["ms"] > 0
    assert 0.001 < found["fp8, feed-forward"]["relative_error"] < 0.2
    assert found["fp8, feed-forward"]["worst_db"] < found["as it is"]["worst_db"]
    assert any(name.startswith("geglu") for name in found["single products"]) and found["finished"] is True
    assert "| fp8, feed-forward |" in printed


def test_a_form_that_cannot_be_compiled_does_not_keep_others_from_being_measured(tmp_path, monkeypatch):
    class Plain(ahead.AheadOfTime):
        def __call__(self, part, name):
            if name.startswith("kernels tuned"):
                raise CompilationError("no such setting")
            return getattr(part.network, part.method)

    monkeypatch.setattr(forms, "AheadOfTime", Plain)
    forms.main([*TOY[:-1], "on", "--out", str(tmp_path), "--steps", "1", "--size", "1",
                "--only", "as it is", "kernels tuned"])  # fmt: skip
    found = json.loads((tmp_path / "forms.json").read_text())
    assert found["compiling"]["not ready"] == ["kernels tuned"] and "failed" in found["kernels tuned"]
    assert found["as it is"]["ms"] > 0


def test_fp8_keeps_three_binary_digits_at_the_scale_of_each_row():
    x = torch.tensor([[448.0, 1.0, 17.0], [0.448, 0.017, 0.0]])
    assert torch.allclose(fp8.rounded(x), torch.tensor([[448.0, 1.0, 16.0], [0.448, 0.016, 0.0]]))


def test_results_are_on_disk_after_every_entry(tmp_path):
    results = Results(tmp_path / "deep" / "r.json", {"commit": "abc"})
    results.put("one", 1)
    assert json.loads((tmp_path / "deep" / "r.json").read_text()) == {"commit": "abc", "one": 1}


def test_flop_of_a_product_and_tables():
    a = torch.ones(3, 4)
    assert flop(lambda: a @ torch.ones(4, 5)) == 2 * 3 * 4 * 5
    assert table(["a", "b"], [[1, 0.12345], [None, 1234.5]]) == (
        "| a | b |\n|---|---|\n| 1 | 0.123 |\n|  | 1234 |"
    )
