"""The training stages: budgets, gradients, whitening, and a short run of each."""

from __future__ import annotations

import copy

import pytest
import torch

from ldm.sampling import sample_ddim
from lumiply.training.pairs import PairDataset, PairOptions, seven_colors
from lumiply.training.stage_base import Budget
from lumiply.training.stages import (
    AdaptorStage,
    AutoencoderStage,
    BaseStage,
    Objective,
    flat_references,
    whiten_latents,
)
from tests.nano import NANO, nano_model

OPTIONS = PairOptions(colors_per_batch=2)


@pytest.fixture
def model():
    return nano_model().requires_grad_(True)


@pytest.fixture
def batch(pool):
    return next(iter(PairDataset(pool, 4, seed=0, options=OPTIONS)))


def without_gradient(stage) -> list[str]:
    return [
        name
        for name, value in stage.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.abs().sum() > 0)
    ]


def test_every_tensor_of_the_autoencoder_gets_a_gradient(model, batch, monkeypatch):
    stage = AutoencoderStage(model.first_stage_model, Budget(1))
    monkeypatch.setattr(stage, "log_dict", lambda *args, **kwargs: None)
    stage.training_step(batch, 0).backward()
    assert without_gradient(stage) == []


def test_every_unfrozen_tensor_of_the_base_stage_gets_a_gradient(model, batch, monkeypatch):
    stage = BaseStage(model, Budget(1))
    monkeypatch.setattr(stage, "log", lambda *args, **kwargs: None)
    stage.training_step(batch, 0).backward()
    assert without_gradient(stage) == []
    frozen = {name.split(".")[1] for name, value in stage.named_parameters() if not value.requires_grad}
    assert frozen == {"first_stage_model", "cond_stage_model"}


def test_training_on_pictures_reaches_the_bypass_decoder_but_not_the_encoder(model, batch, monkeypatch):
    stage = BaseStage(model, Budget(1), objective=Objective(pictures=True, last_share=0.5))
    monkeypatch.setattr(stage, "log", lambda *args, **kwargs: None)
    stage.training_step(batch, 0).backward()
    assert without_gradient(stage) == []
    trained = {name for name, value in stage.named_parameters() if value.requires_grad}
    assert "model.first_stage_model.decoder.conv_out.weight" in trained
    assert not any(name.startswith("model.first_stage_model.encoder.") for name in trained)


