"""What is particular to progressive; the contract of every generator is in test_generators.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moulage import plugins, randomness, recipe
from moulage.arm import arms_of
from moulage.generators import _upconv, progressive
from moulage.generators.progressive import FULL, enlarge, grown, shrink, upper
from tiny_generators import make

pytestmark = pytest.mark.slow

LABELS = torch.tensor([0, 1, 0, 1])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def networks(size: int = 16, **options: Any) -> tuple[Any, Any]:
    with randomness.reproducible("test"):
        game = make("progressive", ("AK",), size, **options).game()
    return game.generator, game.discriminator


def test_schedule_by_hand():
    def schedule(step: int) -> float:
        return grown(step, 100, (0.2, 0.4, 0.4), 0.5) / FULL

    expected = {1: 0, 20: 0, 21: 0.05, 30: 0.5, 40: 1, 41: 1, 60: 1, 61: 1.05, 80: 2, 81: 2, 100: 2}
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, abs=1 / FULL)
    course = [schedule(step) for step in range(1, 101)]
    assert course == sorted(course)
    assert [grown(step, 4, (0.5, 0.5), 0) for step in (1, 2, 3, 4)] == [0, 0, FULL, FULL]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
def test_every_step_has_its_growth_and_the_last_is_the_largest(num_steps: int):
    shares = make("progressive", size=64).shares
    growth = [grown(step, num_steps, shares, 0.5) for step in range(1, num_steps + 1)]
    assert all(0 <= each <= 4 * FULL for each in growth)
    assert growth[-1] == 4 * FULL


@pytest.mark.parametrize("size", [16, 64, 256, 1024])
def test_images_and_networks_agree_on_the_resolution_at_every_step_of_every_fit(size: int):
    """Where a resolution begins a share of the steps is no whole number, or rounding makes it none."""
    shares, levels = make("progressive", size=size).shares, len(_upconv.sides(4, size))
    for num_steps in (*range(1, 40), 300, 600, 1200, 2400, 2500, 3333, 5000):
        buffer, seen = torch.zeros((), dtype=torch.long), []
        for step in range(1, num_steps + 1):
            growth = grown(step, num_steps, shares, 0.5)
            level, blend = upper(growth)
            assert upper(int(buffer.fill_(growth))) == (level, blend)  # what the networks go by
            assert 0 < blend <= 1
            seen.append((level, blend))
        assert seen == sorted(seen)
        assert seen[-1] == (levels - 1, 1)


@pytest.mark.parametrize("num_steps", [300, 600])
def test_a_fit_passes_each_step_at_which_a_resolution_begins(num_steps: int):
    """300 steps at 64 pixels: a ninth of them, in float64 just above a whole number, was another level in float32."""
    generator = make("progressive", ("AK",), 64, steps=num_steps)
    with randomness.reproducible("test"):
        game, real, labels = generator.game(), random(2, 3, 64, 64), torch.zeros(2, dtype=torch.long)
        levels = [upper(generator.growth_at(step))[0] for step in range(1, num_steps + 1)]
        first = [step for step in range(2, num_steps + 1) if levels[step - 1] != levels[step - 2]]
        assert len(first) == 4
        for step in first:
            game.step(real, labels, step, randomness.generator_for(step))
            assert game.generator.growth == game.discriminator.growth == generator.growth_at(step)


def test_weights_are_judged_at_the_full_resolution_alone():
    generator = make("progressive", shares=(1, 1, 2), steps=8)
    assert [generator.draws_as_at_the_end(step) for step in range(1, 9)] == [False] * 5 + [True] * 3
    late = make("progressive", shares=(1, 1, 2), steps=8, condition_end=1.0)
    assert [late.draws_as_at_the_end(step) for step in range(1, 9)] == [False] * 7 + [True]


def test_shares_and_steps_come_from_the_options():
    assert make("progressive").shares == pytest.approx((0.2, 0.4, 0.4))
    generator = make("progressive", shares=(1, 1, 2), steps=8)
    assert generator.shares == (0.25, 0.25, 0.5)
    assert [generator.growth_at(step) / FULL for step in range(1, 9)] == [0, 0, 1, 1, 1.5, 2, 2, 2]


def test_real_images_are_shrunk_and_blended_with_their_coarser_selves():
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(1, 3, 16, 16)
    small = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert torch.equal(shrink(image, 0), small)
    assert torch.equal(shrink(image, 2 * FULL), image)
    fine = random(1, 3, 8, 8)
    coarse = fine.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    torch.testing.assert_close(shrink(fine, FULL // 4), 0.25 * fine + 0.75 * enlarge(coarse))


def test_a_resolution_fades_in_from_the_one_below():
    generator, discriminator = networks(base_channels=4)
    latents, labels = random(4, 6), torch.zeros(4, dtype=torch.long)

    def images(growth: float) -> Tensor:
        generator.growth.fill_(round(growth * FULL))
        return generator(latents, labels)

    def logits(growth: float, seen: Tensor) -> Tensor:
        discriminator.growth.fill_(round(growth * FULL))
        return discriminator(seen, labels)

    assert [images(growth).shape[-1] for growth in (0, 0.5, 1, 1.5, 2)] == [4, 8, 8, 16, 16]
    torch.testing.assert_close(images(1 + 1 / FULL), enlarge(images(1)), atol=1e-4, rtol=0)
    torch.testing.assert_close(images(1.5), (enlarge(images(1)) + images(2)) / 2, atol=1e-5, rtol=0)
    small = random(4, 3, 8, 8)
    torch.testing.assert_close(logits(1 + 1 / FULL, enlarge(small)), logits(1, small), atol=1e-3, rtol=0)
    assert not torch.allclose(logits(1.5, enlarge(small)), logits(1, small))


@pytest.mark.parametrize(
    "layer", [lambda e: progressive.Conv(32, 64, 3, e), lambda e: progressive.UpConv(32, 64, e)], ids=["same", "up"]
)
@torch.no_grad()
def test_equalised_weights_have_variance_one_and_the_same_effect(layer: Any):
    with randomness.reproducible("test"):
        equalised = layer(True)
    with randomness.reproducible("test"):
        plain = layer(False)
    assert equalised.weight.std().item() == pytest.approx(1, abs=0.05)
    assert plain.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    x = random(2, 32, 8, 8)
    torch.testing.assert_close(equalised(x), plain(x), atol=1e-5, rtol=1e-4)


def test_up_convolution_is_nearest_up_sampling_and_a_convolution():
    layer, x = progressive.UpConv(3, 5, True), random(2, 3, 4, 4)
    nn.init.normal_(layer.bias)
    plain = nn.functional.conv2d(enlarge(x), layer.weight * layer.scale, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=0)


def test_down_convolution_is_a_convolution_and_an_average():
    layer, x = progressive.DownConv(3, 5, True), random(2, 3, 6, 6)
    nn.init.normal_(layer.bias)
    plain = nn.functional.conv2d(x, layer.weight * layer.scale, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), nn.functional.avg_pool2d(plain, 2), atol=1e-5, rtol=1e-4)


def test_pixel_norm_and_deviation_by_hand():
    x = random(3, 5, 2, 2)
    torch.testing.assert_close(progressive.pixel_norm(7 * x).square().mean(1), torch.ones(3, 2, 2), atol=1e-4, rtol=0)
    assert torch.allclose(progressive.deviation(x[:1].expand(3, -1, -1, -1)), torch.tensor(1e-4))
    expected = np.std(x.numpy(), axis=0).mean()
    assert progressive.deviation(x).shape == (3, 1, 2, 2)
    assert progressive.deviation(x).numpy() == pytest.approx(np.full((3, 1, 2, 2), expected), rel=1e-5)


def test_attention_by_hand():
    attention, x = progressive.Attention(16, False), random(2, 16, 3, 3)
    assert torch.equal(attention(x), x)
    nn.init.constant_(attention.strength, 0.5)
    query, key, value = attention.inputs(x).flatten(2).chunk(3, 1)
    expected = torch.empty(2, 2, 9)
    for b in range(2):
        for i in range(9):
            weights = torch.stack([(query[b, :, i] * key[b, :, j]).sum() for j in range(9)]).softmax(0)
            expected[b, :, i] = (value[b] * weights).sum(1)
    torch.testing.assert_close(attention(x), x + 0.5 * attention.output(expected.view(2, 2, 3, 3)))


class Slope(nn.Module):
    """A judge whose gradient is known everywhere."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return (images * self.slope).sum((1, 2, 3))


