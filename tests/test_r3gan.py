"""What is particular to r3gan, judged by the paper's formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moulage import plugins
from moulage.errors import RecipeError
from moulage.generators import r3gan
from moulage.generators._condition import LabelEmbedding

TINY: dict[str, Any] = {"channel_base": 64, "max_channels": 16, "num_blocks": 1, "latent_size": 6, "steps": 3}
TINY |= {"batch_size": 4, "burn_in_steps": 2, "discriminator_augment": "none", "precision": "fp32"}


def game(num_classes: int = 1, size: int = 16, **options: Any) -> r3gan.Game:
    torch.manual_seed(0)
    return r3gan.Game(plugins.configure("generators", "r3gan", TINY | options), num_classes, size)


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


def test_learning_rates_fall_to_their_final_share():
    played, (real, labels) = game(burn_in_steps=2, learning_rate_final=0.25), batch()
    rates = []
    for step in (1, 2, 3):
        played.step(real, labels, step, torch.Generator().manual_seed(step))
        rates.append(played.generator_optimiser.param_groups[0]["lr"] / 2e-4)
    assert rates == pytest.approx([0.625, 0.25, 0.25])


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
    from moulage.generators import _condition

    played, (real, _) = game(2), batch()
    torch.nn.init.normal_(played.discriminator.projection.heads.weight)
    z, labels = torch.randn(4, 6), torch.tensor([0, 1, 0, 1])
    assert not torch.equal(played.generator(z, labels), played.generator(z, 1 - labels))
    _condition.set_strength(played, 0.0)
    assert torch.equal(played.generator(z, labels), played.generator(z, 1 - labels))
    assert torch.equal(played.discriminator(real, labels), played.discriminator(real, 1 - labels))


CHANGES: list[dict[str, Any]] = [
    {"batch_size": 3},
    {"latent_size": 7},
    {"channel_base": 512, "max_channels": 32},
    {"max_channels": 32, "channel_base": 256},
    {"expansion": 1},
    {"group_width": 8},
    {"num_blocks": 2},
    {"patch_size": 2},
    {"gamma": 9.0},
    {"gamma_final": 9.0},
    {"learning_rate_final": 0.9},
    {"burn_in_steps": 9},
    {"penalty_every": 2},
    {"discriminator_augment": "diffaugment"},
    {"discriminator_augment": "diffaugment", "diffaugment_policy": ("colour",)},
    {"generator_optimiser": {"learning_rate": 1e-3}},
    {"discriminator_optimiser": {"learning_rate": 1e-3, "beta1": 0.5}},
    {"sampling": "balanced"},
    {"conditional_from": 8},
    {"condition_end": 1.0},
    {"condition_start": 0.9, "condition_end": 1.0},
    {"precision": "bf16"},
]


def fitted(folder: Path, **options: Any) -> np.ndarray:
    quick = {"generator_optimiser": {"learning_rate": 2e-3}, "discriminator_optimiser": {"learning_rate": 2e-3}}
    config = plugins.configure("generators", "r3gan", TINY | quick | options)
    generator = r3gan.Generator(config, ("AK", "NV"), 8)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    generator.fit(images, np.array([0, 0, 0, 0, 0, 1, 1]), seed=0, folder=folder)
    return generator.sample(0, np.arange(4))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return fitted(tmp_path_factory.mktemp("reference"))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: ",".join(change))
def test_no_option_changes_nothing(change: dict[str, Any], reference: np.ndarray, tmp_path: Path):
    assert not np.array_equal(fitted(tmp_path, **change), reference)


@pytest.mark.parametrize("options", [{"conditional_from": 24}, {"gamma": -1}, {"channel_base": 1}, {"blocks": 2}])
def test_impossible_options_are_refused(options: dict[str, Any]):
    with pytest.raises(RecipeError, match="r3gan"):
        plugins.configure("generators", "r3gan", options)


def test_sizes_are_powers_of_two():
    for size in (4, 24, 1024):
        with pytest.raises(RecipeError, match=str(size)):
            r3gan.Generator(r3gan.Config(), ("AK",), size)
