"""A study whose arms add training images that were changed: one fit, whose children are whose, and planted leaks."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moulage import recipe as recipes
from moulage import runs
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.samples import read_provenance
from moulage.errors import DataError, LeakError, RecipeError
from moulage.report import run_files
from moulage.report.page import render
from moulage.stages import data, mask_needs, plan, witness
from moulage.stages.classifier import check_extra
from moulage.stages.generator import draw
from moulage.stages.samples import SEEDS_PER_TRIAL
from recipes import SCRATCH, phantom_recipe
from small_study import Small
from tiny_generators import TINY

pytestmark = pytest.mark.slow

ADD: dict[str, Any] = {"balance": "synthesize", "add": {"AK": 5}, "generator": "model"}
MODEL: dict[str, Any] = {"plugin": "diffusion", "classes": ["AK", "NV"], "size": 32}
MODEL |= {"options": TINY["diffusion"] | {"steps": 4, "batch_size": 4}, "drawing": {"num_sampling_steps": 4}}
RECIPE = phantom_recipe(
    data={"options": {"num_images": 420}},
    study={"num_trials": 2},
    fidelity={"num_images": 40, "judge_images": 0, "features": {"backbone": SCRATCH}},
    generators={"model": MODEL | {"refit": "study"}},
    selections={"new": {"features": {"backbone": SCRATCH}, "rules": [{"plugin": "near_copies"}], "draw": 1}},
    arms={
        "plain": ADD,
        "changed": ADD | {"drawing": {"strength": 0.4}},
        "slightly": ADD | {"drawing": {"strength": 0.01}, "selection": "new"},
        "inside": ADD | {"drawing": {"edit": "lesion"}},
        "outside": ADD | {"drawing": {"edit": "surround", "strength": 0.6}},
    },
)
CHANGED = "model-strength=0.4"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(RECIPE, tmp_path_factory.mktemp("editing"))


def drawn(finished: Small, name: str, trial: int = 0) -> Catalog:
    return finished.catalog(finished.stage("samples", name, trial)).only(label="AK")


def pixels(catalog: Catalog) -> np.ndarray:
    return np.stack([np.asarray(Image.open(catalog.resolve(place))) for place in catalog.table["location"]])


def test_ways_to_edit_share_a_fit_and_name_training_images(finished: Small):
    finished.check()
    assert len(finished.of_kind("generator")) == 1
    train = finished.part("train").only(label="AK")
    for name, edit in ((CHANGED, "whole"), ("model-edit=lesion", "lesion")):
        found = drawn(finished, name)
        assert set(found.table["parent"]) <= set(train.images)
        assert len(set(found.table["parent"])) == 5
        groups = dict(zip(train.images, train.groups, strict=True))
        assert found.groups.tolist() == [groups[parent] for parent in found.table["parent"]]
        said = [read_provenance(Path(found.resolve(place))) for place in found.table["location"]]
        assert [each["parent"] for each in said] == found.table["parent"].tolist()
        assert {each["drawing"]["edit"] for each in said} == {edit}
        scan = finished.prepared.pixels.scan.set_index("image")["sha256"]
        assert [each["parent_sha256"] for each in said] == [scan[each["parent"]] for each in said]
    assert set(drawn(finished, "model").table["parent"]) == {""}
    first, second = (drawn(finished, CHANGED, trial).table for trial in (0, 1))
    assert [*second["seed"]] == [SEEDS_PER_TRIAL + i for i in range(5)]
    order = finished.prepared.part(0, "train").only(label="AK")
    assert set(first["parent"]) != set(second["parent"]) or SEEDS_PER_TRIAL % len(order) == 0


def test_what_is_edited_is_the_region_of_the_mask_of_the_parent(finished: Small):
    for name, inside in (("model-edit=lesion", True), ("model-strength=0.6-edit=surround", False)):
        found = drawn(finished, name)
        parents = finished.prepared.catalog
        by_name = {image: row for row, image in enumerate(parents.images)}
        rows = parents.take([by_name[parent] for parent in found.table["parent"]])
        region = masks.read(rows, 32, finished.prepared.framing) > 0
        changed = (pixels(found) != finished.prepared.images(rows, 32)).any(3)
        assert not changed[region != inside].any()
        assert changed[region == inside].mean() > 0.7


def test_results_and_report_say_that_likeness_to_the_parent_is_expected(finished: Small):
    found = finished.collect()
    assert {made.name: made.edit for made in found.generators} == {
        "model": "",
        CHANGED: "whole",
        "model-strength=0.01": "whole",
        "model-edit=lesion": "lesion",
        "model-strength=0.6-edit=surround": "surround",
    }
    slight = next(each for each in found.fidelity if each.name == "model-strength=0.01").classes["NV"]
    assert slight.generated is not None
    assert slight.generated.near_parents == 1
    assert slight.generated.near_copies < 0.2
    plain = next(each for each in found.fidelity if each.name == "model").classes["NV"]
    assert plain.generated is not None
    assert plain.generated.near_parents is None
    [kept] = [made for made in found.selections if made.trial == 0]
    assert kept.kept == {"AK": 5}
    assert "5 images are edited photographs" in kept.rules[0].notes[0]
    page = render(run_files.Run(finished.run, found))
    assert "would be near-copies of the\nphotograph that each was made of, which is expected" in page
    assert "generated (left) and the photograph that it was made of (right)" in page
    with np.load(finished.run / next(m for m in found.generators if m.name == CHANGED).gallery) as gallery:
        names = dict(zip(drawn(finished, CHANGED).table["seed"], drawn(finished, CHANGED).table["parent"], strict=True))
        rows = gallery["generated_labels"] == "AK"
        shown = zip(gallery["generated_seeds"][rows], gallery["nearest_images"][rows], strict=True)
        assert {int(seed): str(name) for seed, name in shown} == names


def test_sample_edits_from_the_run_that_the_fit_lies_in(finished: Small, call: Any, tmp_path: Path):
    fitted = finished.run / finished.stage("generator", "model").folder
    how = ["--class", "AK", "--set", "num_sampling_steps=4"]
    same = call("sample", fitted, "--count", 9, "--set", "strength=0.4", *how, "--out", "out", "--json")
    assert same.code == 0, same.err
    nine = Catalog.load(Path("out/catalog.parquet"))
    five = drawn(finished, CHANGED)
    assert nine.table["parent"].tolist()[:5] == five.table["parent"].tolist()  # whatever the count
    assert np.array_equal(pixels(nine)[:5], pixels(five))
    for wrong, says in ((1.5, "less than or equal to 1"), (0, "greater than 0"), ("much", "number")):
        refused = call("sample", fitted, "--set", f"strength={wrong}")
        assert refused.code == 1
        assert says in refused.err, refused.err
    way = call("sample", fitted, "--set", "strength=0.4", "--interpolate", 4)
    assert way.code == 1
    assert "nothing between" in way.err
    (tmp_path / "alone").mkdir()
    for path in fitted.iterdir():
        if path.is_file():
            (tmp_path / "alone" / path.name).write_bytes(path.read_bytes())
    elsewhere = call("sample", tmp_path / "alone", "--set", "strength=0.4")
    assert elsewhere.code == 1
    assert "lies in no run folder" in elsewhere.err


# Planted leaks


@contextmanager
def catalog_of(finished: Small, stage: Any, change: Any):
    """The samples' catalog, with a witness that agrees, says something else."""
    with (
        finished.kept(stage, "catalog.parquet") as path,
        finished.kept(stage, witness.FILE) as says,
        finished.kept(stage, "done.json") as done,
    ):
        table = change(Catalog.load(path))
        table.save(path)
        seen = {"parents": witness.parents_digest(table), "drawn": witness.names_digest(table.images)}
        runs.write_json(says, {**finished.witness(stage), **seen})
        runs.write_json(done, {**runs.read_json(done), "files": runs.file_digests(path.parent)})
        yield