@pytest.mark.parametrize(("loss", "expected"), [("wgan-gp", (3 - 1) ** 2), ("logistic", 9 / 2)])
def test_penalties_by_hand(loss: str, expected: float):
    game = make("progressive", loss=loss).game()
    slope = torch.zeros(3, 4, 4)
    slope[0, 1, 2] = 3.0
    game.discriminator = Slope(slope)
    real, fake = random(4, 3, 4, 4), random(4, 3, 4, 4, seed=1)
    assert game.penalty(real, fake, LABELS, torch.Generator()).item() == pytest.approx(expected, abs=1e-4)
    base, on_real, on_fake = game.discriminator_loss(real, fake, LABELS, 1, torch.Generator())
    if loss == "wgan-gp":
        unpunished = on_fake.mean() - on_real.mean() + 1e-3 * on_real.square().mean()
    else:
        unpunished = nn.functional.softplus(on_fake).mean() + nn.functional.softplus(-on_real).mean()
    assert (base - unpunished).item() == pytest.approx(10 * expected, rel=1e-3)


def test_lazy_penalty_comes_seldom_and_weighs_more():
    game = make("progressive", penalty_every=4).game()
    game.penalty = lambda *args: torch.ones(())
    real, fake = random(4, 3, 4, 4), random(4, 3, 4, 4, seed=1)
    game.discriminator = Slope(torch.zeros(3, 4, 4))
    losses = [game.discriminator_loss(real, fake, LABELS, step, torch.Generator())[0].item() for step in range(1, 9)]
    assert losses == [0, 0, 0, 40, 0, 0, 0, 40]


