"""What is particular to pix2pixhd: masks, maps, the losses; the contract is in test_generators.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import tiny_generators
from moulage import backbones
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.split import holdout
from moulage.errors import DataError, RecipeError, RunError
from moulage.generators import _pix2pixhd, pix2pixhd
from moulage.generators._upconv import UpConv
from moulage.recipe import parse
from moulage.sources import phantom
from moulage.stages import data, mask_needs
from moulage.stages.plan import plan
from moulage.stages.stage import execute
from recipes import phantom_recipe
from tiny_generators import SIZE, rates

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"steps": 2, "preview_every": 2, "precision": "fp32", **rates(2e-3)}


def make(size: int = SIZE, **options: Any) -> pix2pixhd.Generator:
    return tiny_generators.make("pix2pixhd", ("MEL", "BCC"), size, **(TINY | options))


def lesions(num: int = 8, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red (class 0) or blue (class 1) discs on grey, their labels and masks."""
    rng = np.random.default_rng(num)
    y, x = np.indices((size, size))
    inside = np.stack([(y - a) ** 2 + (x - b) ** 2 < c**2 for a, b, c in rng.uniform(size / 4, size / 2, (num, 3))])
    labels = np.arange(num, dtype=np.int64) % 2
    colours = np.array([[200, 40, 40], [40, 40, 200]], np.uint8)[labels]
    images = np.where(inside[..., None], colours[:, None, None], np.uint8(150)).astype(np.uint8)
    return images, labels, masks.binary(inside)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> pix2pixhd.Generator:
    folder, generator = tmp_path_factory.mktemp("fit"), make()
    images, labels, found = lesions()
    generator.fit(images, labels, masks=found, seed=0, folder=folder)
    assert (folder / "maps" / "0000002.png").exists()
    return generator


def test_masks_are_drawn_from_the_seed_alone_and_from_those_of_the_class(tmp_path: Path):
    images, labels, found = lesions()
    found[labels == 0], found[labels == 1] = 0, 255
    generator = make()
    generator.fit(images, labels, masks=found, seed=0, folder=tmp_path)
    assert not generator.maps(0, np.arange(5)).any()
    assert (generator.maps(1, np.arange(5)) == 255).all()


def test_maps_are_new_masks_and_survive_saving(fitted: pix2pixhd.Generator, tmp_path: Path):
    seeds = np.arange(20)
    maps = fitted.maps(1, seeds)
    assert (maps.shape, maps.dtype) == ((20, SIZE, SIZE), np.uint8)
    assert set(np.unique(maps)) == {0, 255}
    assert np.array_equal(fitted.maps(1, seeds[[7, 3]]), maps[[7, 3]])
    known = {mask.tobytes() for mask in lesions()[2]}
    assert sum(mask.tobytes() in known for mask in maps) < 4
    fitted.save(tmp_path)
    loaded = pix2pixhd.Generator.load(tmp_path)
    assert np.array_equal(loaded.maps(1, seeds), maps)
    assert np.array_equal(loaded.sample(1, seeds), fitted.sample(1, seeds))
    assert (tmp_path / "masks.npz").stat().st_size < 1000
    (tmp_path / "masks.npz").unlink()
    with pytest.raises(RunError, match=r"masks\.npz"):
        pix2pixhd.Generator.load(tmp_path)


def test_the_image_depends_on_mask_boundary_latent_and_class():
    torch.manual_seed(0)
    network = make().network_of().eval()
    latents, labels = torch.randn(1, 4), torch.zeros(1, dtype=torch.long)
    maps = torch.from_numpy(pix2pixhd.planes(lesions()[2][:1])).permute(0, 3, 1, 2) / 127.5 - 1
    first = network(latents, labels, maps)
    changed = [(latents + 1, labels, maps), (latents, labels + 1, maps)]
    changed += [(latents, labels, maps * torch.tensor([-1, 1])[:, None, None])]
    changed += [(latents, labels, maps * torch.tensor([1, -1])[:, None, None])]
    for inputs in changed:
        assert (network(*inputs) - first).abs().max() > 1e-4


def test_symmetries_turn_mask_and_image_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.Tensor] = []
    step = pix2pixhd.Game.step
    monkeypatch.setattr(
        pix2pixhd.Game, "step", lambda game, real, *rest: (seen.append(real), step(game, real, *rest))[1]
    )
    images, labels, found = lesions()
    make().fit(images, labels, masks=found, seed=0, folder=tmp_path)
    for real in seen:
        assert real.shape == (4, 5, SIZE, SIZE)
        lesion = real[:, 3] > 0
        assert torch.equal(real[:, 1] < -0.5, lesion)  # lesions are dark in green
        assert torch.equal(torch.from_numpy(masks.boundary(lesion.numpy().astype(np.uint8)) > 0), real[:, 4] > 0)