@torch.no_grad()
def test_a_pair_at_the_last_timestep_is_finished_as_a_one_step_render(model, batch):
    stage = BaseStage(model, Budget(1))
    noise = torch.randn(len(batch.off), *stage.latent_shape())
    t = torch.full((len(noise),), 999)
    light = stage.light(batch)
    conditions = stage.conditions(batch.off, *light)
    rendered = sample_ddim(lambda x, t: model(x, t, conditions), noise, model.schedule, 1)
    v = stage.predict_v(noise, t, batch.off, *light)
    assert torch.allclose(stage.finish(noise, v, t), rendered, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("share", "pure"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_the_share_that_starts_from_pure_noise_is_as_asked(model, share, pure):
    stage = BaseStage(model, Budget(1), objective=Objective(last_share=share))
    x0, noise = torch.full((8, 4, 4, 4), 100.0), torch.randn(8, 4, 4, 4)
    x, t = stage.noisy(x0, noise)
    is_noise = (x == noise).flatten(1).all(dim=1)
    assert is_noise.sum() == pure
    assert (t[is_noise] == 999).all()


def test_a_share_is_between_0_and_1():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        Objective(last_share=1.5)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_compiled_stage_runs_what_the_compiler_made_and_validates_without_it(
    model, batch, monkeypatch, pictures
):
    ran = []

    def compile_(function, **options):
        assert options == {"dynamic": False}
        return lambda *args: (ran.append(function.__name__), function(*args))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    stage = BaseStage(model, Budget(1), objective=Objective(pictures=pictures, compiled=True))
    for log in ("log", "log_dict"):
        monkeypatch.setattr(stage, log, lambda *args, **kwargs: None)
    stage.train().training_step(batch, 0).backward()
    assert set(ran) == {"latents", "predict_v", "light"} | ({"decode"} if pictures else set())
    ran.clear()
    with torch.no_grad():
        stage.eval().validation_step(batch, 0)
    assert ran == []  # other sizes and no gradients would have it compile again


def test_adaptors_train_the_light_encoder_as_well_as_the_light_decoder(model, pool, monkeypatch):
    colors = seven_colors("cpu")[1:3]
    stage = AdaptorStage(model, colors, Budget(1))
    monkeypatch.setattr(stage, "log", lambda *args, **kwargs: None)
    pairs = PairDataset(pool, 4, seed=0, options=OPTIONS, fixed_colors=colors)
    stage.training_step(next(iter(pairs)), 0).backward()
    assert without_gradient(stage) == []
    trained = {name.split(".")[0] for name, value in stage.named_parameters() if value.requires_grad}
    assert trained == {"encoders", "decoders"}


def test_imitating_the_base_gives_each_colour_the_code_of_its_flat_reference(model):
    colors = seven_colors("cpu")[1:3]
    stage = AdaptorStage(model, colors, Budget(1))
    wanted, _ = model.light(flat_references(colors, NANO.picture_size))
    before = (stage.palette()[0] - wanted).norm()
    stage.imitate_base(300)
    assert (stage.palette()[0] - wanted).norm() < 0.2 * before


def test_a_white_flat_reference_is_the_white_picture_of_inference():
    assert torch.allclose(flat_references(torch.ones(1, 3), 16), torch.ones(1, 3, 16, 16), atol=1e-6)


@torch.no_grad()
def test_whitened_latents_have_unit_variance_and_decode_to_the_same_pictures(model, pool):
    batches = [next(iter(PairDataset(pool, 6, seed=seed, options=OPTIONS))) for seed in range(3)]
    first_stage = model.first_stage_model
    before = copy.deepcopy(first_stage)
    whiten_latents(first_stage, batches, NANO.scale_factor)
    latents = []
    for batch in batches:
        old, new = before.encode(2 * batch.on - 1), first_stage.encode(2 * batch.on - 1)
        features = before.bypass_features(2 * batch.off - 1)
        expected = before.decode(old.mean, features)
        assert torch.allclose(
            first_stage.decode(new.mean, features), expected, atol=2e-4 * expected.abs().max()
        )
        latents.append(NANO.scale_factor * new.sample(torch.randn_like(new.mean)))
    z = torch.cat(latents)
    assert torch.allclose(z.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.1)
    assert torch.allclose(z.std(dim=(0, 2, 3)), torch.ones(4), atol=0.1)


@pytest.mark.filterwarnings("default")
def test_a_stage_runs_logs_and_stops_at_its_budget(model, pool, tmp_path):
    from lumiply.training.run import run_stage

    stage = AutoencoderStage(model.first_stage_model, Budget(3, warmup=1))
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    run_stage(
        stage,
        PairDataset(pool, 2, seed=0, options=OPTIONS),
        PairDataset(pool, 2, seed=1, options=OPTIONS, length=1),
        out=tmp_path,
        accelerator="cpu",
        validate_every=2,
    )
    assert any(not torch.equal(before[name], value) for name, value in stage.state_dict().items())
    logged = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "val/psnr" in logged


@pytest.mark.filterwarnings("default")
def test_a_stage_whose_time_is_up_stops_at_once(model, pool, tmp_path):
    from lumiply.training.run import run_stage

    stage = AutoencoderStage(model.first_stage_model, Budget(10**9, seconds=1e-6))
    data = PairDataset(pool, 2, seed=0, options=OPTIONS)
    run_stage(stage, data, PairDataset(pool, 2, seed=1, length=1), out=tmp_path, accelerator="cpu")
    assert stage.trainer.global_step <= 1
