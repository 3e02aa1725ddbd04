"""What is particular to fastgan; the contract of every generator is in test_generators.py."""

import pytest
import torch
from torch import Tensor

from moulage.generators import _fastgan, fastgan
from tiny_generators import make

LABELS = torch.tensor([0, 1, 0, 1])


def test_defaults_are_the_papers():
    config = fastgan.Config()
    assert (config.batch_size, config.latent_size, config.discriminator_augment) == (8, 256, "diffaugment")
    assert config.num_steps(100) == 50_000
    network = _fastgan.Synthesis(config, 1, 256)
    assert network.dense.out_features == 2 * 1024 * 16
    assert list(network.excitations) == ["64", "128", "256"]  # from 4, 8 and 16 pixels


@pytest.mark.parametrize(("size", "top"), [(16, 256), (32, 16), (128, 64), (1024, 256)])
def test_reaches_every_size(size: int, top: int):
    config = fastgan.Config(base_channels=2, latent_size=4, discriminator_size=top)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        network = _fastgan.Synthesis(config, 1, size).eval()
        images = network(torch.randn(1, network.num_inputs), LABELS[:1])
        assert images.shape == (1, 3, size, size)
        judge = fastgan.Discriminator(config, 1, size)
        features_16, features_8 = judge.encode(images.expand(2, -1, -1, -1))
        assert (features_16.shape[2:], features_8.shape[2:]) == ((16, 16), (8, 8))
        assert judge.judge(features_8, LABELS[:2]).shape == (2, 25)


def test_the_loss_is_the_hinge_of_a_map_of_logits():
    generator = make("fastgan", precision="fp32", reconstruction_weight=0, spectral_norm=False)
    game = generator.game()
    torch.nn.init.zeros_(game.discriminator.head.weight)
    for bias, loss_d, loss_g in ((0.0, 2.0, 0.0), (3.0, 4.0, -3.0), (-3.0, 4.0, 3.0)):
        torch.nn.init.constant_(game.discriminator.head.bias, bias)
        real, rng = torch.zeros(4, 3, 16, 16), torch.Generator()
        fake = game.generator(game.latents(4, rng), LABELS)
        loss, on_real, _ = game.discriminator_loss(real, fake.detach(), LABELS, 1, rng)
        assert loss.item() == pytest.approx(loss_d)
        assert on_real.tolist() == pytest.approx([bias] * 4)
        assert game.generator_loss(real, fake, LABELS, 1, rng).item() == pytest.approx(loss_g)


def test_the_part_that_is_reconstructed_is_the_part_that_the_features_show():
    game = make("fastgan", size=32, base_channels=2).game()
    seen = []
    game.distance = lambda decoded, images: (seen.append(images), decoded.mean())[1]
    game.discriminator.decode_part = torch.nn.Identity()
    game.discriminator.decode_part.register_forward_hook(lambda module, args, output: seen.append(output))
    row = torch.arange(16.0).repeat_interleave(2)
    real = (100 * row[:, None] + row[None]).expand(1, 3, 32, 32)  # each pixel names its place in the 16 x 16 features
    features = real[:, :1, ::2, ::2]
    places = set()
    for seed in range(8):
        seen.clear()
        game.reconstruction(real, features, torch.zeros(1, 16, 8, 8), torch.Generator().manual_seed(seed))
        part, whole, image_part = seen
        assert torch.equal(whole, real)
        assert torch.equal(image_part[:, :1, ::2, ::2], part)
        places.add(float(part[0, 0, 0, 0]))
    assert len(places) > 4


def test_layers_below_conditional_from_take_no_class():
    network = make("fastgan", conditional_from=16).game().generator.eval()
    assert network.embedding is None
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight)
    maps: dict[str, Tensor] = {}
    for name, block in network.blocks.items():
        block.register_forward_hook(lambda module, args, output, name=name: maps.update({name: output}))
    row = torch.randn(1, network.num_inputs, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    images = network(row, LABELS[:2])
    torch.testing.assert_close(maps["8"][0], maps["8"][1])
    assert (maps["16"][0] - maps["16"][1]).abs().max() > 1e-2
    assert (images[0] - images[1]).abs().max() > 1e-4


def test_noise_counts_as_much_as_its_learned_strength():
    network = make("fastgan", ("AK",)).game().generator.eval()
    rows = torch.randn(2, network.num_inputs, generator=torch.Generator().manual_seed(0))
    rows[1, :6] = rows[0, :6]  # the same latent, other noise
    labels = torch.zeros(2, dtype=torch.long)
    first, second = network(rows, labels)
    torch.testing.assert_close(first, second)
    for block in network.blocks.values():
        torch.nn.init.ones_(block.noise_strength)
    first, second = network(rows, labels)
    assert (first - second).abs().max() > 1e-3


def test_statistics_of_batch_norm_are_measured_anew():
    generator = make("fastgan")
    network = generator.game().generator
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.fill_(1e6)  # pyright: ignore[reportOptionalMemberAccess]
    generator.settle(network, LABELS.numpy())
    assert not network.training
    assert all(norm.running_mean.abs().max() < 100 for norm in norms)  # pyright: ignore[reportOptionalMemberAccess]
