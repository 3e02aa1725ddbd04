"""Guards: each way in which a run could have seen what it is scored on is tried, and found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moulage.arm import roles
from moulage.data import split as splits
from moulage.data.catalog import REAL, Catalog, concatenate
from moulage.data.split import RESERVE
from moulage.errors import RunError
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.slices import restrict
from moulage.stages import witness
from moulage.stages.classifier import EXTRA
from recipes import SCRATCH
from small_study import Small

ADD = {"AK": 2, "VASC": 2}
RECIPE = {
    "study": {"name": "guarded", "target_classes": ["AK", "VASC"], "logit_adjustment": True},
    "data": {"source": "phantom", "options": {"num_images": 340, "size": 32, "min_lesions": 16}},
    "split": {"scheme": "folds", "num_folds": 2, "validation": 0.2, "reserve": 0.5},
    "generators": {"noise": {"plugin": "noise", "classes": ["AK", "VASC"], "size": 32}},
    "classifier": {"plugin": "probe", "options": {"size": 32, "penalty": 0.1, "backbone": SCRATCH}},
    "arms": {
        "none": {"balance": "none"},
        "copies": {"balance": "duplicates", "like": "drawn"},
        "drawn": {"balance": "synthesize", "generator": "noise", "add": ADD},
        "oracle": {"balance": "oracle", "like": "drawn"},
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Small:
    """A small study of two folds with a generator, a reserve and an oracle, computed in this process."""
    return Small(RECIPE, tmp_path_factory.mktemp("run"))


def test_an_honest_run_passes(finished):
    finished.check()
    assert roles(finished.recipe) == {"none": "reference", "copies": "reference", "drawn": "null", "oracle": "positive"}


def test_a_witness_says_what_was_seen(finished):
    stage, split = finished.stage("classifier", "drawn", 1), finished.prepared.split(1)
    found = finished.witness(stage)
    validation = witness.names_digest(finished.part("validation", 1).images)
    assert found["split_digest"] == split.digest
    assert found["fitted_on"] == witness.names_digest(finished.part("train", 1).images)
    assert found["chosen_on"] == {"part": "validation", "digest": validation}
    assert found["scored_on"] == {
        "validation": validation,
        "test": witness.names_digest(finished.part("test", 1).images),
    }
    assert found["origins"] == [Path(finished.stage("generator", "noise", 1).folder).name]
    assert found["images_seen"] == (len(finished.part("train", 1)) + sum(ADD.values()))
    generator = finished.witness(finished.stage("generator", "noise", 1))
    learned = finished.part("train", 1).only(label=["AK", "VASC"])
    assert (generator["fitted_on"], generator["num_images"]) == (witness.names_digest(learned.images), len(learned))


def test_every_arm_but_the_oracle_is_without_the_reserve(finished):
    held_back = set(finished.part(RESERVE).images)
    assert held_back
    for arm in finished.recipe.arms:
        added = set(finished.extra(arm)["image"])
        assert (added <= held_back and len(added) > 0) if arm == "oracle" else not added & held_back


def test_a_group_in_two_parts(finished):
    split = finished.prepared.split(0)
    group = split.table.loc[split.table["part"] == "train", "group"].value_counts().index[0]
    rows = split.table.index[split.table["group"] == group]
    assert len(rows) > 1
    table = split.table.copy()
    table.loc[rows[0], "part"] = "test"
    forged = replace(split, table=table, digest=splits.digest_of(table))
    prepared = replace(finished.prepared, splits=(forged, *finished.prepared.splits[1:]))
    finished.refused(str(group), "apart", prepared=prepared)


def test_synthetic_rows_among_the_images_that_are_split(finished):
    drawn = Catalog.load(finished.run / finished.stage("samples", "noise").folder / "catalog.parquet")
    catalog = concatenate(finished.prepared.catalog, drawn.take([0]))
    finished.refused("synthetic", drawn.images[0], prepared=replace(finished.prepared, catalog=catalog))


def test_a_generator_of_another_split(finished):
    stage, other = finished.stage("generator", "noise"), finished.prepared.split(1).digest
    with finished.record(stage, split_digest=other):
        finished.refused(stage.folder, other, finished.prepared.split(0).digest)


@pytest.mark.parametrize("part", ["validation", "test", RESERVE])
def test_a_generator_that_saw_more_than_the_training_part(finished, part):
    stage = finished.stage("generator", "noise")
    learned = ["AK", "VASC"]
    beyond = finished.part(part).only(label=learned)
    with finished.record(stage, fitted_on=witness.names_digest(beyond.images)):
        finished.refused(stage.folder, f"fitted on the {part} part")
    both = [*finished.part("train").only(label=learned).images, beyond.images[0]]
    with finished.record(stage, fitted_on=witness.names_digest(both)):
        finished.refused(stage.folder, "fitted on other images")
    with finished.record(stage, fitted_part=part):
        finished.refused(stage.folder, f"the part {part}")


def test_samples_of_another_split_or_generator(finished):
    stage, other = finished.stage("samples", "noise"), finished.prepared.split(1).digest
    with finished.record(stage, split_digest=other):
        finished.refused(stage.folder, other)
    with finished.kept(stage, "catalog.parquet") as path:
        drawn = Catalog.load(path)
        drawn.with_columns(split_digest=other).save(path)
        finished.refused(drawn.images[0], "fitted on the split", other)
        drawn.with_columns(origin="noise-7-abc").save(path)
        finished.refused(stage.folder, "noise-7-abc")
        drawn.take(np.arange(1, len(drawn))).save(path)
        finished.refused(stage.folder, "other images than were drawn")
        real = drawn.with_columns(origin=np.array([REAL, *drawn.table["origin"][1:]], object))
        real.save(path)
        finished.refused(stage.folder, "is among the samples")


def test_a_classifier_that_trained_on_more_than_the_training_part(finished):
    stage = finished.stage("classifier", "copies")
    with finished.record(stage, fitted_on=witness.names_digest(finished.part("test").images)):
        finished.refused(stage.folder, "trained on the test part")
    with finished.record(stage, fitted_part="validation"):
        finished.refused(stage.folder, "the part validation")
    with finished.record(stage, split_digest="0" * 12):
        finished.refused(stage.folder, "0" * 12)


def test_stopping_early_on_the_test_part(finished):
    stage = finished.stage("classifier", "none")
    test = witness.names_digest(finished.part("test").images)
    for chosen in ({"part": "test", "digest": test}, {"part": "validation", "digest": test}):
        with finished.record(stage, chosen_on=chosen):
            finished.refused(stage.folder, "chosen on", "test")
    with finished.record(stage, chosen_on=None):
        finished.refused(stage.folder, "chosen on")


def test_arms_that_saw_unequal_numbers_of_images(finished):
    stage = finished.stage("classifier", "oracle", 1)
    with finished.record(stage, images_seen=finished.witness(stage)["images_seen"] + 1):
        finished.refused(stage.folder, finished.stage("classifier", "none", 1).folder, "images", error=RunError)


def test_arms_that_differ_in_what_they_were_scored_on(finished):
    stage = finished.stage("classifier", "drawn")
    scored = finished.witness(stage)["scored_on"]
    for part, other in (("test", "train"), ("validation", "test")):
        with finished.record(stage, scored_on={**scored, part: witness.names_digest(finished.part(other).images)}):
            finished.refused(stage.folder, f"{part} scores are of the {other} part")


def test_arms_of_a_trial_that_are_not_paired(finished):
    stage = finished.stage("classifier", "drawn")
    with finished.record(stage, seed=1):
        finished.refused(stage.folder, finished.stage("classifier", "none").folder, "seed")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_synthetic_or_foreign_rows_among_predictions(finished, part):
    stage = finished.stage("classifier", "drawn")
    with finished.kept(stage, f"{part}.parquet") as path:
        found = Predictions.load(path)
        images = found.images.copy()
        images[0] = "noise-0-abc/AK-0"
        replace(found, images=images).save(path)
        finished.refused(str(path), "noise-0-abc/AK-0", "no real image")
        images[0] = finished.part("train").images[0]
        replace(found, images=images).save(path)
        finished.refused(str(path), f"not the {part} part")
        restrict(found, np.arange(1, len(found))).save(path)
        finished.refused(str(path), found.images[0])


def test_held_back_images_in_another_arm(finished):
    held_back = finished.part(RESERVE).images[0]
    stage = finished.stage("classifier", "copies")
    with finished.added(stage, image=held_back, origin=REAL):
        finished.refused(stage.folder, held_back, "held back")
    with finished.added(finished.stage("classifier", "oracle"), image=held_back, origin=REAL):
        finished.check()


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("arm", ["copies", "oracle"])
def test_held_out_images_are_added_by_no_arm(finished, part, arm):
    stage, image = finished.stage("classifier", arm), finished.part(part).images[0]
    with finished.added(stage, image=image, origin=REAL):
        finished.refused(stage.folder, image, "outside its training part")


def test_added_images_of_another_split_or_generator(finished):
    split, other = (finished.prepared.split(trial).digest for trial in (0, 1))
    stage, copies = finished.stage("classifier", "drawn"), finished.stage("classifier", "copies")
    own = Path(finished.stage("generator", "noise").folder).name
    with finished.added(stage, image="x/AK-9", origin=own, split_digest=other):
        finished.refused(stage.folder, "x/AK-9", other)
    with finished.added(stage, image="x/AK-9", origin="elsewhere", split_digest=split):
        finished.refused(stage.folder, "elsewhere", "not its generator")
    with finished.added(copies, image="x/AK-9", origin=own, split_digest=split):
        finished.refused(copies.folder, own, "not its generator")


def test_records_that_contradict_each_other(finished):
    stage = finished.stage("classifier", "drawn")
    with finished.kept(stage, EXTRA) as path:
        pd.read_parquet(path).iloc[1:].to_parquet(path)
        finished.refused(stage.folder, "other rows than the arm added")
    with finished.record(stage, origins=[]):
        finished.refused(stage.folder, "other generators")
    with finished.kept(stage, witness.FILE) as path:
        path.unlink()
        finished.refused(witness.FILE, "missing", error=RunError)


def test_the_run_is_honest_again_after_all_that(finished):
    finished.check()


def test_every_kind_of_stage_that_sees_images_is_guarded(finished):
    kinds = {stage.kind for stage in finished.stages if not stage.is_witnessed}
    assert kinds == {"embedding", "gallery"}
