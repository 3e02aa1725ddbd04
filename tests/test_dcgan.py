"""What is particular to dcgan; the contract of every generator is in test_generators.py."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moulage import plugins
from moulage import recipe as recipes
from moulage.errors import CollapsedError, DivergedError
from moulage.generators import _learner, _upconv, dcgan
from tiny_generators import TINY, make, pictures


def test_defaults_are_the_thesis_at_8_49_gflop_an_image_and_step():
    config = dcgan.Config(augment="none")
    game = dcgan.Game(config, 1, 64)
    for layer in game.generator.modules():
        if isinstance(layer, _upconv.UpConv):
            layer.fused = False
    with FlopCounterMode(display=False) as counter:
        game.step(torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.long), 1, torch.Generator())
    assert counter.get_total_flops() / 2e9 == pytest.approx(8.49, rel=0.03)
    assert game.generator.dense.out_features == 4 * 4 * 256
    assert dcgan.Config().num_steps(867) == 27094


@pytest.mark.parametrize("size", [1, 4, 7])
def test_fused_convolution_equals_upsampling_and_convolution(size: int):
    layer = dcgan.initialise(_upconv.UpConv(5, 4, 3, "nearest"))
    x = torch.randn(2, 5, size, size, generator=torch.Generator().manual_seed(size))
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, padding=1)
    assert layer.fused
    torch.testing.assert_close(layer(x), plain, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [16, 32, 40, 48, 64, 72, 88, 128])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_reaches_every_size(size: int, upsampling: str):
    config = dcgan.Config(upsampling=upsampling, **TINY["dcgan"])
    network = dcgan.Synthesis(config, 1, size)
    assert network(torch.randn(2, 6), torch.zeros(2, dtype=torch.long)).shape == (2, 3, size, size)
    assert dcgan.Discriminator(config, 1, size)(torch.zeros(2, 3, size, size), torch.zeros(2)).shape == (2,)


def test_can_be_that_of_bisla_layer_by_layer():
    recipe = recipes.load(Path(__file__).parents[1] / "studies" / "bisla2019.toml")
    config = plugins.configure("generators", "dcgan", recipe.generators["melanoma"].options)
    generator, discriminator = dcgan.Synthesis(config, 1, 256), dcgan.Discriminator(config, 1, 256)
    assert isinstance(generator.layers[0], nn.BatchNorm2d)
    assert generator.dense.out_features == 256 * 4 * 4  # a 4 x 4 transposed convolution of one pixel
    seen: dict[str, list[tuple[int, ...]]] = {"up": [], "down": []}
    for module in (*generator.layers, *discriminator.layers):
        if isinstance(module, _upconv.UpConv):
            assert (module.kernel, module.upsampling) == (4, "transposed")
            module.register_forward_hook(lambda *args: seen["up"].append(tuple(args[2].shape[1:])))
        elif isinstance(module, nn.Conv2d):
            assert module.kernel_size == (4, 4)
            module.register_forward_hook(lambda *args: seen["down"].append(tuple(args[2].shape[1:])))
        else:
            assert not isinstance(module, nn.Dropout) or not module.p
    labels = torch.zeros(2, dtype=torch.long)
    discriminator(generator(torch.randn(2, config.latent_size), labels), labels)
    widths, sides = [128, 64, 32, 16, 8, 3], [8, 16, 32, 64, 128, 256]
    assert seen["up"] == [(c, s, s) for c, s in zip(widths, sides, strict=True)]
    widths, sides = [16, 32, 64, 128, 256, 512], [128, 64, 32, 16, 8, 4]
    assert seen["down"] == [(c, s, s) for c, s in zip(widths, sides, strict=True)]
    assert discriminator.head.in_features == 512 * 4 * 4  # a 4 x 4 convolution to one number


def test_stops_where_a_loss_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = dcgan.Game.step
    monkeypatch.setattr(dcgan.Game, "step", lambda *args: step(*args) | {"loss_g": torch.tensor(float("nan"))})
    with pytest.raises(DivergedError, match="step 2"):
        make("dcgan", preview_every=2, checkpoint_minutes=5).fit(*pictures(), seed=0, folder=tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))


def test_stops_where_all_previews_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_learner, "CHECK_COLLAPSE_FROM", 1)
    monkeypatch.setattr(_learner, "latents", lambda seeds, num: torch.zeros(len(seeds), num))
    with pytest.raises(CollapsedError, match="step 4"):
        make("dcgan").fit(*pictures(), seed=0, folder=tmp_path)