def first_parent(name: str, group: str = "") -> Any:
    """A change of a catalog: its first image has this parent."""

    def change(catalog: Catalog) -> Catalog:
        parents, groups = (catalog.table[column].to_numpy(object).copy() for column in ("parent", "group"))
        parents[0], groups[0] = name, group or groups[0]
        return catalog.with_columns(parent=parents, group=groups)

    return change


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_parent_in_another_part_is_refused(finished: Small, part: str):
    stage, held_out = finished.stage("samples", CHANGED), finished.part(part).only(label="AK")
    planted = first_parent(held_out.images[0], held_out.groups[0])
    with catalog_of(finished, stage, planted):
        finished.refused(f"was made of the image {held_out.images[0]}, which is not in the training part")
    arm = finished.stage("classifier", "changed")
    row = {"image": f"{CHANGED}/AK-99", "parent": held_out.images[0], "split_digest": stage.generator.split}
    with finished.added(arm, origin=Path(stage.generator.folder).name, **row):
        finished.refused(arm.folder, f'made of "{held_out.images[0]}", from outside its training part')
    extra = planted(drawn(finished, CHANGED))
    with pytest.raises(LeakError, match="not in the training part"):
        check_extra(extra, finished.part("train"), stage.generator.split)


def test_other_parents_than_those_of_the_seeds_are_refused(finished: Small):
    stage, found = finished.stage("samples", CHANGED), finished.catalog(finished.stage("samples", CHANGED))
    second, of_second = found.table["parent"][1], found.groups[1]
    with catalog_of(finished, stage, first_parent(second, of_second)):
        finished.refused(f'names "{second}" as its parent, not "{found.table["parent"][0]}"')
    with catalog_of(finished, stage, first_parent(second, "lesion:another")):
        finished.refused(f"is not listed with the group of {second}")
    with catalog_of(finished, stage, first_parent("")):
        finished.refused('names "" as its parent')
    with finished.record(stage, parents="other"):
        finished.refused("names other parents than its images were made of")
    plain = finished.stage("samples", "model")
    with catalog_of(finished, plain, first_parent(second, of_second)):
        finished.refused(f'names "{second}" as its parent, not ""')
    path = finished.catalog(stage).resolve(found.table["location"][0])
    with finished.kept(stage, str(Path(path).relative_to(finished.run / stage.folder))) as file:
        other = finished.catalog(plain)
        file.write_bytes(Path(other.resolve(other.table["location"][0])).read_bytes())
        finished.refused("says")


