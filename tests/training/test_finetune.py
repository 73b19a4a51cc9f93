"""What the fine-tuning modules learn, from which loss, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from ldm.attention import SpatialTransformer
from lumiply.colors import COLORS
from lumiply.engine.pipeline import Pipeline
from lumiply.engine.pixels import to_bytes, to_picture
from lumiply.training.adaptors import AdaptorTuning, adaptors_of
from lumiply.training.batches import PhotoBatches, pairs_of
from lumiply.training.crossattn import CrossAttentionTuning, model_names
from lumiply.training.finetune import FineTuning
from lumiply.training.photos import PhotoPairs, PhotoSample, scan
from tests.nano import NANO, nano_adaptor, nano_model
from tests.photos import make_split

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PhotoPairs:
    root = make_split(tmp_path_factory.mktemp("photos"), train=4, validation=2)
    return pairs_of(scan(root), NANO.picture_size, ["white", "red"])[0]


def batch_of(pairs: PhotoPairs, *indices: int) -> PhotoSample:
    return default_collate([pairs[index] for index in indices])


def of_color(pairs: PhotoPairs, color: str, count: int = 2) -> PhotoSample:
    found = [index for index, (_, lit) in enumerate(pairs.pairs) if lit == color]
    return batch_of(pairs, *found[:count])


def loss_of(module: FineTuning, batch: PhotoSample) -> torch.Tensor:
    """The training loss, without a trainer."""
    draw = torch.Generator().manual_seed(3)
    x0 = module.latents(batch, module.normal(draw, len(batch.off)))
    t = torch.tensor([37, 801])[: len(x0)]
    return module.loss(x0, module.normal(draw, len(x0)), t, module.conditions(batch))


def test_the_loss_is_the_squared_error_of_v(pairs: PhotoPairs) -> None:
    """MODEL.md, section 2, computed here from its own formulas in double precision."""
    module = CrossAttentionTuning(nano_model())
    batch = of_color(pairs, "white")
    model, draw = nano_model(), torch.Generator().manual_seed(0)
    posterior = model.first_stage_model.encode(2 * batch.on - 1)
    sample, noise = (torch.randn(posterior.mean.shape, generator=draw) for _ in range(2))
    t = torch.tensor([20, 700])
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0)[t].view(-1, 1, 1, 1)
    x0 = 0.18215 * (posterior.mean + (posterior.log_variance / 2).exp() * sample).double()
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * noise).float()
    v = a.sqrt() * noise - (1 - a).sqrt() * x0
    prior = model.control_model.prior_extracter
    code, tokens = model.light(torch.ones(2, 3, 64, 64))
    conditions = model.conditions(
        model.cond_stage_model(), prior.model_latents.intrinsic(batch.off), code, tokens
    )
    expected = (model(x_t, t, conditions) - v).square().mean()
    got = module.loss(module.latents(batch, sample), noise, t, module.conditions(batch))
    assert float(got.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_every_spatial_transformer_learns_and_nothing_else(pairs: PhotoPairs) -> None:
    module = CrossAttentionTuning(nano_model(), learning_rate=1e-3)
    model = module.model
    expected = {
        f"{part}.{name}.{inner}"
        for part, network in (("model.model", model.model), ("model.control_model", model.control_model))
        for name, layer in network.named_modules()
        if isinstance(layer, SpatialTransformer)
        for inner, _ in layer.named_parameters()
    }
    assert set(module.trained()) == expected and any("control_model" in name for name in expected)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = module.configure_optimizers()
    loss_of(module, of_color(pairs, "white")).backward()
    missing = [name for name, value in module.trained().items() if value.grad is None or not value.grad.any()]
    assert missing == []
    optimizer.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == expected


def test_training_leaves_the_tensors_that_were_loaded_alone(pairs: PhotoPairs) -> None:
    """They may be mapped from the base's file."""
    model = nano_model()
    loaded = {name: (value, value.clone()) for name, value in model.state_dict().items()}
    module = CrossAttentionTuning(model, learning_rate=1e-2)
    loss_of(module, of_color(pairs, "white")).backward()
    module.configure_optimizers().step()
    assert all(torch.equal(value, copy) for value, copy in loaded.values())
    trained = model_names(dict(module.trained()))
    assert not any(torch.equal(value, loaded[name][0]) for name, value in trained.items())


@pytest.mark.parametrize("kind", ["crossattn", "adaptors"])
def test_recomputing_activations_keeps_fewer_of_them_and_changes_no_gradient(
    pairs: PhotoPairs, kind: str
) -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        module: FineTuning = (
            CrossAttentionTuning(nano_model(), recompute=recompute)
            if kind == "crossattn"
            else AdaptorTuning(nano_model(), ["white"], recompute=recompute)
        )
        tensors: dict[int, int] = {}

        def pack(tensor: torch.Tensor, tensors: dict[int, int] = tensors) -> torch.Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(module, of_color(pairs, "white"))
        loss.backward()
        gradients.append({name: value.grad for name, value in module.trained().items()})
        kept.append(sum(tensors.values()))
    assert gradients[0] and all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert kept[1] < 0.7 * kept[0]


