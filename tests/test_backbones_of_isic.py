"""Every network that the ISIC teams used, and today's: each is built without weights and learns at a small input."""

import pytest
import torch

from moulage import backbones, randomness

SIDES = {"inception_v3": 96, "inception_v4": 96, "vit_small_patch14_dinov2": 56, "eva02_tiny_patch14_224": 56}
"""Pixels a side; 64 if not here."""
NAMES = (
    *(f"tf_efficientnet_b{i}" for i in range(7)),
    "tf_efficientnet_lite0",
    "legacy_senet154",
    "legacy_seresnext50_32x4d",
    "seresnext50_32x4d",
    "resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet121",
    "densenet161",
    "densenet201",
    "dpn92",
    "pnasnet5large",
    "vgg16",
    "inception_v3",
    "inception_v4",
    "convnextv2_tiny",
    "eva02_tiny_patch14_224",
    "vit_small_patch14_dinov2",
    "efficientvit_b0",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_and_learns(name: str):
    size = SIDES.get(name, 64)
    with randomness.reproducible("backbone"):
        network = backbones.build(backbones.Backbone(name=name, weights="scratch"), size)
        images = torch.rand(2, 3, size, size)
        network.train()
        features = network(images)
    assert features.shape == (2, network.num_features)
    assert torch.isfinite(features).all()
    features.square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 0.9 * len(list(network.parameters()))
    assert gradients[0].abs().sum() > 0  # a residual branch that starts at zero takes none at first; the stem always
