"""Every recorded tensor of the published model, part by part and then whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cldm import Conditions, ControlLDM
from ldm.autoencoder import AutoencoderKL
from ldm.sampling import sample_ddim
from ldm.schedule import ddim_timesteps
from ldm.text import FrozenOpenCLIPEmbedder, TextTowerParams
from tests.golden.fill import fill_by_name, golden_photo
from tests.model.conftest import TINY


@pytest.fixture(scope="module")
def conditions(tiny_model: ControlLDM, photo: Tensor) -> Conditions:
    """Text without mask, light of a white reference, intrinsics of the photo."""
    with torch.no_grad():
        prior = tiny_model.control_model.prior_extracter
        code, tokens = tiny_model.light(torch.ones_like(photo))
        return tiny_model.conditions(
            tiny_model.cond_stage_model(), prior.model_latents.intrinsic(photo), code, tokens
        )


def test_the_photo_is_the_golden_one(photo):
    assert torch.equal(golden_photo()[None], photo)


def test_noise_of_a_seed_is_the_recorded_noise(golden):
    assert torch.equal(
        torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1234)), golden["x_T"]
    )


def test_schedule(tiny_model, golden, recorded):
    recorded("alphas_cumprod", tiny_model.schedule.alphas_cumprod)
    assert torch.equal(ddim_timesteps(50), golden["ddim_timesteps_50"])


def test_text_without_mask(tiny_model, recorded):
    recorded("text_nomask", tiny_model.cond_stage_model()[:, ::7, ::16])


def test_text_with_causal_mask(tiny_model, recorded):
    causal = FrozenOpenCLIPEmbedder(TextTowerParams(layers=2, causal_mask=True))
    causal.load_state_dict(tiny_model.cond_stage_model.state_dict())
    recorded("text_causal", causal()[:, ::7, ::16].detach())


def test_intrinsic_features(tiny_model, photo, recorded):
    intrinsic = tiny_model.control_model.prior_extracter.model_latents.intrinsic(photo)
    recorded("intrinsic_64_slice", intrinsic[:, ::8, ::4, ::4])


def test_light_codes_and_tokens(tiny_model, photo, recorded):
    prior = tiny_model.control_model.prior_extracter
    recorded("extrinsic_off", prior.model_latents.light_code(photo))
    code, tokens = tiny_model.light(torch.ones_like(photo))
    recorded("extrinsic_white", code)
    recorded("light_tokens", tokens)


def test_control_at_one_timestep(tiny_model, conditions, golden, recorded):
    control = tiny_model.control_model(
        golden["x_T"], conditions.hint_features, torch.tensor([481]), conditions.context
    )
    assert len(control) == 5
    for index, tensor in enumerate(control):
        recorded(f"control_{index}_slice", tensor[:, ::8, ::8, ::8])


def test_v_at_one_timestep(tiny_model, conditions, golden, recorded):
    recorded("v_t481", tiny_model(golden["x_T"], torch.tensor([481]), conditions))


def test_fifty_ddim_steps(tiny_model, conditions, golden, recorded):
    visited = []
    z0 = sample_ddim(
        lambda x, t: (visited.append(int(t[0])), tiny_model(x, t, conditions))[1],
        golden["x_T"],
        tiny_model.schedule,
        50,
    )
    recorded("z0_ddim50", z0)
    assert visited == golden["ddim_timesteps_50"].flip(0).tolist()


def test_bypass_autoencoder(tiny_model, photo, golden, recorded):
    posterior, features = tiny_model.first_stage_model.encode_with_features(2 * photo - 1)
    recorded("bypass_mean", posterior.mean)
    recorded("bypass_hs_0_slice", features.image[:, :, ::16, ::16])
    for index, level in enumerate(features.levels, start=1):
        recorded(f"bypass_hs_{index}_slice", level[:, ::16, ::16, ::16])
    picture = tiny_model.decode_first_stage(golden["z0_ddim50"], features)
    recorded("bypass_decode_slice", picture[:, :, ::4, ::4])


def test_plain_autoencoder(photo, golden, recorded):
    autoencoder = AutoencoderKL(TINY.first_stage).eval().requires_grad_(False)
    fill_by_name((f"sd_first_stage_model.{name}", value) for name, value in autoencoder.named_parameters())
    recorded("sd_vae_mean", autoencoder.encode(2 * photo - 1).mean)
    picture = autoencoder.decode(golden["z0_ddim50"] / TINY.scale_factor)
    recorded("sd_vae_decode_slice", picture[:, :, ::8, ::8])


def test_zero_control_is_no_control(tiny_model, conditions, golden):
    unet, t = tiny_model.model.diffusion_model, torch.tensor([481])
    control = tiny_model.control_model(golden["x_T"], conditions.hint_features, t, conditions.context)
    nothing = [torch.zeros_like(tensor) for tensor in control]
    without = unet(golden["x_T"], t, conditions.context)
    assert torch.equal(unet(golden["x_T"], t, conditions.context, nothing), without)
    assert not torch.allclose(unet(golden["x_T"], t, conditions.context, control), without)
