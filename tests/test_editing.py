"""Images that are made of training images: how they are drawn, whose they are, and who knows of it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tiny_generators
from moulage import contracts
from moulage.data import generated, masks, metadata, png, samples
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.near_copies import distances_to_own, near_copies
from moulage.errors import DataError, LeakError, RecipeError
from moulage.evaluation.fidelity import Images, judge
from moulage.evaluation.memorisation import authenticity, data_copying
from moulage.generators import _editing, diffusion
from moulage.runs import cache_folder
from moulage.selection import ImageSet
from moulage.selection import near_copies as rule
from moulage.sources import phantom
from moulage.stages.parents import Chooser, Editor, in_order

SIZE = tiny_generators.SIZE
LEFT = np.zeros((1, SIZE, SIZE), np.uint8)
LEFT[:, :, : SIZE // 2] = masks.LESION


def editor(**drawing: Any) -> Any:
    """A tiny ``diffusion`` that has learned nothing."""
    generator = tiny_generators.make("diffusion", precision="fp32", drawing={"num_sampling_steps": 5} | drawing)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator._network = generator.network_of().eval().requires_grad_(False)
    return generator


# Drawing


def test_what_is_outside_of_the_region_stays_to_the_last_bit():
    parents, seeds = tiny_generators.pictures(3)[0], np.arange(3)
    region = np.repeat(LEFT, 3, 0)
    for edit, changed in (("lesion", region > 0), ("surround", region == 0)):
        drawn = editor(edit=edit).edited(0, seeds, parents, region)
        assert np.array_equal(drawn[~changed], parents[~changed])
        assert (drawn[changed] != parents[changed]).mean() > 0.8
    weights = _editing.weights_of(LEFT, "lesion")
    assert weights.shape == (1, SIZE, SIZE)
    assert ((weights > 0) == (LEFT > 0)).all()
    wide = _editing.weights_of(np.repeat(np.repeat(LEFT, 8, 1), 8, 2), "surround")[0, 0]
    assert wide[63:69].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]  # a side of 128 passes over within 4 pixels


@pytest.mark.parametrize("edit", ["whole", "lesion"])
def test_an_edited_image_is_of_its_own_seed_parent_and_mask(edit: str):
    generator, (parents, _), region = editor(strength=0.5, edit=edit), tiny_generators.pictures(20), None
    if edit != "whole":
        region = np.stack([np.roll(LEFT[0], i, 1) for i in range(20)])
    seeds = np.arange(20)
    drawn = generator.edited(1, seeds, parents, region)
    few = np.array([17, 3])
    again = generator.edited(1, seeds[few], parents[few], None if region is None else region[few])
    assert np.array_equal(again, drawn[few])
    other = generator.edited(1, seeds[few] + 1, parents[few], None if region is None else region[few])
    assert not np.array_equal(other, again)
    with pytest.raises(RecipeError, match="was given none"):
        generator.sample(0, seeds)


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_strength_is_how_far_the_way_of_an_exact_model_goes_back(strength: float):
    """For normal data of known mean and spread the end of the way from any point is known in closed form."""
    mean, spread, drawing = 0.3, 0.2, diffusion.Drawing(num_sampling_steps=400, strength=strength, clip=False)
    levels = diffusion.noise_levels(drawing, 64)
    noise = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    clean = torch.full_like(noise, -0.5)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return mean + spread**2 / (spread**2 + sigma**2) * (x - mean)

    found = diffusion.heun(denoise, noise, levels, clean)
    expected = mean + (clean + levels[0] * noise - mean) * spread / (spread**2 + levels[0] ** 2) ** 0.5
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert levels[0] == pytest.approx((low + strength * (high - low)) ** 7)
    assert (len(levels) - 1, levels[-1]) == (400 * strength, 0)


def test_noise_levels_are_as_they_were_without_a_strength():
    plain = diffusion.noise_levels(diffusion.Drawing(), 64)
    assert plain == diffusion.noise_levels(diffusion.Drawing(strength=1.0), 64)
    assert [diffusion.Drawing(**one).changes for one in ({}, {"strength": 1.0}, {"edit": "lesion"})] == [
        "",
        "whole",
        "lesion",
    ]


def test_the_rest_of_an_image_is_on_its_way_while_a_region_is_drawn():
    """At each noise level the network sees the given image there, with that much of the first noise."""
    generator, seen = editor(edit="lesion"), []
    generator.network.guided = lambda x, sigma, *others: seen.append((x, float(sigma[0]))) or torch.zeros_like(x)
    parents = tiny_generators.pictures(1)[0]
    generator.edited(0, np.arange(1), parents, LEFT)
    clean, noise = generator._inputs(parents), (seen[0][0] - generator._inputs(parents)) / seen[0][1]
    for x, sigma in seen:
        torch.testing.assert_close(x[0, ..., SIZE // 2 :], (clean + sigma * noise)[0, ..., SIZE // 2 :])
    assert len({sigma for _, sigma in seen}) == 5


# Parents


def table(names: list[str], **columns: Any) -> Catalog:
    rows = pd.DataFrame({"image": names, "label": "AK", "location": names} | columns)
    return Catalog.build(rows, ("AK", "NV"), "test")


def chooser(train: Catalog, edit: contracts.Edit = "whole") -> Chooser:
    prepared: Any = SimpleNamespace(part=lambda trial, part: {"train": train}[part], catalog=train)
    return Chooser(prepared, 0, edit, SIZE)


def test_every_training_image_is_a_parent_once_before_any_is_again():
    train = table([f"i{i}" for i in range(7)])
    named = chooser(train).rows("AK", np.arange(5, 5 + 7)).images
    assert sorted(named) == sorted(train.images)
    assert named.tolist() != sorted(named)
    again = chooser(train).rows("AK", np.arange(12, 19)).images
    assert named.tolist() == again.tolist()
    assert chooser(train).rows("AK", np.array([9])).images[0] == named[4]  # whatever else is drawn
    few = train.take([4, 1, 2])
    order = [name for name in train.take(in_order(train.images)).images if name in few.images]
    assert few.take(in_order(few.images)).images.tolist() == order


def test_a_class_without_images_or_masks_says_what_to_do():
    train = table([f"i{i}" for i in range(3)])
    with pytest.raises(DataError, match='no training image of "NV" to edit'):
        chooser(train).rows("NV", np.arange(2))
    with pytest.raises(DataError, match="none of the 3 training images") as caught:
        chooser(train, "lesion").rows("AK", np.arange(2))
    assert "moulage masks predict" in caught.value.hint


def test_the_editor_hands_out_parents_and_masks_in_the_order_of_seeds(monkeypatch: pytest.MonkeyPatch):
    train = table([f"i{i}" for i in range(4)], mask=["m", "m", "", "m"])
    found = np.zeros((4, SIZE, SIZE), np.uint8)
    found[0, :3], found[1], found[2], found[3, 2:6] = 255, 255, masks.UNKNOWN, 255
    by_name = dict(zip(train.images, found, strict=True))
    monkeypatch.setattr(masks, "build", lambda *args, **options: None)
    monkeypatch.setattr(masks, "read_known", lambda kept, size, names: np.stack([by_name[name] for name in names]))
    pixels = {name: np.full((SIZE, SIZE, 3), i, np.uint8) for i, name in enumerate(train.images)}
    for edit, allowed in (("lesion", {"i0", "i1", "i3"}), ("surround", {"i0", "i3"})):  # i1 is lesion all over
        chosen = chooser(train, edit)
        chosen.prepared.framing = chosen.prepared.filters = None
        chosen.prepared.images = lambda rows, size: np.stack([pixels[name] for name in rows.images])
        got: list[Any] = []
        model: Any = SimpleNamespace(edited=lambda *given, got=got: got.extend(given) or given[2])
        seeds = np.array([8, 3, 1])
        drawn = Editor(model, ("NV", "AK"), chosen).sample(1, seeds)
        names = chosen.rows("AK", seeds).images
        assert set(chosen.rows("AK", np.arange(6)).images) == allowed
        assert [int(image[0, 0, 0]) for image in drawn] == [int(name[1]) for name in names]
        assert np.array_equal(got[3], np.stack([by_name[name] for name in names]))
        assert got[0] == 1


# What is written of them


class Dims:
    """Makes images half as bright as their parents."""

    classes = ("AK",)

    def __init__(self, parents: np.ndarray) -> None:
        self.parents = parents

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        return self.parents[seeds] // 2


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    config = phantom.Config(size=64)
    drawn = [phantom.draw_image(config, "AK", 1000 + i, i, "PHB")[0] for i in range(60)]
    return np.stack(drawn)


@pytest.fixture
def edited(photographs: np.ndarray, tmp_path: Path) -> tuple[Catalog, Catalog]:
    """Photographs on the disk, and images that were made of them."""
    for i, image in enumerate(photographs[:4]):
        png.write(tmp_path / f"{i}.png", image, {})
    real = table(
        [f"i{i}" for i in range(4)], location=[str(tmp_path / f"{i}.png") for i in range(4)], lesion=list("aabc")
    )
    digests = pixel_cache.build(real, (), "squash", cache_folder()).scan["sha256"].to_numpy(object)

    def parents(label: str, seeds: np.ndarray) -> samples.Parents:
        return samples.Parents(real.take(seeds), digests[seeds])

    about: dict[str, Any] = {"origin": "gen-0-abc", "split_digest": "d1", "classes": ("AK", "NV")}
    how = {"drawing": {"strength": 0.4}, "parents": parents}
    return real, samples.draw(Dims(photographs), {"AK": range(4)}, tmp_path / "drawn", **about, **how)


def test_every_edited_image_names_its_parent(edited: tuple[Catalog, Catalog]):
    real, drawn = edited
    assert drawn.table["parent"].tolist() == ["i0", "i1", "i2", "i3"]
    assert drawn.groups.tolist() == real.groups.tolist()
    said = samples.read_provenance(Path(drawn.table["location"][1]))
    assert said["parent"] == "i1"
    assert len(said["parent_sha256"]) == 64
    assert "made of a photograph" in said["description"]
    assert said["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    samples.prove_files(drawn)
    exchanged = drawn.with_columns(parent=["i1", "i0", "i2", "i3"])
    with pytest.raises(LeakError, match="is listed with the parent i1, and says i0 itself"):
        samples.prove_files(exchanged)


def test_parents_from_outside_the_training_part_are_a_leak(edited: tuple[Catalog, Catalog]):
    real, drawn = edited
    samples.check_parents(drawn, real)
    with pytest.raises(LeakError, match=r"gen-0-abc/AK-2 was made of the image i2, which is not in the training part"):
        samples.check_parents(drawn, real.take([0, 1, 3]))
    with pytest.raises(LeakError, match="AK-0 is not listed with the group of i0, its parent"):
        samples.check_parents(drawn.with_columns(group="lesion:b"), real)
    samples.check_parents(real, real)


def test_a_photograph_that_was_edited_is_not_taken_for_generated(
    photographs: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not even where nothing was changed; a copy of the edited image without its texts still is."""
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Dims, "sample", lambda self, label, seeds: self.parents[seeds])
    for i, image in enumerate(photographs[:3]):
        png.write(tmp_path / f"{i}.png", image, {})
    real = table(["i0", "i1", "i2"], location=[str(tmp_path / f"{i}.png") for i in range(3)])
    found = pixel_cache.build(real, (), "squash", cache_folder())
    digests = found.scan["sha256"].to_numpy(object)
    about: dict[str, Any] = {"origin": "gen-0-abc", "split_digest": "d1", "classes": ("AK", "NV")}
    about["parents"] = lambda label, seeds: samples.Parents(real.take(seeds), digests[seeds])
    drawn = samples.draw(Dims(photographs), {"AK": range(2)}, tmp_path / "drawn", **about)
    said: list[Any] = []
    assert generated.check(real, found, [], lambda *finding: said.append(finding)) == {}
    assert not any(images for _, _, images, *_ in said)
    png.write(tmp_path / "copy.png", photographs[0], {"Software": "another"})
    assert (tmp_path / "copy.png").read_bytes() != (tmp_path / "0.png").read_bytes()
    copy = table(["copy"], location=[str(tmp_path / "copy.png")])
    pixels = pixel_cache.build(copy, (), "squash", cache_folder())
    assert list(generated.check(copy, pixels, [], lambda *finding: None)) == ["copy"]
    assert len(drawn) == 2


