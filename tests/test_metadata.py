"""Patient metadata beside the image: how they become numbers, who reads them, and that nothing leaks through them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from classifier_case import TINY, Case
from moulage import backbones, plugins, runs
from moulage import recipe as recipes
from moulage.classifiers import _fitting, _views, finetune, probe
from moulage.data import metadata
from moulage.data.catalog import COLUMNS, Catalog
from moulage.data.metadata import Encoder, lend
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError
from moulage.finished.explain import explain
from moulage.finished.external import evaluate_on
from moulage.finished.unknown import score_unknown
from moulage.recipe import merge
from moulage.recipe_tables import METADATA, NO_METADATA
from moulage.runs import seed_of
from moulage.stages import data
from moulage.stages import plan as plans
from moulage.stages.classifier import with_metadata
from moulage.stages.plan import plan
from moulage.treatment import Treatment
from recipes import SLOW, phantom_recipe
from small_study import Small


def catalog(rows: list[tuple[Any, ...]], name: str = "some") -> Catalog:
    """Rows of label, age, sex, site and, where given, origin."""
    table = pd.DataFrame(
        [(*row, "real") if len(row) == 4 else row for row in rows], columns=["label", "age", "sex", "site", "origin"]
    )
    table["image"] = [f"{name}{number}" for number in range(len(table))]
    table["location"] = table["image"] + ".png"
    return Catalog.build(table, ("AK", "NV"), name)


TRAIN = catalog(
    [
        ("AK", 70, "male", "head/neck"),
        ("AK", 80, "Male ", "head/neck"),
        ("AK", np.nan, "female", ""),
        ("NV", 30, "female", "torso"),
        ("NV", 20, "", "torso"),
    ]
)


# How they become numbers


def test_values_are_one_hot_and_missing_is_one_of_them():
    encoder = Encoder.fit(TRAIN, ("sex", "age", "site"))
    assert encoder.names == (
        "sex female",
        "sex male",
        "sex missing",
        "age",
        "age missing",
        "site head/neck",
        "site torso",
        "site missing",
    )
    found = encoder.encode(TRAIN)
    assert found.dtype == np.float32
    assert found[:, [0, 1, 2]].tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert found[:, 4].tolist() == [0, 0, 1, 0, 0]
    ages = np.array([70, 80, 30, 20])
    assert found[[0, 1, 3, 4], 3] == pytest.approx((ages - 50) / ages.std(), abs=1e-6)
    assert found[2, 3] == 0
    assert found[:, 5:].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_what_the_training_part_never_named_counts_as_missing():
    encoder = Encoder.fit(TRAIN, METADATA)
    others = catalog([("AK", 999, "diverse", "back"), ("NV", -1, "male", "back"), ("NV", np.inf, "", "torso")])
    nobody = catalog([("AK", np.nan, "", "")] * 3)
    found, missing = encoder.encode(others), encoder.encode(nobody)
    assert (found[:1] == missing[:1]).all()
    assert found[1:, :2].tolist() == missing[1:, :2].tolist(), "no such ages"
    assert encoder.unseen(others) == {"sex": {"other": 1}, "site": {"back": 2}}
    assert encoder.unseen(TRAIN) == {}
    assert encoder.encode(others.take([])).shape == (0, len(encoder.names))


def test_an_encoder_is_saved_beside_a_classifier(tmp_path):
    encoder = Encoder.fit(TRAIN, ("site", "age"))
    assert Encoder.load(tmp_path) is None
    encoder.save(tmp_path)
    assert Encoder.load(tmp_path) == encoder
    (tmp_path / metadata.FILE).write_text('{"columns": ["age"], "words": {}}')
    with pytest.raises(Exception, match=r"metadata\.json lacks mean, std"):
        Encoder.load(tmp_path)


def test_one_age_is_no_reason_to_divide_by_zero():
    encoder = Encoder.fit(catalog([("AK", 50, "", ""), ("NV", 50, "", "")]), ("age",))
    assert encoder.encode(TRAIN)[0].tolist() == [20, 0]


def test_data_without_a_column_say_so():
    with pytest.raises(DataError, match='no image of bare has a value of "age"') as caught:
        Encoder.fit(catalog([("AK", np.nan, "male", "")], "bare"), ("sex", "age"))
    assert caught.value.hint == "The data have sex."
    with pytest.raises(DataError, match='value of "site"') as caught:
        metadata.check(catalog([("AK", np.nan, "", "")], "bare"), ("site",))
    assert "no metadata" in caught.value.hint


# Generated images


def test_generated_images_borrow_the_metadata_of_one_training_image_of_their_class():
    rows = [("AK", np.nan, "", "", "gan-0")] * 200 + [("AK", np.nan, "", ""), ("NV", np.nan, "", "", "gan-0")]
    lent = lend(catalog(rows), TRAIN, np.random.default_rng(0)).table.astype({"age": float})
    allowed = {(70.0, "male", "head/neck"), (80.0, "male", "head/neck"), (-1.0, "female", "")}
    found = list(zip(lent["age"].fillna(-1), lent["sex"], lent["site"], strict=True))
    assert set(found[:200]) == allowed
    assert found[200] == (-1.0, "", ""), "a real image keeps its own"
    assert found[201] in {(30.0, "female", "torso"), (20.0, "", "torso")}
    shares = pd.Series(found[:200]).value_counts(normalize=True)
    assert shares.to_numpy() == pytest.approx([1 / 3] * 3, abs=0.12)


def test_what_is_borrowed_follows_the_arms_seed():
    rows = catalog([("AK", np.nan, "", "", "gan-0")] * 40)
    once, again = (with_metadata(rows, TRAIN, 5).table for _ in range(2))
    assert once.equals(again)
    assert once.equals(lend(rows, TRAIN, np.random.default_rng(seed_of(5, "metadata"))).table)
    assert not once.equals(with_metadata(rows, TRAIN, 6).table)


def test_a_class_without_a_training_image_lends_nothing():
    with pytest.raises(DataError, match="none of NV"):
        lend(catalog([("NV", np.nan, "", "", "gan-0")]), TRAIN.only(label="AK"), np.random.default_rng(0))


# The recipe

RECIPE = phantom_recipe(
    data={"options": {"num_images": 240}, "unknown": ["VASC"]},
    generators={"noise": {"plugin": "noise", "classes": ["AK"], "size": 32}},
    fidelity={"num_images": 0, "judge_images": 0},
    classifier={"metadata": ["age", "sex", "site"], "options": {"penalty": 0.05}},
    arms={"noise": {"balance": "synthesize", "generator": "noise", "add": {"AK": 12}}},
)


def test_every_column_of_the_catalog_is_a_patients_or_refused_with_its_reason():
    assert set(METADATA) | set(NO_METADATA) >= set(COLUMNS)
    assert not set(METADATA) & set(NO_METADATA)
    for name, reason in NO_METADATA.items():
        with pytest.raises(RecipeError) as caught:
            recipes.parse(merge(RECIPE, {"classifier": {"metadata": ["age", name]}}))
        assert f'"{name}" is not for a classifier: {reason}' in caught.value.message


def test_misspelled_and_repeated_columns_are_refused():
    with pytest.raises(RecipeError, match=r'"sexx" is no metadata of a patient\. Did you mean "sex"'):
        recipes.parse(merge(RECIPE, {"classifier": {"metadata": ["sexx"]}}))
    with pytest.raises(RecipeError, match="each column once"):
        recipes.parse(merge(RECIPE, {"classifier": {"metadata": ["age", "age"]}}))


def test_a_classifier_that_reads_images_alone_refuses_metadata(monkeypatch):
    monkeypatch.delattr(probe, "METADATA")
    with pytest.raises(RecipeError, match='"probe" reads images alone') as caught:
        plans.check(recipes.parse(RECIPE))
    assert "finetune, metadata" in caught.value.hint


def test_the_classifier_metadata_needs_some():
    only = {**RECIPE, "classifier": {"plugin": "metadata"}}
    with pytest.raises(RecipeError, match='"metadata" reads nothing else'):
        plans.check(recipes.parse(only))
    plans.check(recipes.parse(merge(only, {"classifier": {"metadata": ["age"]}})))


# Examples and the view


def test_metadata_that_do_not_fit_are_refused():
    inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3)
    for wrong in (np.zeros((2, 1), np.float32), np.zeros((3, 1)), np.zeros(3, np.float32)):
        with pytest.raises(DataError, match="for 3 examples"):
            Examples(inputs, labels, wrong)
    with pytest.raises(DataError, match="example 1 are not finite"):
        Examples(inputs, labels, np.float32([[0], [np.nan], [0]]))
    known = Examples(inputs, labels, np.zeros((3, 1), np.float32))
    with pytest.raises(DataError, match="1 columns of metadata, extra ones 0"):
        TrainingView(known, Examples(inputs, labels), 3)


# Every classifier that reads them

OPTIONS: dict[str, dict[str, Any]] = {
    "probe": {},
    "metadata": {},
    "finetune": {
        "backbone_learning_rate": 1e-4,
        "head_learning_rate": 3e-2,
        "epochs": 5,
        "metadata_network": {"units": 8, "dropout": 0.2},
    },
}


def blind(name: str, **options: Any) -> Case:
    """A classifier, and data whose classes the metadata alone tell apart."""
    return Case(name, metadata=True, blind=True, **{**OPTIONS[name], **options})


@pytest.fixture(scope="module", params=list(OPTIONS))
def case(request: pytest.FixtureRequest) -> Case:
    return blind(request.param)


@pytest.fixture(scope="module")
def fit(case: Case, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fit")
    return case.fitted(folder), folder


def test_it_learns_from_metadata(case, fit):
    assert (case.predict(fit[0]).argmax(1) == case.validation.labels).mean() > 0.9
    turned = case.validation.metadata[:, [2, 0, 1]]  # as if each image were of the next class
    found = fit[0].predict(case.validation.inputs, turned).argmax(1)
    assert (found == (case.validation.labels + 1) % 3).mean() > 0.9


def test_metadata_that_are_not_those_of_the_training_are_refused(case, fit, tmp_path):
    inputs, known = case.validation.inputs, case.validation.metadata
    for wrong in (None, known[:, :2], known[:3], known.astype(np.float64)):
        for call in (fit[0].predict, fit[0].features):
            with pytest.raises(DataError, match="reads 3 columns of metadata"):
                call(inputs, wrong)
    bare = Examples(inputs, case.validation.labels)
    with pytest.raises(DataError, match="reads 3 columns of metadata and got none"):
        case.new().fit(case.view, bare, seed=0, folder=tmp_path)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_metadata_are_mixed_as_the_labels_are(name):
    module = plugins.load("balance", name)
    treatment = module.treat(module.Config(), np.array([4, 4, 4]))
    targets = torch.eye(3).repeat(4, 1)
    images = targets.argmax(1).float()[:, None, None, None].expand(12, 3, 16, 16)
    torch.manual_seed(3)
    mixed, soft, known, _ = _fitting.mixed(treatment, images, targets, targets * 5)
    assert known is not None
    assert torch.allclose(known, soft * 5)
    assert ((soft > 0) & (soft < 1)).any(), "something was mixed"
    torch.manual_seed(3)
    without = _fitting.mixed(treatment, images, targets, None)
    assert torch.equal(mixed, without[0])
    assert torch.equal(soft, without[1])
    assert without[2] is None


def test_mixed_metadata_reach_the_classifier(case, tmp_path):
    """Where every batch loses its metadata, nothing is learned from them."""
    num_targets = []

    def mix(inputs, targets):
        num_targets.append(targets.shape[1])
        if inputs.ndim == 2:  # embeddings, and metadata after them
            inputs = torch.cat([inputs[:, :-3], inputs[:, -3:] * 0], 1)
        return inputs, torch.cat([targets[:, :3], targets[:, 3:] * 0], 1)

    fitted = case.fitted(tmp_path, treatment=Treatment(mix=mix, key="hides"))
    assert set(num_targets) == ({6} if case.module is finetune else {3})
    assert (case.predict(fitted).argmax(1) == case.validation.labels).mean() < 0.75


# Fine-tuning


def test_the_metadata_network_learns_with_the_head_and_hides_whole_images():
    options = finetune.MetadataOptions(units=8, dropout=0.25)
    features = backbones.build(backbones.Backbone(**TINY), 32)
    network = finetune.Network(features, 3, 5, options)
    for head_only in (False, True):
        groups = network.groups(None if head_only else 0.1, 0.2, 0.0)
        rates = {id(p): g["lr"] for g in groups for p in g["params"]}
        assert {rates[id(p)] for part in (network.head, network.metadata) for p in part.parameters()} == {0.2}
        assert (id(next(features.parameters())) in rates) != head_only
    torch.manual_seed(0)
    with torch.no_grad():
        network.metadata.second.bias.fill_(10.0)
        hidden = (network.metadata.train()(torch.rand(2000, 5)) == 0).float()
        assert set(hidden.mean(1).tolist()) == {0, 1}
        assert hidden.mean() == pytest.approx(0.25, abs=0.04)
        assert (network.metadata.eval()(torch.rand(100, 5)) > 0).all()


@pytest.mark.parametrize("case", ["finetune"], indirect=True)
def test_every_view_of_an_image_has_its_metadata(case, fit, tmp_path):
    fit[0].save(tmp_path)
    saved = runs.read_json(tmp_path / "config.json")
    saved["config"]["views"] = {**saved["config"]["views"], "symmetries": 4, "average": "logits"}
    runs.write_json(tmp_path / "config.json", saved)
    classifier = finetune.Classifier.load(tmp_path)
    pixels, known = case.validation.inputs, case.validation.metadata
    plain = classifier._predict
    turned = [np.rot90(pixels, k, (1, 2)).copy() for k in range(4)]
    expected = np.mean([plain(view, known, _views.AS_IT_IS) for view in turned], axis=0)
    assert classifier.predict(pixels, known) == pytest.approx(expected, abs=1e-4)


# Studies


@pytest.fixture(scope="module", params=SLOW)
def run(tmp_path_factory: pytest.TempPathFactory):
    """A finished study with generated images and unknown classes, and what its fits were given."""
    folder, given, fit = tmp_path_factory.mktemp("study"), {}, probe.Classifier.fit

    def watched(self, view, validation, **options):
        given[options["folder"].name.rpartition("-")[0]] = (view, validation)
        fit(self, view, validation, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe.Classifier, "fit", watched)
        Small(RECIPE, folder).collect()
    return folder, given


def test_a_study_encodes_by_its_training_part_and_lends_to_generated_images(run):
    recipe, prepared = data.load(run[0])
    train = prepared.split(0).part(prepared.catalog, "train")
    encoder = Encoder.fit(train, METADATA)
    folders = list((run[0] / "classifiers").iterdir())
    assert len(folders) == 2
    assert all(Encoder.load(folder) == encoder for folder in folders)
    view, validation = run[1]["noise-0"]
    assert (view.real.metadata == encoder.encode(train)).all()
    assert (validation.metadata == encoder.encode(prepared.split(0).part(prepared.catalog, "validation"))).all()
    lenders = {tuple(row) for row in encoder.encode(train.only(label="AK"))}
    assert len(view.extra) == 12
    assert {tuple(row) for row in view.extra.metadata} <= lenders
    without = {stage.folder for stage in plan(recipes.parse(merge(RECIPE, {"classifier": {"metadata": []}})), prepared)}
    with_them = {stage.folder for stage in plan(recipe, prepared)}
    assert {folder.split("/")[0] for folder in with_them - without} == {"classifiers"}, "embeddings are shared"


def test_a_classifier_that_reads_metadata_is_explained(run):
    pytest.importorskip("captum")
    found = explain(run[0], arm="noise", num_images=1, device="cpu")
    assert found["no_maps"] == ""
    assert any(image["neighbours"] for image in found["images"])


def test_other_data_and_unknown_classes_are_scored_with_their_metadata(run, tmp_path):
    found = score_unknown(run[0], device="cpu")
    assert {fit["arm"] for fit in found["fits"]} == {"none", "noise"}
    lines: list[str] = []
    options = {"num_images": 160, "size": 32, "seed": 7, "min_lesions": 8}
    phantom = plugins.load("sources", "phantom")
    read = phantom.read

    def renamed(path, config):
        found = read(path, config)
        return found.with_columns(site=found.table["site"].replace("head/neck", "face").to_numpy(object))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "read", renamed)
        summary = evaluate_on(run[0], "phantom", None, options, {"VASC": ""}, device="cpu", say=lines.append)
    assert len(summary["fits"]) == 2
    [line] = [line for line in lines if "count as having none" in line]
    assert "a site that no training image has" in line
    assert line.endswith("face.")
    assert line in summary["notes"]


@pytest.mark.slow
def test_a_classifier_is_trained_on_metadata_from_the_command_line(call, tmp_path):
    phantom = ["--source-set", "num_images=240", "--source-set", "size=32"]
    refused = call("train", "metadata", *phantom)
    assert refused.code == 1
    assert "reads nothing else" in refused.err
    trained = call("train", "metadata", *phantom, "--metadata", "age", "--metadata", "site", "--json")
    assert trained.code == 0, trained.err
    [saved] = tmp_path.rglob(metadata.FILE)
    assert runs.read_json(saved)["columns"] == ["age", "site"]