@pytest.mark.parametrize("augment", ["diffaugment", "ada"])
def test_discriminators_see_mask_and_image_moved_alike(augment: str):
    game = make(discriminator_augment=augment, diffaugment_policy=("colour", "translation")).game()
    game.adaptive.p = 0.8
    lesion = torch.from_numpy(lesions(16)[2])[:, None] / 127.5 - 1
    real = torch.cat([lesion.repeat(1, 3, 1, 1), lesion, lesion], 1)
    rng = torch.Generator().manual_seed(0)
    seen = game.seen(real, rng)
    assert torch.equal(seen[:, 3], seen[:, 4])
    assert not torch.equal(seen[:, 3:], real[:, 3:])
    apart = [np.corrcoef(a[:3].mean(0).flatten(), a[3].flatten())[0, 1] for a in seen.numpy()]
    assert np.abs(apart).min() > 0.8


def test_an_untrained_discriminator_is_undecided_and_its_certainty_has_a_sign():
    real, fake = torch.full((3, 7), 1.0), torch.full((3, 7), 0.0)
    assert torch.equal(pix2pixhd.certainty([real, real]), torch.ones(3))
    assert torch.equal(pix2pixhd.certainty([fake, fake]), -torch.ones(3))


def test_feature_matching_is_nothing_where_the_image_is_the_real_one():
    images, labels, found = lesions(4)
    real = torch.from_numpy(np.concatenate([images, pix2pixhd.planes(found)], 3)).permute(0, 3, 1, 2) / 127.5 - 1
    terms = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        options = {"feature_matching_weight": weight, "diversity_weight": 0, "discriminator_augment": "diffaugment"}
        game = make(**options).game()
        for name, fake in (("same", real[:, :3]), ("other", real[:, :3].flip(0))):
            rng = torch.Generator().manual_seed(1)
            loss = game.generator_loss(real, fake, torch.from_numpy(labels), 1, rng)
            terms[name, weight] = float(loss.detach())
    assert terms["same", 10.0] == pytest.approx(terms["same", 0.0], abs=1e-6)
    assert terms["other", 10.0] > terms["other", 0.0] + 0.01


