"""The pipeline: a result depends on photo, colour, seed and steps, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.pixels import bypass_picture, hint_picture, to_bytes
from lumiply.errors import RenderError, UserError
from tests.golden.fill import golden_photo
from tests.nano import nano_adaptor, nano_model, nano_pipeline


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return nano_pipeline()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    pixels = (golden_photo(90, 120) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


def latents(pipeline: Pipeline, photo: Image.Image, colors, steps: int = 5, seed: int = 3) -> torch.Tensor:
    prepared = pipeline.prepare(photo, colors)
    return pipeline.denoise(prepared.conditions, pipeline.noise(seed), steps)


def test_seven_colours_come_back_at_the_photos_size(pipeline, photo):
    pictures = pipeline.relight(photo, COLORS, seed=1, steps=3)
    assert tuple(pictures) == COLORS
    assert {picture.size for picture in pictures.values()} == {photo.size}
    assert {picture.mode for picture in pictures.values()} == {"RGB"}


def test_colours_differ(pipeline, photo):
    seven = latents(pipeline, photo, COLORS)
    for first in range(len(COLORS)):
        for second in range(first):
            assert (seven[first] - seven[second]).abs().max() > 1e-3


def test_a_batch_of_seven_equals_seven_singles(pipeline, photo):
    together = latents(pipeline, photo, COLORS)
    for index, color in enumerate(COLORS):
        alone = latents(pipeline, photo, [color])[0]
        assert (together[index] - alone).norm() / alone.norm() < 1e-4


def test_white_after_purple_is_white_bit_for_bit(pipeline, photo):
    first = latents(pipeline, photo, ["white"])
    latents(pipeline, photo, ["purple"])
    assert torch.equal(latents(pipeline, photo, ["white"]), first)


def test_white_without_an_adaptor_is_the_base_weights(photo):
    alone = nano_pipeline(colors=())
    assert alone.palette.names == ("white",)
    model = nano_model()
    code, tokens = model.light(torch.ones(1, 3, alone.picture_size, alone.picture_size))
    assert torch.equal(alone.palette.codes, code)
    assert torch.equal(alone.palette.tokens, tokens)
    assert torch.equal(latents(alone, photo, ["white"]), latents(nano_pipeline(), photo, ["white"]))


def test_an_adaptor_in_the_palette_is_the_adaptor_loaded_into_the_model(pipeline):
    model, adaptor = nano_model(), nano_adaptor("green")
    prior = model.control_model.prior_extracter
    prior.model_latents.light_encoder.load_state_dict(adaptor.light_encoder)
    prior.light_decoder.load_state_dict(adaptor.light_decoder)
    code, tokens = model.light(torch.ones(1, 3, pipeline.picture_size, pipeline.picture_size))
    own_code, own_tokens = pipeline.palette.select(["green"])
    assert torch.equal(own_code, code) and torch.equal(own_tokens, tokens)


def test_a_colour_that_is_not_loaded_is_refused_with_the_file_to_add(photo):
    with pytest.raises(UserError, match=r"adaptor_red\.pth"):
        nano_pipeline(colors=("blue",)).prepare(photo, ["white", "red"])


def test_the_seed_decides_the_noise(pipeline, photo):
    assert torch.equal(latents(pipeline, photo, ["red"], seed=5), latents(pipeline, photo, ["red"], seed=5))
    assert not torch.equal(
        latents(pipeline, photo, ["red"], seed=5), latents(pipeline, photo, ["red"], seed=6)
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50])
def test_as_many_steps_run_as_were_asked_for(pipeline, photo, steps):
    seen = []
    prepared = pipeline.prepare(photo, ["white"])
    pipeline.denoise(
        prepared.conditions, pipeline.noise(1), steps, lambda step, total: seen.append((step, total))
    )
    assert seen == [(step, steps) for step in range(1, steps + 1)]


def test_progress_tells_of_every_stage_and_may_end_the_render(pipeline, photo):
    seen = []
    pipeline.relight(photo, ["red", "blue"], seed=1, steps=2, on_stage=lambda *stage: seen.append(stage))
    assert seen == [
        ("prepare", 0, 1),
        ("prepare", 1, 1),
        ("denoise", 1, 2),
        ("denoise", 2, 2),
        ("decode", 1, 2),
        ("decode", 2, 2),
    ]

    def stop(stage, step, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.relight(photo, ["red"], seed=1, steps=2, on_stage=stop)


def test_numbers_that_are_not_finite_are_an_error_and_not_a_black_picture(pipeline, photo):
    prepared = pipeline.prepare(photo, ["white"])
    broken = torch.full((1, 4, 8, 8), float("nan"))
    with pytest.raises(RenderError, match="not finite"):
        pipeline.decode(broken, prepared.features)


def test_the_plain_first_stage_is_refused():
    from cldm import ControlLDM
    from tests.nano import NANO

    with pytest.raises(TypeError, match="use_bypass_first_stage"):
        Pipeline(ControlLDM(NANO), {})


def test_the_hint_is_resized_by_bicubic_and_lies_in_0_to_1(photo):
    hint = hint_picture(photo, 64)
    expected = np.asarray(photo.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    assert hint.shape == (1, 3, 64, 64)
    assert np.abs(hint[0].numpy() - expected).max() < 1e-6


def test_the_bypass_picture_is_plain_bilinear_without_antialiasing():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 1::2] = 255
    picture = bypass_picture(Image.fromarray(stripes), 32)
    # half-pixel centres fall between two stripes: their mean; PIL's antialiasing would reach further
    assert picture.abs().max() < 1e-6
    single = np.zeros((8, 8, 3), np.uint8)
    single[0, 0] = 255
    quarter = bypass_picture(Image.fromarray(single), 2)
    assert torch.equal(quarter, torch.full_like(quarter, -1.0))


def test_eight_bits_are_rounded_not_truncated():
    levels = torch.tensor([-1.5, -1.0, 0.0, 1.0 - 0.9 / 255, 1.0 - 1.1 / 255, 1.0, 7.0]).view(1, 1, 1, -1)
    expected = [0, 0, 128, 255, 254, 255, 255]
    assert to_bytes(levels.expand(-1, 3, -1, -1))[0, 0, :, 0].tolist() == expected


def test_features_of_one_photo_serve_a_whole_batch_without_copies(pipeline, photo):
    features = pipeline.prepare(photo, ["white"]).features
    many = features.expand(7)
    assert many.image.shape[0] == 7 and many.image.data_ptr() == features.image.data_ptr()
    assert F.mse_loss(many.levels[0][6], features.levels[0][0]) == 0


def test_a_picture_is_encoded_to_the_latent_that_training_takes(pipeline, photo):
    latent = pipeline.encode(photo)
    model = nano_model()
    posterior = model.first_stage_model.encode(bypass_picture(photo, pipeline.picture_size))
    assert torch.allclose(latent, model.params.scale_factor * posterior.mean, atol=1e-5)
    decoded = pipeline.decode(latent, pipeline.features(photo))[0]
    exact = model.decode_first_stage(
        latent, model.first_stage_model.bypass_features(bypass_picture(photo, 64))
    )
    assert (decoded.int() - to_bytes(exact)[0].int()).abs().max() <= 1