def test_metadata_that_an_edited_image_borrows_are_its_parents():
    train = table([f"i{i}" for i in range(6)], age=[30.0, 40, 50, 60, 70, 80], sex=["male", "female"] * 3)
    rows = table(["g0", "g1", "g2"], origin="gen", parent=["i4", "i1", ""])
    lent = metadata.lend(rows, train, np.random.default_rng(0)).table
    assert lent["age"].tolist()[:2] == [70, 40]
    assert lent["sex"].tolist()[:2] == ["male", "female"]
    assert lent["age"][2] in train.table["age"].tolist()


def test_composites_of_other_tools_are_known_as_generated():
    for term in ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"):
        assert png.drawn_by(b"\xff\xd8 .../digitalsourcetype/" + term.encode()) == png.OTHER_TOOL
    assert png.drawn_by(b"\xff\xd8 .../digitalsourcetype/digitalCapture") == ""


# Who is kin


def test_a_near_copy_of_its_own_parent_is_expected_and_of_another_image_is_not(photographs: np.ndarray):
    train, groups = photographs[:40], np.array([f"lesion:{i // 2}" for i in range(40)], object)
    drawn = np.stack([train[0] // 2 + 9, train[3] // 2 + 9, photographs[50]])  # the second was to be made of 20
    parents, kin = train[[0, 20, 30]], groups[[0, 20, 30]]
    assert near_copies(drawn, train, groups=groups).is_copy.tolist() == [True, True, False]
    found = near_copies(drawn, train, groups=groups, kin=kin)
    assert found.is_copy.tolist() == [False, True, False]
    assert found.nearest[1] == 3
    assert groups[found.nearest[0]] != kin[0]
    own = distances_to_own(drawn, parents)
    assert own[0] < 0.05 < found.threshold < own[1:].min()


def test_the_rule_keeps_near_copies_of_parents_and_drops_those_of_others(photographs: np.ndarray):
    train = table([f"i{i}" for i in range(40)], lesion=[str(i // 2) for i in range(40)])
    candidates = table(["g0", "g1"], origin="gen", parent=["i0", "i20"], group=train.groups[[0, 20]])
    nothing = np.zeros((40, 2), np.float32)
    given = ImageSet(candidates, np.stack([photographs[0] // 2, photographs[3] // 2]), nothing[:2])
    judged = rule.select(rule.Config(), given, ImageSet(train, photographs[:40], nothing), {}, np.random.default_rng(0))
    assert judged.keep.tolist() == [True, False]
    assert "to the training image i3 " in judged.reasons[1]
    assert "2 images are edited photographs" in judged.notes[0]
    plain = replace(given, catalog=table(["g0", "g1"], origin="gen"))
    judged = rule.select(rule.Config(), plain, ImageSet(train, photographs[:40], nothing), {}, np.random.default_rng(0))
    assert judged.keep.tolist() == [False, False]
    assert not any("edited" in note for note in judged.notes)


def test_scores_of_copying_leave_the_own_lesion_out():
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=(80, 4)), rng.normal(size=(60, 4))
    lesions = np.arange(80) // 2
    made = train[:40] + 1e-3 * rng.normal(size=(40, 4))
    kin = lesions[:40]
    assert authenticity(train, made, lesions).sum() == 0
    assert authenticity(train, made, lesions, kin).mean() > 0.2
    seeded = {"rng": np.random.default_rng(0), "num_cells": 1}
    assert data_copying(train, held_out, made, **seeded).overall < -5
    assert data_copying(train, held_out, made, **seeded, groups=(kin, lesions)).overall > -2.5
    stolen = np.roll(kin, 20)  # made of the one, named after the other
    assert data_copying(train, held_out, made, **seeded, groups=(stolen, lesions)).overall < -5


def test_fidelity_tells_parents_from_strangers(photographs: np.ndarray):
    pixels = photographs
    rng = np.random.default_rng(0)
    features = rng.normal(size=(140, 6))
    names = np.array([f"{i}" for i in range(140)], object)
    labels = np.zeros(140, np.int64)
    train = Images(pixels[:60], features[:60], labels[:60], names[:60])
    noise = rng.integers(0, 256, (50, *pixels.shape[1:]), np.uint8)
    held_out = Images(noise, features[60:110], labels[:50], names[60:110])
    made = Images(pixels[:44] // 2 + 9, features[:44] + 1e-3, labels[:44], names[:44], pixels[:44])
    of = judge(made, train, held_out, classes=("AK",), features="", rng=rng, num_draws=1).classes["AK"]
    assert of.generated is not None
    assert of.generated.near_parents == 1
    assert of.generated.near_copies < 0.05
    assert of.floor is not None
    assert of.floor.near_parents is None
    strangers = replace(made, groups=np.roll(names[:44], 1), parents=np.roll(pixels[:44], 1, 0))
    of = judge(strangers, train, held_out, classes=("AK",), features="", rng=rng, num_draws=1).classes["AK"]
    assert of.generated is not None
    assert of.generated.near_parents is not None
    assert of.generated.near_parents < 0.05
    assert of.generated.near_copies == 1
    with pytest.raises(LeakError, match="44 lesions are in the generated and in the held-out images"):
        judge(replace(made, groups=names[60:104]), train, held_out, classes=("AK",), features="", rng=rng)
