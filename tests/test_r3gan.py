"""What is particular to r3gan, judged by the paper's formulas."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from moulage.errors import RecipeError
from moulage.generators import _condition, r3gan
from moulage.generators._condition import LabelEmbedding
from tiny_generators import make


def game(num_classes: int = 1, size: int = 16, **options: Any) -> r3gan.Game:
    quick = {"burn_in_images": 8, "discriminator_augment": "none", "precision": "fp32"}  # 2 steps of 4
    generator = make("r3gan", tuple("abc"[:num_classes]), size, **(quick | options))
    torch.manual_seed(0)
    return generator.game()


def batch(num: int = 4, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(num, 3, size, size) * 2 - 1, torch.zeros(num, dtype=torch.long)


def test_blocks_start_as_the_identity():
    block = r3gan.Block(16, r3gan.Config(), 6)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(block(x), x)


def test_the_loss_pairs_real_and_generated_images():
    played, (real, labels) = game(penalty_every=64), batch()
    fake = torch.randn(4, 3, 16, 16)
    loss, on_real, on_fake = played.discriminator_loss(real, fake, labels, 1, torch.Generator())
    assert loss.item() == pytest.approx(F.softplus(-(on_real - on_fake)).mean().item())
    generator_loss = played.generator_loss(real, fake, labels, 1, torch.Generator())
    assert generator_loss.item() == pytest.approx(F.softplus(-(on_fake - on_real)).mean().item())


@pytest.mark.parametrize(("step", "gamma"), [(1, 2.0), (2, 1.0), (9, 1.0)])
def test_both_penalties_are_gamma_half_times_squared_gradients(step: int, gamma: float):
    """Of a discriminator that is linear in the image the gradient is its weights; gamma falls along half a cosine."""
    played, (real, labels) = game(gamma=3.0, gamma_final=1.0), batch()
    weights = torch.randn(3 * 16 * 16)

    class Linear(torch.nn.Module):
        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) @ weights

    played.discriminator = Linear()
    fake = torch.randn(4, 3, 16, 16)
    loss, on_real, on_fake = played.discriminator_loss(real, fake, labels, step, torch.Generator())
    penalty = float(loss - F.softplus(on_fake - on_real).mean())
    assert penalty == pytest.approx(gamma / 2 * 2 * float(weights.square().sum()), rel=1e-5)


def test_lazy_penalties_count_as_much_in_the_mean():
    played, (real, labels) = game(penalty_every=4, gamma=1.0, gamma_final=1.0), batch()
    every = game(penalty_every=1, gamma=1.0, gamma_final=1.0)
    fake = torch.randn(4, 3, 16, 16)
    plain = [float(played.discriminator_loss(real, fake, labels, step, torch.Generator())[0]) for step in range(1, 5)]
    each = float(every.discriminator_loss(real, fake, labels, 1, torch.Generator())[0])
    assert plain[0] == plain[1] == plain[2] < plain[3]
    assert plain[3] - plain[0] == pytest.approx(4 * (each - plain[0]), rel=1e-4)


def test_learning_rates_fall_and_beta2_rises_to_their_final_values():
    played, (real, labels) = game(learning_rate_final=0.25), batch()
    rates, betas = [], []
    for step in (1, 2, 3):
        played.step(real, labels, step, torch.Generator().manual_seed(step))
        for optimiser in (played.generator_optimiser, played.discriminator_optimiser):
            rates.append(optimiser.param_groups[0]["lr"] / 2e-4)
            betas.append(optimiser.param_groups[0]["betas"])
    assert rates == pytest.approx([0.625, 0.625, 0.25, 0.25, 0.25, 0.25])
    assert [first for first, _ in betas] == [0] * 6
    assert [second for _, second in betas] == pytest.approx([0.945, 0.945, 0.99, 0.99, 0.99, 0.99])


def test_without_a_length_the_schedules_last_as_long_as_the_fit():
    generator = make("r3gan", burn_in_images=None, steps=10)
    assert generator.game().burn_in_images == 40
    assert game(burn_in_images=12).burn_in_images == 12


@pytest.mark.parametrize(("size", "gamma"), [(32, 0.231), (64, 2), (128, 17.3), (256, 150)])
def test_gamma_follows_the_size_as_the_authors_settings_do(size: int, gamma: float):
    config = r3gan.Config().at(size)
    assert (config.gamma, config.gamma_final) == pytest.approx((gamma, gamma / 10), rel=2e-3)
    given = r3gan.Config(gamma=3.0, gamma_final=1.0).at(size)
    assert (given.gamma, given.gamma_final) == (3, 1)


def test_ada_takes_a_ramp_for_a_loss_of_pairs():
    """Its probability rises along half a cosine, and the logits, whose sign says nothing, are not asked."""
    played, (real, labels) = game(discriminator_augment="ada", ada_images=100, ada_probability=0.4), batch(50)
    logged = [float(played.step(real, labels, step, torch.Generator())["ada_p"]) for step in (1, 2, 3)]
    assert logged == pytest.approx([0.2, 0.4, 0.4])
    with pytest.raises(RecipeError, match="ada_probability"):
        make("r3gan", discriminator_augment="ada", ada_probability=None)


def test_coarse_stages_are_shared_below_conditional_from():
    network = game(3, 32, conditional_from=16).generator
    assert network.embedding is None
    assert [isinstance(style, LabelEmbedding) for style in network.styles] == [False, False, True, True]
    for style in network.styles:
        if isinstance(style, LabelEmbedding):
            torch.nn.init.normal_(style.embedding.weight)
    seen: list[torch.Tensor] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    z = torch.randn(1, 6).repeat(3, 1)
    images = network(z, torch.arange(3))
    assert torch.equal(seen[1][0], seen[1][2])
    assert not torch.equal(seen[2][0], seen[2][2])
    assert not torch.equal(images[0], images[1])


def test_patches_save_the_finest_stage_and_keep_the_size():
    network = game(1, 32, patch_size=4).generator
    assert network.sides == (4, 8)
    assert network(torch.randn(2, 6), torch.zeros(2, dtype=torch.long)).shape == (2, 3, 32, 32)


def test_the_condition_has_no_effect_at_strength_zero():
    played, (real, _) = game(2), batch()
    torch.nn.init.normal_(played.discriminator.projection.heads.weight)
    z, labels = torch.randn(4, 6), torch.tensor([0, 1, 0, 1])
    assert not torch.equal(played.generator(z, labels), played.generator(z, 1 - labels))
    _condition.set_strength(played, 0.0)
    assert torch.equal(played.generator(z, labels), played.generator(z, 1 - labels))
    assert torch.equal(played.discriminator(real, labels), played.discriminator(real, 1 - labels))
