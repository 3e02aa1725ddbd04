"""What is particular to projected_gan; the contract of every generator is in test_generators.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moulage import backbones, randomness
from moulage.errors import RecipeError
from moulage.generators import projected_gan
from tiny_generators import make

LABELS = torch.tensor([0, 1, 0, 1])
SCRATCH = {"name": "test_resnet", "weights": "scratch"}


def images(size: int = 16, num: int = 4) -> Tensor:
    return torch.rand(num, 3, size, size, generator=randomness.generator_for("images")) * 2 - 1


def built(size: int = 16, num_maps: int = 2, **options: Any) -> projected_gan.Backbone:
    with randomness.reproducible("backbone"):
        return projected_gan.Backbone(backbones.Backbone(**(SCRATCH | {"input_size": 32} | options)), size, num_maps)


def game_of(**options: Any) -> projected_gan.Game:
    with randomness.reproducible("game"):
        return make("projected_gan", precision="fp32", **options).game()


def test_maps_are_the_last_of_each_resolution_and_large_enough():
    backbone = built()
    maps = backbone(images())
    assert [(m.shape[1], m.shape[2]) for m in maps] == backbone.shapes
    sides = [side for _, side in backbone.shapes]
    assert sides == sorted(set(sides), reverse=True)
    assert min(sides) >= projected_gan.LAST
    assert len(built(num_maps=1).shapes) == 1
    assert built(num_maps=1).shapes[-1] == backbone.shapes[-1]


def test_a_transformer_gives_the_maps_of_its_last_blocks():
    backbone = built(name="test_vit", input_size=160)
    assert len({side for _, side in backbone.shapes}) == 1
    assert len(backbone.shapes) == 2


def test_images_too_small_for_the_network_say_what_to_do():
    with pytest.raises(RecipeError, match="input_size larger"):
        built(name="test_vit", input_size=32)


def test_nothing_frozen_learns_and_everything_else_does():
    game = game_of()
    before = {name: [p.clone() for p in getattr(game, name).parameters()] for name in ("backbone", "mixing")}
    buffers = [b.clone() for b in game.backbone.buffers()]
    learned = [p.clone() for p in game.discriminator.parameters()]
    for step in (1, 2):
        game.step(images(), LABELS, step, randomness.generator_for(step))
    for name, values in before.items():
        assert all(torch.equal(a, b) for a, b in zip(values, getattr(game, name).parameters(), strict=True)), name
    assert all(torch.equal(a, b) for a, b in zip(buffers, game.backbone.buffers(), strict=True))
    assert not game.backbone.features.network.training
    changed = [not torch.equal(a, b) for a, b in zip(learned, game.discriminator.parameters(), strict=True)]
    assert all(changed)


def test_the_generator_is_taught_through_the_frozen_network():
    game = game_of(discriminator_augment="none")
    fake = images().requires_grad_()
    loss = game.generator_loss(images(), fake, LABELS, 1, torch.Generator())
    [gradient] = torch.autograd.grad(loss, fake)
    assert gradient.flatten(1).abs().sum(1).min() > 0


def test_the_loss_is_the_hinge_over_all_maps_and_cells():
    game = game_of(spectral_norm=False, discriminator_augment="none")
    for head in game.discriminator.heads:
        nn.init.zeros_(head.head.weight)
    for bias, loss_d, loss_g in ((0.0, 2.0, 0.0), (3.0, 4.0, -3.0), (-3.0, 4.0, 3.0)):
        for head in game.discriminator.heads:
            nn.init.constant_(head.head.bias, bias)
        loss, on_real, _ = game.discriminator_loss(images(), -images(), LABELS, 1, torch.Generator())
        assert loss.item() == pytest.approx(loss_d)
        assert on_real.tolist() == pytest.approx([bias] * 4)
        assert game.generator_loss(images(), images(), LABELS, 1, torch.Generator()).item() == pytest.approx(loss_g)


def test_every_head_gives_a_logit_for_each_of_16_cells():
    shapes = [(6, 48), (8, 24), (10, 12), (12, 6), (14, 4)]
    config = projected_gan.Config(discriminator_channels=8)
    heads = projected_gan.Discriminator(config, shapes, 2)
    logits = heads([torch.randn(2, num, side, side) for num, side in shapes], LABELS[:2])
    assert logits.shape == (2, len(shapes) * projected_gan.LAST**2)


def test_mixing_across_scales_brings_small_maps_into_large_ones():
    shapes = [(4, 16), (6, 8)]
    for how, reaches in (("none", False), ("channels", False), ("scales", True)):
        with randomness.reproducible("mixing"):
            mixing = projected_gan.Mixing(shapes, how)
        maps = [torch.randn(1, num, side, side) for num, side in shapes]
        changed = [maps[0], maps[1] + 1]
        large, small = mixing(list(maps))
        large_too, small_too = mixing(list(changed))
        assert torch.equal(large, large_too) != reaches, how
        assert not torch.equal(small, small_too)
        assert not any(p.requires_grad for p in mixing.parameters())


def test_mixed_features_keep_their_scale():
    with randomness.reproducible("mixing"):
        mixing = projected_gan.Mixing([(64, 16), (64, 8)], "scales")
        large, small = mixing([torch.randn(8, 64, 16, 16), torch.randn(8, 64, 8, 8)])
    assert 0.7 < large.std() < 1.4
    assert 0.7 < small.std() < 1.4


@pytest.mark.parametrize(("size", "given", "side"), [(64, None, 224), (256, None, 256), (64, 64, 64), (256, 128, 128)])
def test_the_frozen_network_sees_what_it_was_trained_at_unless_told_otherwise(size: int, given: int | None, side: int):
    config = projected_gan.Config(backbone=backbones.Backbone(**SCRATCH, input_size=given))
    assert projected_gan.Generator(config, ("AK",), size).config.backbone.input_size == side
