"""Selections in a study: planned, computed, guarded, told; recipes without any stay what they were."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from moulage import recipe as recipes
from moulage.collect import kept_of_arms, too_few
from moulage.data.catalog import REAL, Catalog
from moulage.errors import RecipeError
from moulage.recipe import merge
from moulage.report import run_files
from moulage.report.page import render
from moulage.results import SelectionRun
from moulage.stages import plan as plans
from moulage.stages import witness
from moulage.stages.plan import plan
from moulage.stages.stage import execute
from moulage.stages.timing import time_steps
from recipes import SCRATCH, phantom_recipe
from small_study import Small

pytestmark = pytest.mark.slow

ADD = {"AK": 4, "VASC": 3}
PLAIN = phantom_recipe(
    study={"num_trials": 2, "target_classes": ["AK", "VASC"]},
    data={"options": {"min_lesions": 12}},
    generators={"noise": {"plugin": "noise", "classes": ["AK", "VASC"], "size": 32}},
    arms={
        "copies": {"balance": "duplicates", "like": "drawn"},
        "drawn": {"balance": "synthesize", "generator": "noise", "add": ADD},
    },
)
FEATURES = {"backbone": SCRATCH}
RECIPE = merge(
    PLAIN,
    {
        "selections": {
            "lots": {"rules": [{"plugin": "random", "options": {"share": 0.6}}, {"plugin": "random"}]},
            "harsh": {
                "rules": [
                    {"plugin": "near_copies"},
                    {"plugin": "off_manifold", "options": {"k": 1}},
                    {"plugin": "random", "options": {"share": 0.2}},
                ],
                "draw": 2.5,
                "features": FEATURES,
            },
        },
        "arms": {
            "lots": {"balance": "synthesize", "generator": "noise", "selection": "lots", "like": "drawn"},
            "harsh": {"balance": "synthesize", "generator": "noise", "selection": "harsh", "like": "drawn"},
        },
    },
)
RECIPE["selections"]["lots"]["features"] = FEATURES


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Small:
    small = Small(RECIPE, tmp_path_factory.mktemp("run"))
    small.collect()
    return small


# Recipes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {"lots": {"selection": "lot"}}}, ["arms.lots", '"lot"', '"lots"']),
        ({"arms": {"none": {"selection": "lots"}}}, ["arms.none", "no generator"]),
        ({"selections": {"lots": {"rules": []}}}, ["selections.lots.rules"]),
        ({"selections": {"lots": {"draw": 0.5}}}, ["selections.lots.draw"]),
        ({"selections": {"lots": {"rule": []}}}, ["selections.lots.rule", '"rules"']),
        ({"selections": {"a/b": {"rules": [{"plugin": "random"}]}}}, ["a/b", "letters"]),
        ({"selections": {"lots": {"rules": [{"plugin": "randm"}]}}}, ["selection", '"random"']),
        (
            {"selections": {"lots": {"rules": [{"plugin": "random"}, {"plugin": "random", "options": {"shar": 1}}]}}},
            ["lots.rules.1", '"share"'],
        ),
        (
            {"selections": {"lots": {"features": {"backbon": {}}}}},
            ["selections.lots.features.backbon", '"backbone"'],
        ),
    ],
)
def test_wrong_recipes_are_refused_before_any_work_and_name_the_place(change, words):
    with pytest.raises(RecipeError) as caught:
        plans.check(recipes.parse(merge(RECIPE, change)))
    for word in words:
        assert word in str(caught.value)


# The plan


def test_arms_without_selection_keep_their_folders(finished):
    before = {stage.folder for stage in plan(recipes.parse(PLAIN), finished.prepared) if stage.kind != "samples"}
    now = {stage.folder for stage in finished.stages}
    lost = {folder.split("/")[0] for folder in before - now}
    assert lost <= {"embeddings", "galleries"}, "of more samples, drawn by the same generator"


def test_as_many_are_drawn_as_the_greediest_arm_selects_from(finished):
    assert finished.stage("samples", "noise").counts == {"AK": 12, "VASC": 9}
    assert finished.stage("selection", "harsh").first == {"AK": 10, "VASC": 8}
    assert finished.stage("selection", "lots", 1).first == {"AK": 12, "VASC": 9}


def test_features_are_computed_once_for_all_selections(finished):
    features = finished.of_kind("features")
    assert len(features) == 1 + 2, "real images, and the samples of each trial"
    few, many = (time_steps(features[0], number, "cpu") for number in (100, 100_000))
    assert 0 < few < many, "the estimate before a run counts them"
    names = json.loads((finished.run / features[0].folder / "images.json").read_text())
    values = np.load(finished.run / features[0].folder / "inputs.npy")
    assert values.shape[0] == len(names) == len(finished.prepared.catalog)


def test_a_changed_selection_recomputes_itself_and_its_arms_alone(finished):
    old = {stage.folder for stage in finished.stages}

    def new(change):
        found = plan(recipes.parse(merge(RECIPE, change)), finished.prepared)
        return {(stage.kind, stage.name) for stage in found if stage.folder not in old}

    lots = {("selection", "lots"), ("classifier", "lots")}
    assert new({"selections": {"lots": {"rules": [{"plugin": "random"}]}}}) == lots
    assert new({"study": {"question": "else"}}) == set()
    # Twenty-one of AK are drawn for this arm, and the others go on with the first of them.
    greedy = {"balance": "synthesize", "generator": "noise", "selection": "lots", "add": {"AK": 7}}
    found = new({"arms": {"greedy": greedy}})
    assert {kind for kind, name in found} == {"samples", "gallery", "embedding", "features", "selection", "classifier"}
    assert {name for kind, name in found if kind == "classifier"} == {"greedy"}


# What is done


def test_an_arm_adds_what_its_selection_kept(finished):
    for trial in range(2):
        for name in ("lots", "harsh"):
            kept = finished.catalog(finished.stage("selection", name, trial))
            added = finished.extra(name, trial)
            assert set(added["image"]) <= set(kept.images)
            wanted = {label: min(number, kept.counts[label]) for label, number in ADD.items()}
            assert added["label"].value_counts().to_dict() == {k: n for k, n in wanted.items() if n}
            drawn = finished.catalog(finished.stage("samples", "noise", trial))
            assert set(kept.images) < set(drawn.images)
            assert not (finished.extra(name, trial)["origin"] == REAL).any()
    first = finished.extra("drawn")["image"].tolist()
    assert finished.extra("lots")["image"].tolist() != first


def test_all_arms_see_equally_many_images_even_where_few_are_kept(finished):
    assert len({finished.witness(stage)["images_seen"] for stage in finished.of_kind("classifier")}) == 1
    harsh = sum(len(finished.extra("harsh", trial)) for trial in range(2))
    assert harsh < 2 * sum(ADD.values()), "the last rule leaves a fifth"


def test_a_selection_is_recorded(finished):
    stage = finished.stage("selection", "harsh")
    folder = finished.run / stage.folder
    record, table = json.loads((folder / "selection.json").read_text()), pd.read_parquet(folder / "decisions.parquet")
    assert record["want"] == ADD
    assert [rule["plugin"] for rule in record["rules"]] == ["near_copies", "off_manifold", "random"]
    left = dict(stage.first)
    for number, rule in enumerate(record["rules"]):
        assert rule["came_in"] == left
        rows = table[table["rule"] == f"{number + 1} {rule['plugin']}"]
        assert rows["label"][~rows["kept"]].value_counts().to_dict() == {k: n for k, n in rule["dropped"].items() if n}
        left = {label: count - rule["dropped"][label] for label, count in left.items()}
    assert record["kept"] == left == {label: finished.catalog(stage).counts[label] for label in ADD}
    assert record["network"].startswith("test_resnet (scratch")
    said = finished.witness(stage)
    assert said["fitted_on"] == witness.names_digest(finished.part("train").images)
    assert said["kept"] == witness.names_digest(finished.catalog(stage).images)


def test_the_same_task_again_gives_the_same(finished, tmp_path):
    copy = shutil.copytree(finished.run, tmp_path / "run")
    stage = finished.stage("selection", "lots")
    before = (copy / stage.folder / "selection.json").read_text()
    shutil.rmtree(copy / stage.folder)
    execute(copy, stage, "cpu")
    assert (copy / stage.folder / "selection.json").read_text() == before
    assert (
        Catalog.load(copy / stage.folder / "catalog.parquet").images.tolist() == finished.catalog(stage).images.tolist()
    )


# Guards


def test_a_selection_that_kept_what_it_was_not_given(finished):
    stage, other = finished.stage("selection", "lots"), finished.stage("selection", "lots", 1)
    catalog = finished.catalog(stage)
    with finished.kept(stage, "catalog.parquet") as path:
        finished.catalog(other).save(path)
        finished.refused(stage.folder, "which is not among", stage.samples.folder)
        catalog.with_columns(label=catalog.table["label"].to_numpy()[::-1]).save(path)
        finished.refused(stage.folder, "which is not among")
        catalog.take(np.arange(1, len(catalog))).save(path)
        finished.refused(stage.folder, "other images than were kept")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_selection_that_saw_images_that_score(finished, part):
    stage, images = finished.stage("selection", "lots"), finished.part(part).images
    digest = witness.names_digest(images)
    with finished.record(stage, fitted_on=digest):
        finished.refused(stage.folder, f"the selection was fitted on the {part} part")
    with finished.record(stage, fitted_on=witness.names_digest([*finished.part("train").images, *images])):
        finished.refused(stage.folder, "fitted on other images")
    with finished.record(stage, chosen_on={"part": part, "digest": witness.names_digest(finished.part("test").images)}):
        finished.refused(stage.folder, "a choice was made on the", "test")
    with finished.record(stage, split_digest="0" * 12):
        finished.refused(stage.folder, "0" * 12)


def test_an_arm_that_adds_what_its_selection_dropped(finished):
    stage, selection = finished.stage("classifier", "lots"), finished.stage("selection", "lots")
    drawn = finished.catalog(finished.stage("samples", "noise"))
    dropped = drawn.take(~np.isin(drawn.images, finished.catalog(selection).images))
    row = {name: str(dropped.table[name][0]) for name in witness.ROW}
    with finished.added(stage, **row):
        finished.refused(stage.folder, dropped.images[0], f"which {selection.folder} dropped")
    finished.check()


# What is told


def test_too_few_is_said_once_for_all_trials():
    about = {"name": "strict", "arms": ["a"], "want": {"AK": 160, "NV": 5}, "folder": "", "pictures": ""}
    about |= {"generator": "gan", "network": "", "rules": []}
    records = [
        SelectionRun(**about, trial=trial, kept={"AK": kept, "NV": 9}) for trial, kept in enumerate((200, 97, 120))
    ]
    wants = {"few": {"AK": 40}, "some": {"AK": 110}, "a": {"AK": 160}}
    assert too_few(records, wants) == [
        "a: 160 images of AK were wanted, and the selection strict kept 97 (the fewest of 2 such trials). The arm "
        "added what was kept, and saw as many images in training as all others."
    ]
    assert too_few(records[:1], wants) == []
    both = [record.model_copy(update={"arms": ["few", "a"]}) for record in records]
    assert too_few(both, wants) == too_few(records, wants)
    three = [record.model_copy(update={"arms": ["few", "some", "a"]}) for record in records]
    assert too_few(three, wants) == [sentence.replace("a: ", "some, a: ", 1) for sentence in too_few(records, wants)]
    assert kept_of_arms(records[:1]) == {}
    [(arm, kept)] = kept_of_arms(records).items()
    assert arm == "a"
    assert kept["AK"][0] == 97


def test_the_report_shows_what_was_dropped_and_why(finished):
    page = render(run_files.read(finished.run), ["selection"])
    results = json.loads((finished.run / "results.json").read_text())
    harsh = [made for made in results["selections"] if made["name"] == "harsh"]
    assert len(harsh) == 2
    assert harsh[0]["arms"] == ["harsh"]
    section = page[page.index('<h2 id="selection">') :]
    assert "harsh: images of noise, for harsh" in section
    assert "lots: images of noise, for lots" in section
    dropped = sum(sum(made["rules"][2]["dropped"].values()) for made in harsh)
    came = sum(sum(made["rules"][2]["came_in"].values()) for made in harsh)
    assert f'<td class="number">{came}</td><td class="number">{dropped}</td>' in section
    assert "Too few were kept." in section
    reasons = pd.read_parquet(finished.run / harsh[0]["folder"] / "decisions.parquet")
    shown = reasons["reason"][~reasons["kept"]]
    assert any(reason in section for reason in shown)
    assert any("were wanted, and the selection harsh kept" in detail for detail in results["details"])
    assert results["details"][0].split(":")[0] in page[: page.index("<nav")]
    arm = next(arm for arm in results["arms"] if arm["name"] == "lots")
    assert (arm["selection"], arm["extra"]) == ("lots", ADD)
