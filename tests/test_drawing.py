"""One fit that is drawn from in several ways: in a study, by the command line, and what the images say of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_generators
from moulage import recipe as recipes
from moulage.data.samples import read_provenance
from moulage.errors import RecipeError
from moulage.generators import _learner, dcgan
from moulage.report import run_files
from moulage.report.page import render
from moulage.report.sections import generators, images
from moulage.stages import plan
from recipes import SCRATCH, phantom_recipe
from small_study import Small
from tiny_generators import SIZE, TINY

GAN: dict[str, Any] = {
    "plugin": "stylegan2",
    "classes": ["AK", "NV"],
    "size": 32,
    "options": TINY["stylegan2"] | {"steps": 4, "batch_size": 4},
}
ADD: dict[str, Any] = {"balance": "synthesize", "add": {"AK": 3}, "generator": "gan"}
RECIPE = phantom_recipe(
    data={"options": {"num_images": 420}},
    fidelity={"num_images": 20, "judge_images": 0, "features": {"backbone": SCRATCH}},
    generators={"gan": GAN},
    arms={
        "plain": ADD,
        "cut": ADD | {"drawing": {"truncation": 0.5}},
        "cut-more": ADD | {"drawing": {"truncation": 0.5}, "add": {"AK": 5}},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(RECIPE, tmp_path_factory.mktemp("drawing"))


def drawn(finished: Small, name: str) -> dict[int, Path]:
    stage = finished.stage("samples", name)
    seeds = finished.catalog(stage).only(label="AK").table["seed"]
    return {seed: finished.run / stage.folder / "AK" / f"AK-{seed}.png" for seed in seeds}


@pytest.mark.slow
def test_two_ways_of_drawing_share_a_fit(finished: Small):
    assert len(finished.of_kind("generator")) == 1
    assert [stage.name for stage in finished.of_kind("samples")] == ["gan", "gan-truncation=0.5"]
    assert [stage.name for stage in finished.of_kind("fidelity")] == ["gan", "gan-truncation=0.5"]
    plain, cut = drawn(finished, "gan"), drawn(finished, "gan-truncation=0.5")
    assert [*plain] == [0, 1, 2]
    assert [*cut] == [0, 1, 2, 3, 4]
    for seed, path in plain.items():
        assert not np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(cut[seed])))


@pytest.mark.slow
def test_every_drawn_image_says_how(finished: Small):
    for name, truncation in (("gan", 1.0), ("gan-truncation=0.5", 0.5)):
        found = [read_provenance(path) for path in drawn(finished, name).values()]
        assert {json.dumps(each["drawing"]) for each in found} == {json.dumps({"truncation": truncation})}
    names = [set(finished.catalog(stage).images) for stage in finished.of_kind("samples")]
    assert not set.intersection(*names)
    assert all("-truncation=0.5/AK-" in name for name in names[1] if "AK" in name)


@pytest.mark.slow
def test_results_and_report_know_both(finished: Small):
    found = finished.collect()
    assert [(made.name, made.generator, made.drawing) for made in found.generators] == [
        ("gan", "gan", {}),
        ("gan-truncation=0.5", "gan", {"truncation": 0.5}),
    ]
    assert len({made.gallery for made in found.generators}) == 2
    assert [each.name for each in found.fidelity] == ["gan", "gan-truncation=0.5"]
    changes = [verdict.change for verdict in found.verdicts]
    assert ["with truncation 0.5" in change for change in changes] == [False, True, True]
    run = run_files.Run(finished.run, found)
    galleries, trained = images.show(run), generators.show(run)
    assert galleries
    assert [shown["made"].name for shown in galleries["generators"]] == ["gan", "gan-truncation=0.5"]
    assert trained
    assert len(trained["plots"]) == len(trained["previews"]) == 1
    assert "gan-truncation=0.5" in render(run)


@pytest.mark.slow
def test_how_images_are_drawn_decides_the_arm_and_not_the_fit(finished: Small):
    """What is drawn otherwise is another arm and another selection; the fit, and arms that draw as before, stay."""
    before = {(stage.kind, stage.name): stage.folder for stage in finished.stages}
    changed = recipes.merge(RECIPE, {"arms": {"cut": {"drawing": {"truncation": 0.25}}}})
    recipe = recipes.parse(changed)
    after = {(stage.kind, stage.name): stage.folder for stage in plan.plan(recipe, finished.prepared)}
    different = {key for key in after if before.get(key) != after[key]}
    assert {name for kind, name in different if kind == "classifier"} == {"cut"}
    assert not any(kind == "generator" for kind, _ in different)
    usual = recipes.merge(RECIPE, {"generators": {"gan": {"drawing": {"truncation": 0.5}}}})
    stages = plan.plan(recipes.parse(usual), finished.prepared)
    assert [stage.name for stage in stages if stage.kind == "samples"] == ["gan"]
    assert [stage.folder for stage in stages if stage.kind == "generator"] == [before["generator", "gan"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"cut": {"drawing": {"truncation": 3}}}}, r"arms.cut.drawing.truncation"),
        ({"arms": {"cut": {"drawing": {"guidance": 3}}}}, r'arms.cut.drawing.guidance: unknown key "guidance"'),
        ({"arms": {"none": {"drawing": {"truncation": 1}}}}, "there is no generator"),
        ({"generators": {"gan": {"drawing": {"truncatio": 0.5}}}}, r"(?s)generators.gan.drawing.*truncation"),
        ({"generators": {"gan": {"options": {"truncation": 0.5}}}}, r"(?s)says how images are drawn.*moulage sample"),
    ],
)
def test_wrong_options_of_drawing_are_refused_before_any_work(changes: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        plan.check(recipes.parse(recipes.merge(RECIPE, changes)))


@pytest.mark.slow
def test_sample_takes_options_of_drawing_a_batch_size_and_ways(finished: Small, call: Any):
    fitted = finished.run / finished.stage("generator", "gan").folder
    same = call("sample", fitted, "--class", "AK", "--count", 3, "--set", "truncation=0.5", "--out", "cut")
    assert same.code == 0, same.err
    large = call("sample", fitted, "--class", "AK", "--count", 40, "--batch-size", 32, "--out", "large")
    assert large.code == 0, large.err
    for name, folder in (("gan-truncation=0.5", "cut"), ("gan", "large")):
        for seed in range(3):
            mine = np.asarray(Image.open(f"{folder}/AK/AK-{seed}.png"))
            assert np.array_equal(mine, np.asarray(Image.open(drawn(finished, name)[seed])))
    other = call("sample", fitted, "--class", "AK", "--count", 3, "--out", "cut")
    assert other.code == 1
    assert "truncation" in other.err
    grid = call("sample", fitted, "--class", "AK", "--count", 2, "--interpolate", 4, "--json")
    [path] = json.loads(grid.out)["grids"]
    assert "interpolation-0-2-4" in path
    pixels, said = np.asarray(Image.open(path)), read_provenance(Path(path))
    assert pixels.shape == (2 * 34 - 2, 4 * 34 - 2, 3)
    assert np.array_equal(pixels[:32, :32], np.asarray(Image.open(drawn(finished, "gan")[0])))
    assert np.array_equal(pixels[:32, 102:], np.asarray(Image.open(drawn(finished, "gan")[1])))
    assert (said["class"], said["drawing"]) == ("AK", {"truncation": 1.0})
    wrong = call("sample", fitted, "--set", "guidance=2")
    assert wrong.code == 1
    assert "guidance" in wrong.err


# Batches, and ways from one image to another


class Remembers(dcgan.Generator):
    """Notes the sizes of the batches that it draws; those of more than ``differs`` have other bits."""

    differs = 10**9

    def draw(self, network: Any, labels: torch.Tensor, seeds: np.ndarray) -> torch.Tensor:
        self.sizes: list[int] = [*getattr(self, "sizes", []), len(seeds)]
        values = _learner.latents(seeds, 3, self.size, self.size) / 4
        return values + 1e-7 * (len(seeds) > self.differs)


def test_large_batches_are_drawn_where_they_have_the_bits_of_small_ones():
    generator = Remembers(tiny_generators.configure("dcgan"), ("AK",), SIZE)
    generator._network = torch.nn.Identity()
    plain = generator.sample(0, np.arange(100))
    assert generator.sizes == [16] * 7
    generator.batch_size = 40
    for differs, sizes in ((10**9, [32, 32, 32, 16]), (31, [16] * 7)):
        generator.differs, generator._is_same, generator.sizes = differs, {}, []
        assert np.array_equal(generator.sample(0, np.arange(100)), plain)
        assert generator.sizes == [16, 16, 32, *sizes]  # 32 are tried both ways before
        generator.sizes = []
        assert np.array_equal(generator.sample(0, np.arange(100)), plain)
        assert generator.sizes == sizes


def test_latents_stay_standard_normal_on_the_way_from_one_to_another():
    places = np.zeros(2000, _learner.BETWEEN)
    places["first"], places["last"] = np.arange(2000), np.arange(1, 2001)
    for share in (0.25, 0.5, 0.9):
        places["share"] = share
        drawn = _learner.latents(places, 16)
        assert float(drawn.mean()) == pytest.approx(0, abs=0.02)
        assert float(drawn.std()) == pytest.approx(1, abs=0.02)
    ends = _learner.latents(np.arange(2001), 16)
    for share, expected in ((0.0, ends[:-1]), (1.0, ends[1:])):
        places["share"] = share
        assert torch.equal(_learner.latents(places, 16), expected)