def test_optimisers_and_average_start_anew_with_each_resolution():
    generator = make("progressive", shares=(1, 1, 1), steps=6)
    with randomness.reproducible("test"):
        game = generator.game()
        updates = []
        for step in range(1, 7):
            game.step(random(4, 3, 16, 16), LABELS, step, randomness.generator_for(step))
            states = game.generator_optimiser.state.values()
            updates.append((game.ema.num_updates, {int(state["step"]) for state in states}))
    assert updates == [(1, {1}), (2, {2})] * 3


def test_weights_know_how_far_they_have_grown(tmp_path: Path):
    """The judge may keep weights from before the last resolution."""
    generator = make("progressive")
    generator._network = generator.network_of()
    generator.network.growth.fill_(FULL // 2)
    generator.save(tmp_path)
    loaded = progressive.Generator.load(tmp_path)
    assert loaded.network.growth == FULL // 2
    images = loaded.sample(0, np.arange(2))
    assert images.shape == (2, 16, 16, 3)
    assert np.array_equal(images, images[:, ::2, ::2].repeat(2, 1).repeat(2, 2))  # 8 pixels, repeated
    assert np.array_equal(images, generator.sample(0, np.arange(2)))


def test_the_estimate_weighs_all_resolutions(monkeypatch: pytest.MonkeyPatch):
    seen = []
    game = progressive.Generator.game

    def spy(self: progressive.Generator) -> Any:
        seen.append(self.growth_at(1))
        return game(self)

    monkeypatch.setattr(progressive.Generator, "game", spy)
    assert make("progressive", steps=None, epochs=2).steps_and_seconds(10)[0] == 5
    assert seen == [0, FULL, 2 * FULL]


def test_defaults_are_the_papers_at_256_pixels():
    plan = progressive.Plan(progressive.Config(), 1024)
    assert list(plan.widths.values()) == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    config = progressive.Config()
    assert config.generator_optimiser.model_dump() == {"name": "adam", "learning_rate": 1e-3, "beta1": 0, "beta2": 0.99}
    faster = plugins.configure("generators", "progressive", {"generator_optimiser": {"learning_rate": 3e-3}})
    assert faster.generator_optimiser.beta1 == 0
    generator = progressive.Generator(config, ("AK",), 256)
    images = np.array(generator.shares) * config.num_steps(1) * config.batch_size
    assert images[1:] == pytest.approx(np.full(6, 1.2e6), rel=0.01)


@pytest.mark.parametrize("budget", ["", "cpu"])
def test_the_recipe_of_the_published_experiment_compares_the_three_gans(budget: str):
    found = recipe.load(Path(__file__).parents[1] / "studies" / "progressive2019.toml", budget)
    configs = {}
    for name, wanted in found.generators.items():
        configs[name] = plugins.configure("generators", wanted.plugin, wanted.options)
        progressive.Generator(configs[name], wanted.classes, wanted.size)
    attention = {name: config.attention_size > 0 for name, config in configs.items()}
    assert attention == {"pgan": False, "attention": True, "attention-ttur": True}
    ratios = {
        n: c.discriminator_optimiser.learning_rate / c.generator_optimiser.learning_rate for n, c in configs.items()
    }
    assert ratios == pytest.approx({"pgan": 1, "attention": 1, "attention-ttur": 4})
    assert {arm.balance for arm in found.arms.values()} >= {"none", "duplicates", "permuted"}
    arms = arms_of(found)
    assert all(arms[arm].wanted == arms["attention-ttur"].wanted for arm in ("pgan", "attention", "duplicates"))
