"""Savings in the decoder: one transposed convolution for doubling, the photo's share done once a photo."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ldm.layers import Upsample
from modi_vae import MergedFeatures
from modi_vae.autoencoder import Merge
from tests.nano import nano_model


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
@torch.no_grad()
def test_packed_doubling_is_doubling_and_convolution_borders_included(size):
    layer = Upsample(6)
    x = torch.randn(2, 6, *size)
    expected = F.conv2d(
        F.interpolate(x, scale_factor=2.0, mode="nearest"), layer.conv.weight, layer.conv.bias, padding=1
    )
    assert torch.equal(layer(x), expected)
    names = set(layer.state_dict())
    layer.pack()
    assert set(layer.state_dict()) == names
    assert torch.allclose(layer(x), expected, atol=1e-5)


@torch.no_grad()
def test_a_merge_in_two_parts_is_the_convolution_of_the_concatenation():
    merge = Merge(6, 3)
    torch.nn.init.normal_(merge.conv.weight)
    torch.nn.init.normal_(merge.conv.bias)
    h, feature = torch.randn(2, 6, 5, 7), torch.randn(2, 3, 5, 7)
    whole = merge.conv(torch.cat([h, feature], dim=1))
    assert torch.allclose(merge(h, merge.photo_part(feature)), whole, atol=1e-5)


@torch.no_grad()
def test_features_merged_once_serve_every_latent_of_the_photo():
    model = nano_model()
    photo = torch.rand(1, 3, 64, 64) * 2 - 1
    z = torch.randn(3, 4, 8, 8)
    features = model.first_stage_model.bypass_features(photo)
    merged = model.first_stage_model.merge(features)
    assert isinstance(merged, MergedFeatures) and isinstance(merged.expand(3), MergedFeatures)
    assert model.first_stage_model.merge(merged) is merged
    once = model.decode_first_stage(z, merged.expand(3))
    assert torch.allclose(once, model.decode_first_stage(z, features.expand(3)), atol=1e-5)