def test_diversity_is_the_distance_of_images_relative_to_that_of_latents():
    game = make().game()
    real, labels = torch.zeros(8, 5, SIZE, SIZE), torch.zeros(8, dtype=torch.long)
    per_latent = 0.1

    def generate(real: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (per_latent * latents.mean(1))[:, None, None, None].expand(-1, 3, SIZE, SIZE)

    game.generate = generate
    game.latents = lambda num, rng: torch.randn(num, 1, generator=rng)
    assert float(game.diversity(real, labels, torch.Generator())) == pytest.approx(0.1, rel=1e-3)
    per_latent = 5.0
    assert float(game.diversity(real, labels, torch.Generator())) == pytest.approx(pix2pixhd.MOST_APART)


def test_styled_norm_normalises_each_image_by_itself_and_takes_its_style():
    norm = _pix2pixhd.StyledNorm(3, 2)
    nn.init.zeros_(norm.style.weight)
    with torch.no_grad():
        norm.style.weight[0, 0] = 1.0  # scale of channel 0: 1 + style 0
        norm.style.weight[5, 1] = 1.0  # shift of channel 2: style 1
    x, style = torch.randn(2, 3, 8, 8) * 5 + 2, torch.tensor([[1.0, 0, 9], [0, 3, 9]])
    found = norm(x, style)
    torch.testing.assert_close(found.mean((2, 3)), torch.tensor([[0.0, 0, 0], [0, 0, 3]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.std((2, 3), correction=0), torch.tensor([[2.0, 1, 1], [1, 1, 1]]), atol=1e-3, rtol=0
    )


def test_layers_below_conditional_from_take_no_class():
    network = make(num_downsamplings=2, conditional_from=SIZE // 2).network_of()
    widths = {side: set() for side in (SIZE, SIZE // 2, SIZE // 4)}
    for layer in network.coarse:
        for norm in (m for m in layer.modules() if isinstance(m, _pix2pixhd.StyledNorm)):
            norm.register_forward_hook(lambda m, i, o: widths[o.shape[-1]].add(m.style.in_features))
    network(torch.randn(2, 4), torch.zeros(2, dtype=torch.long), torch.zeros(2, 2, SIZE, SIZE))
    both = 4 + _pix2pixhd.LABEL_FEATURES
    assert widths == {SIZE: {both}, SIZE // 2: {both}, SIZE // 4: {4}}


def test_defaults_are_the_global_generator_and_the_discriminators_of_the_paper():
    with torch.device("meta"):  # shapes without numbers
        network = pix2pixhd.Generator(pix2pixhd.Config(), ("MEL",), 256).network_of()
        scales = _pix2pixhd.Discriminator(pix2pixhd.Config(), 1).scales
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64, 128, 256, 512, 1024, *[1024] * 18, 3]
    ups = [m.weight.shape[0] for m in network.modules() if isinstance(m, UpConv)]
    assert ups == [512, 256, 128, 64]
    assert len(scales) == 3
    assert [(m.out_channels, m.stride[0]) for m in scales[0].layers] == [(64, 2), (128, 2), (256, 2), (512, 1)]


@pytest.mark.parametrize(
    ("size", "enhancers", "halvings"),
    [(16, 0, 1), (32, 0, 1), (64, 0, 2), (72, 0, 2), (128, 0, 3), (256, 0, 4), (1024, 0, 4), (1024, 1, 4), (128, 1, 2)],
)
def test_halvings_follow_the_size_unless_they_are_given(size: int, enhancers: int, halvings: int):
    config = pix2pixhd.Generator(pix2pixhd.Config(num_enhancers=enhancers, num_discriminators=1), ("MEL",), size).config
    assert config.num_downsamplings == halvings
    assert pix2pixhd.Config(num_downsamplings=1).at(256).num_downsamplings == 1


def test_the_perceptual_loss_weighs_late_stages_most():
    """1/32, 1/16, 1/8, 1/4 and 1 for five stages, as the authors weigh VGG-19's."""
    perceptual = _pix2pixhd.Perceptual(backbones.Backbone(name="test_resnet", weights="scratch"), SIZE)
    apart = torch.tensor([3.0, 5.0, 7.0, 11.0, 13.0])
    perceptual._stages = lambda images: [images[0, 0, 0, 0] * each for each in apart]
    loss = perceptual(torch.ones(1, 3, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE))
    assert float(loss) == pytest.approx(3 / 32 + 5 / 16 + 7 / 8 + 11 / 4 + 13)


@pytest.mark.parametrize("num_enhancers", [0, 1, 2])
@pytest.mark.parametrize("size", [16, 48])
def test_every_size_is_reached(num_enhancers: int, size: int):
    network = make(size, num_enhancers=num_enhancers).network_of()
    maps = torch.zeros(2, 2, size, size)
    assert network(torch.randn(2, 4), torch.zeros(2, dtype=torch.long), maps).shape == (2, 3, size, size)


def test_images_without_masks_are_refused_before_any_work(tmp_path: Path):
    images, labels, found = lesions()
    for wrong in (None, found[:3], found > 0, found[:, :8]):
        with pytest.raises(DataError, match="mask"):
            make().fit(images, labels, masks=wrong, seed=0, folder=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_training_image_without_a_mask_is_refused_before_any_work():
    names = [f"i{n}" for n in range(40)]
    rows = pd.DataFrame({"image": names, "label": ["MEL", "NV"] * 20, "location": names, "mask": names})
    options = {"plugin": "pix2pixhd", "classes": ["NV"]}
    recipe = parse({"study": {"name": "few"}, "generators": {"gan": options}})
    for label, part, refused in (("NV", "train", True), ("NV", "test", False), ("MEL", "train", False)):
        catalog = Catalog.build(rows, ["MEL", "NV"], "few")
        split = holdout(catalog, validation=0.2, test=0.2, seed=0)
        lost = split.part(catalog, part).only(label=label).images[0]
        catalog = catalog.with_columns(mask=catalog.table["mask"].where(catalog.images != lost, ""))
        if refused:
            with pytest.raises(RecipeError, match=f'generators.gan: pix2pixhd .* "{lost}"') as error:
                mask_needs.check_masks(recipe, catalog, (split,))
            assert "ham10000" in error.value.hint
        else:
            mask_needs.check_masks(recipe, catalog, (split,))


@pytest.mark.slow
def test_a_study_hands_over_the_training_masks_and_is_refused_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = tiny_generators.RUN | tiny_generators.TINY["pix2pixhd"] | TINY
    generator = {"plugin": "pix2pixhd", "classes": ["VASC", "NV"], "size": SIZE, "options": options}
    recipe = parse(phantom_recipe(generators={"gan": generator}))
    prepared = data.prepare(recipe, tmp_path)
    stage = plan(recipe, prepared)[0]
    execute(tmp_path, stage, "cpu")
    learned = pix2pixhd.Generator.load(tmp_path / stage.folder)
    train = prepared.split(0).part(prepared.catalog, "train").only(label="NV")
    assert np.array_equal(learned._masks[1], masks.read(train, SIZE, "squash"))
    read = phantom.read
    monkeypatch.setattr(phantom, "read", lambda *given: read(*given).with_columns(mask=""))
    with pytest.raises(RecipeError, match=r"generators\.gan: pix2pixhd draws from lesion masks"):
        data.prepare(recipe, tmp_path / "refused")


@pytest.mark.slow
def test_lesions_are_drawn_where_the_mask_is_in_the_colour_of_their_class(tmp_path: Path):
    images, labels, found = lesions(48)
    options = {"steps": 250, "base_channels": 8, "discriminator_channels": 8, "ema_images": 108, "preview_every": 250}
    generator = make(**(options | {"batch_size": 8, "num_discriminator_layers": 2}))
    generator.fit(images, labels, masks=found, seed=0, folder=tmp_path)
    for label, channel in ((0, 0), (1, 2)):
        drawn, maps = generator.sample(label, np.arange(24)).astype(float), generator.maps(label, np.arange(24)) > 0
        other = 2 - channel
        contrast = drawn[..., channel] - drawn[..., other]
        assert contrast[maps].mean() > 60
        assert abs(contrast[~maps].mean()) < 25
