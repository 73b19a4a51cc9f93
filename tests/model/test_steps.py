"""The fast form of the denoiser is the plain one: same values, for any timesteps and conditions."""

from __future__ import annotations

import copy

import pytest
import torch

from cldm import Conditions, ControlLDM, StepConditions, StepNetwork
from tests.nano import nano_model


def random_inputs(model: ControlLDM, batch: int) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    """Noise, a timestep of its own for each row, conditions of their own for each row."""
    params, generator = model.params, torch.Generator().manual_seed(5)
    size = params.image_size
    x = torch.randn(batch, params.channels, size, size, generator=generator)
    t = torch.randint(0, params.timesteps, (batch,), generator=generator)
    context = torch.randn(batch, 7, params.unet.context_dim, generator=generator)
    hint = torch.randn(batch, params.unet.model_channels, size, size, generator=generator)
    return x, t, Conditions(context, hint)


def fast(network: StepNetwork, x: torch.Tensor, t: torch.Tensor, conditions: Conditions) -> torch.Tensor:
    return network(x, t, conditions.hint_features, network.keys_values(conditions.context))


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_it_is_the_plain_forward(batch):
    plain, model = nano_model(), nano_model()
    x, t, conditions = random_inputs(plain, batch)
    expected = plain(x, t, conditions)
    ours = fast(StepNetwork(model), x, t, conditions)
    assert expected.std() > 1e-2
    assert (ours - expected).norm() / expected.norm() < 1e-5


@torch.no_grad()
def test_it_gives_the_published_v(tiny_model, golden, photo, recorded):
    code, tokens = tiny_model.light(torch.ones_like(photo))
    intrinsic = tiny_model.control_model.prior_extracter.model_latents.intrinsic(photo)
    conditions = tiny_model.conditions(tiny_model.cond_stage_model(), intrinsic, code, tokens)
    network = StepNetwork(copy.deepcopy(tiny_model))
    recorded("v_t481", fast(network, golden["x_T"], torch.tensor([481]), conditions))


@torch.no_grad()
def test_names_and_values_of_the_weights_stay_and_the_plain_forward_too():
    model = nano_model()
    names = {name: value.clone() for name, value in model.state_dict().items()}
    x, t, conditions = random_inputs(model, 2)
    expected = model(x, t, conditions)
    StepNetwork(model)
    state = model.state_dict()
    assert state.keys() == names.keys()
    assert all(torch.equal(state[name], value) for name, value in names.items())
    assert (model(x, t, conditions) - expected).norm() / expected.norm() < 1e-5


@torch.no_grad()
def test_rows_do_not_see_each_other():
    network = StepNetwork(nano_model())
    x, t, conditions = random_inputs(nano_model(), 4)
    together = fast(network, x, t, conditions)
    for row in range(4):
        one = slice(row, row + 1)
        alone = fast(
            network, x[one], t[one], Conditions(conditions.context[one], conditions.hint_features[one])
        )
        assert (together[one] - alone).norm() / alone.norm() < 1e-5


def test_conditions_of_several_pictures_are_joined_and_cut_in_order():
    def one(value: float) -> StepConditions:
        return StepConditions(torch.full((1, 2, 1, 1), value), torch.full((1, 3, 4), value))

    joined = StepConditions.cat([one(0.0), one(1.0), one(2.0)])
    assert joined.batch == 3
    assert joined.rows(1, 3).hint_features[:, 0, 0, 0].tolist() == [1.0, 2.0]
    assert joined.rows(1, 3).keys_values[:, 0, 0].tolist() == [1.0, 2.0]
