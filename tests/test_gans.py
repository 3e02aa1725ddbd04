"""What holds for every GAN: precision, augmentation, batches in parts."""

from typing import Any

import pytest
import torch

from moulage import monitoring, plugins, randomness
from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner, dcgan
from tiny_generators import SIZE, TINY, make, marked

GANS = [name for name in TINY if issubclass(plugins.load("generators", name).Config, _adversary.Options)]
every_gan = pytest.mark.parametrize("name", [marked(name) for name in GANS])
RESIZED = {"name": "test_resnet", "weights": "scratch", "input_size": 32}
MORE: dict[str, list[dict[str, Any]]] = {
    "progressive": [{"shares": (1, 1, 1), "fade": 1.0, "loss": loss} for loss in ("wgan-gp", "logistic")],
    "pix2pixhd": [{"perceptual_weight": 1.0, "perceptual": RESIZED}, {"num_enhancers": 1}],
    "stylegan2": [{"r1_every": 1, "path_length_every": 1}],
}
"""Options beside the tiny ones under which all of a plug-in's parts are run."""


def batch(generator: Any, num: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    planes = generator.NUM_PLANES
    real = torch.rand(num, planes, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return real, torch.arange(num) % 2


def played(name: str, num_steps: int = 3, num: int = 4, **options: Any) -> list[dict[str, float]]:
    """What so many steps return; ADA is at work from the first on."""
    generator = make(name, **({"steps": num_steps, "batch_size": num} | options))
    with randomness.reproducible("test"):
        generator.num_steps = num_steps
        game, (real, labels) = generator.game(), batch(generator, num)
        if options.get("discriminator_augment") == "ada":
            game.adaptive.p = 0.8
        return [
            {
                name: float(value)
                for name, value in game.step(real, labels, step, randomness.generator_for(step)).items()
            }
            for step in range(1, num_steps + 1)
        ]


CASES = [marked(name, more) for name in GANS for more in MORE.get(name, [{}])]


@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
@pytest.mark.parametrize("augment", ["none", "diffaugment", "ada"])
def test_every_gan_trains_in_bf16(name: str, more: dict[str, Any], augment: str):
    """Each part of a step, at each resolution and while it fades in; the losses are near those of fp32."""
    options = more | {"discriminator_augment": augment, "ada_probability": 0.8, "ada_images": 100}
    logged = {precision: played(name, 6, precision=precision, **options) for precision in ("fp32", "bf16")}
    for step in logged["bf16"]:
        assert monitoring.all_finite(step)
        assert step["left_out"] == 0
    for key in ("loss_d", "loss_g"):
        assert logged["bf16"][0][key] == pytest.approx(logged["fp32"][0][key], rel=0.1, abs=0.1)


@every_gan
def test_no_part_of_a_batch_is_a_single_image(name: str, monkeypatch: pytest.MonkeyPatch):
    """7 images in 3 parts; a part of one has no path length, and no variance in a batch norm."""
    sizes: list[int] = []
    loss_of = plugins.load("generators", name).Game.discriminator_loss

    def loss(self: Any, real: Any, *rest: Any) -> Any:
        sizes.append(len(real))
        return loss_of(self, real, *rest)

    monkeypatch.setattr(plugins.load("generators", name).Game, "discriminator_loss", loss)
    [*_, last] = played(name, 2, 7, accumulate=3, precision="fp32")
    assert sizes == [3, 2, 2] * 2
    assert monitoring.all_finite(last)


@pytest.mark.parametrize("num", range(2, 20))
def test_parts_are_as_many_as_asked_for_and_as_equal_as_can_be(num: int):
    for num_parts in range(1, num // 2 + 1):
        parts = _learner.in_parts(num_parts, torch.arange(num), torch.arange(num) + 100)
        sizes = [len(first) for first, _ in parts]
        assert len(parts) == num_parts
        assert min(sizes) >= 2
        assert max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat([second - first for first, second in parts]), torch.full((num,), 100))


@pytest.mark.parametrize(("parts", "graphs"), [(1, [True]), (2, [False, False, True, True])])
def test_in_parts_no_graph_of_the_generator_outlives_the_discriminators_turn(
    parts: int, graphs: list[bool], monkeypatch: pytest.MonkeyPatch
):
    found: list[bool] = []
    generate = dcgan.Game.generate

    def spy(self: Any, *rest: Any) -> Any:
        images = generate(self, *rest)
        found.append(images.requires_grad)
        return images

    monkeypatch.setattr(dcgan.Game, "generate", spy)
    played("dcgan", 1, accumulate=parts)
    assert found == graphs


@pytest.mark.parametrize(
    ("name", "loss"), [("r3gan", {}), pytest.param("progressive", {"loss": "wgan-gp"}, marks=pytest.mark.slow)]
)
def test_ada_does_not_go_by_the_sign_of_a_logit_that_says_nothing(name: str, loss: dict[str, Any]):
    with pytest.raises(RecipeError, match="ada_probability"):
        make(name, discriminator_augment="ada", ada_probability=None, **loss)
    options = {"discriminator_augment": "ada", "ada_probability": 0.5, "ada_images": 100}
    logged = [step["ada_p"] for step in played(name, 2, 50, **options, **loss)]
    assert logged == pytest.approx([0.25, 0.5])
    if name == "progressive":
        assert played(name, 1, discriminator_augment="ada", loss="logistic")[0]["ada_p"] == pytest.approx(0.8)