def test_both_halves_of_an_adaptor_learn_and_the_model_does_not(pairs: PhotoPairs) -> None:
    module = AdaptorTuning(nano_model(), ["red"], learning_rate=1e-2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loss_of(module, of_color(pairs, "red")).backward()
    optimizer = module.configure_optimizers()
    assert all(value.grad is not None and value.grad.any() for value in module.trained().values())
    optimizer.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(module.trained())
    assert {name.split(".")[0] for name in changed} == {"encoders", "decoders"}


def test_a_colour_that_is_not_in_the_batch_takes_no_step(pairs: PhotoPairs) -> None:
    module = AdaptorTuning(nano_model(), ["white", "red"], learning_rate=1e-2)
    optimizer = module.configure_optimizers()
    for color in ("red", "white"):  # red has momentum when white has its turn
        red = {name: value.clone() for name, value in module.trained().items() if ".red." in name}
        optimizer.zero_grad()
        loss_of(module, of_color(pairs, color)).backward()
        optimizer.step()
        moved = [name for name, value in red.items() if not torch.equal(module.trained()[name], value)]
        assert bool(moved) == (color == "red")


def test_colours_start_from_the_models_white_or_from_a_given_adaptor() -> None:
    given = nano_adaptor("blue")
    module = AdaptorTuning(nano_model(), ["red", "blue"], start={"blue": given})
    made = adaptors_of(module.trained())
    prior = nano_model().control_model.prior_extracter
    assert all(torch.equal(value, made["blue"].light_decoder[n]) for n, value in given.light_decoder.items())
    own = prior.model_latents.light_encoder.state_dict()
    assert all(torch.equal(value, made["red"].light_encoder[n]) for n, value in own.items())


def test_a_mixed_batch_gets_the_light_that_the_product_gives_each_colour(pairs: PhotoPairs) -> None:
    adaptors = {color: nano_adaptor(color) for color in ("red", "blue")}
    module = AdaptorTuning(nano_model(), ["red", "blue"], start=adaptors)
    names = ["blue", "red", "red", "blue"]
    code, tokens = module.light(torch.tensor([COLORS.index(name) for name in names]))
    expected_code, expected_tokens = Pipeline(nano_model(), adaptors).palette.select(names)
    torch.testing.assert_close(code.detach(), expected_code)
    torch.testing.assert_close(tokens.detach(), expected_tokens)


def test_a_picture_drawn_in_training_is_the_one_that_the_product_draws(pairs: PhotoPairs) -> None:
    """Same noise, same steps; the photo is square and of the model's size, so that nothing is resized."""
    module = CrossAttentionTuning(nano_model())
    sample = of_color(pairs, "white", 1)
    batch = PhotoSample(sample.off, sample.on, 2 * sample.off - 1, sample.color)
    drawn = module.draw(batch, 5)[0]
    pipeline = Pipeline(nano_model(), {})
    prepared = pipeline.prepare(photo_of(sample), ["white"])
    latents = pipeline.denoise(prepared.conditions, module.normal(module.generator(2, 0, 0), 1), 5)
    levels = pipeline.decode(latents, prepared.features)[0]
    assert drawn.size == (64, 64)
    difference = (
        torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).int() - levels.flatten().int()
    )
    assert int(difference.abs().max()) <= 1


def photo_of(sample: PhotoSample) -> Image.Image:
    return to_picture(to_bytes(2 * sample.off - 1)[0], (64, 64))


# the order of the pairs


def test_a_pass_visits_every_pair_once_in_an_order_of_seed_and_epoch(pairs: PhotoPairs) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return PhotoBatches(pairs, 3, seed=seed, shuffle=True).order(epoch)

    assert sorted(order(0, 0)) == list(range(len(pairs)))
    assert order(0, 1) == order(0, 1) != order(0, 0) != order(1, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_are_the_same_whoever_decodes_them_and_draw_nothing_global(tmp_path: Path) -> None:
    photos = scan(make_split(tmp_path, train=3, validation=1))
    flipped, _ = pairs_of(photos, 16, ["white", "red"], flip=True)
    passes = []
    for workers in (0, 2):
        before = torch.get_rng_state()
        batches = PhotoBatches(flipped, 4, shuffle=True, workers=workers, epoch=lambda: 5)
        passes.append(list(batches))
        assert len(passes[-1]) == len(batches) == 2
        assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(*passes, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_epoch_is_asked_when_the_first_batch_is_fetched(pairs: PhotoPairs) -> None:
    epoch = 0
    batches = PhotoBatches(pairs, 2, shuffle=True, epoch=lambda: epoch)
    iterator = iter(batches)
    epoch = 3
    expected = [pairs.pairs[index][1] for index in batches.order(3)]
    got = [COLORS[int(color)] for batch in iterator for color in batch.color]
    assert got == expected