def test_bad_input_is_refused_before_any_work(finished: Small):
    for change, says in (
        ({"arms": {"changed": {"drawing": {"strength": 0}}}}, "arms.changed.drawing.strength"),
        ({"arms": {"changed": {"drawing": {"strength": 1.2}}}}, "arms.changed.drawing.strength"),
        ({"arms": {"changed": {"drawing": {"edit": "hair"}}}}, "arms.changed.drawing.edit"),
        ({"generators": {"model": {"options": {"strength": 0.4}}}}, "says how images are drawn"),
    ):
        with pytest.raises(RecipeError, match=says):
            plan.check(recipes.parse(recipes.merge(RECIPE, change)))
    bare = finished.prepared.catalog.with_columns(mask="")
    with pytest.raises(RecipeError, match=r"arms.inside.drawing.edit goes by lesion masks.* of AK") as caught:
        mask_needs.check_masks(finished.recipe, bare, finished.prepared.splits)
    assert "moulage masks predict" in caught.value.hint
    assert finished.prepared.masks
    assert json.loads((finished.run / data.PIXELS).read_text())["masks"] == finished.prepared.masks
    with pytest.raises(DataError, match='draws AK, NV, not "DF"'):
        draw(finished.run / finished.stage("generator", "model").folder, {"DF": 1}, 0, finished.run / "none")
