"""Studies: the whole road on phantom images; resumed studies end like uninterrupted ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from moulage import openings, registration, runs
from moulage import recipe as recipes
from moulage.classifiers import probe
from moulage.data.catalog import Catalog
from moulage.data.neighbours import nearest_images
from moulage.errors import DataError, LeakError, RecipeError, RunError
from moulage.evaluation.operating_point import choose_strength
from moulage.evaluation.predictions import Predictions
from moulage.stages import data, predicting, stored
from moulage.stages import plan as plans
from moulage.stages.classifier import check_extra
from moulage.stages.data import Prepared
from moulage.stages.plan import plan
from moulage.stages.predicting import predict_parts, set_operating_point
from moulage.study import Watch, run_study
from moulage.treatment import PLAIN, Ways
from recipes import SCRATCH, SLOW, phantom_recipe, tiny_gan

RECIPE = phantom_recipe(
    study={"num_trials": 3, "target_classes": ["AK", "VASC"]},
    generators={"gan": tiny_gan("AK", "VASC", steps=12, checkpoint_minutes=0)},
    classifier={"options": {"penalty": 0.05}},
    arms={
        "duplicates": {"balance": "duplicates", "like": "gan"},
        "gan": {"balance": "synthesize", "generator": "gan", "add": {"AK": 6, "VASC": 4}},
    },
)


def recipe_with(changes=None):
    return recipes.parse(RECIPE, changes=changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that nobody interrupted."""
    return run_study(recipe_with(), tmp_path_factory.mktemp("runs") / "small", workers=2)


def predictions_of(run: Path) -> dict[tuple[str, int, str], np.ndarray]:
    found = {}
    for part in ("validation", "test"):
        for file in sorted(run.glob(f"classifiers/*/{part}.parquet")):
            if runs.is_done(file.parent):
                p = Predictions.load(file)
                found[p.arm, p.trial, part] = p.logits
    return found


def test_study_ends_with_scores_and_comparisons(finished):
    results = json.loads((finished.run / "results.json").read_text())
    assert len(results["fits"]) == 9
    assert {(c["arm"], c["reference"]) for c in results["comparisons"]} == {
        ("duplicates", "none"),
        ("gan", "none"),
        ("gan", "duplicates"),
    }
    assert "gan" in results["answer"]
    assert all(np.isfinite(c["difference"]) for c in results["comparisons"])


def test_all_arms_see_the_same_number_of_images(finished):
    seen = {arm.name: arm.images_seen for arm in finished.results.arms}
    extra = {arm.name: sum(arm.extra.values()) for arm in finished.results.arms}
    assert len(set(seen.values())) == 1
    assert extra == {"none": 0, "duplicates": 10, "gan": 10}


def test_each_real_image_is_embedded_once_for_all_arms_and_trials(finished):
    done = [json.loads(p.read_text()) for p in finished.run.glob("embeddings/*/images.json")]
    real = [names for names in done if len(names) == len(finished.prepared.catalog)]
    assert len(real) == 1
    assert sorted(name for names in done for name in names) == sorted({name for names in done for name in names})
    assert len(done) == 1 + 3  # the samples of each trial


def test_same_command_computes_nothing_again(finished):
    stamps = {p: p.stat().st_mtime_ns for p in finished.run.glob("*/*/done.json")}
    again = run_study(recipe_with(), finished.run)
    assert {p: p.stat().st_mtime_ns for p in finished.run.glob("*/*/done.json")} == stamps
    assert again.results.model_copy(update={"date": finished.results.date}) == finished.results


def test_a_changed_arm_recomputes_only_itself(finished):
    before = {stage.folder for stage in finished.stages}
    changed = recipe_with({"arms.half": {"balance": "synthesize", "generator": "gan", "add": {"AK": 5}}})
    new = [stage for stage in plan(changed, finished.prepared) if stage.folder not in before]
    assert {(stage.kind, stage.name) for stage in new} == {("classifier", "half")}
    head = recipe_with({"classifier.options.penalty": 4.0})
    assert {t.kind for t in plan(head, finished.prepared) if t.folder not in before} == {"classifier"}
    other = recipe_with({"generators.gan.options.steps": 13})
    kinds = {(t.kind, t.name) for t in plan(other, finished.prepared) if t.folder not in before}
    assert ("classifier", "none") not in kinds
    assert ("classifier", "duplicates") not in kinds
    assert {("generator", "gan"), ("samples", "gan"), ("classifier", "gan")} <= kinds


def test_another_split_recomputes_everything(finished, tmp_path):
    other = recipe_with({"split.seed": 1})
    prepared = data.prepare(other, tmp_path)
    shared = {t.folder for t in plan(other, prepared)} & {t.folder for t in finished.stages}
    assert {t.name for t in finished.stages if t.folder in shared} == {"real images"}


def test_arms_share_seeds_within_a_trial_and_not_between_trials(finished):
    seeds = {}
    for stage in finished.stages:
        if stage.kind == "classifier":
            seeds.setdefault(stage.trial, set()).add(stage.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 3


def test_samples_of_another_split_are_refused(finished, tmp_path):
    samples = next(stage for stage in finished.stages if stage.kind == "samples")
    arm = {"balance": "synthesize", "samples": str(finished.run / samples.folder), "add": {"AK": 2}}
    recipe = recipe_with({"split.seed": 1, "arms.gan": {"generator": "", **arm}})
    prepared = data.prepare(recipe, tmp_path)
    with pytest.raises(LeakError, match="fitted on the split"):
        plan(recipe, prepared)


def test_samples_are_proven_again_where_they_are_read(finished):
    stage = next(stage for stage in finished.stages if (stage.kind, stage.name) == ("classifier", "gan"))
    assert stage.extra(finished.prepared, finished.run).counts["AK"] == 6
    with pytest.raises(LeakError, match="fitted on the split"):
        replace(stage, split="another").extra(finished.prepared, finished.run)


def test_real_images_of_another_part_are_refused(finished):
    catalog, split = finished.prepared.catalog, finished.prepared.split(0)
    train, test = (split.part(catalog, part) for part in ("train", "test"))
    check_extra(train.take([0, 0, 1]), train, split.digest)
    with pytest.raises(LeakError, match="not in the training part"):
        check_extra(test.take([0]), train, split.digest)


def test_a_tampered_split_is_refused(finished, tmp_path):
    copy = shutil.copytree(finished.run, tmp_path / "run")
    finished.prepared.catalog.with_columns(group="lesion:one").save(copy / "catalog.parquet")
    with pytest.raises(LeakError):
        Prepared.load(copy)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"study.target_classes": ["AKK"]}, DataError, 'study.target_classes: "AKK"'),
        ({"generators.gan.classes": ["XX"]}, DataError, 'generators.gan.classes: "XX"'),
        ({"generators.gan.options.step": 3}, RecipeError, "generators.gan.options.step"),
        ({"classifier.plugin": "probee"}, RecipeError, 'Did you mean "probe"'),
        ({"data.options.num_imags": 3}, RecipeError, "num_images"),
        ({"study.primary": "mean_averge_precision"}, RecipeError, "mean_average_precision"),
        ({"study.target_classes": []}, RecipeError, "needs target classes"),
        ({"arms.gan.add": {"NV": 3}}, RecipeError, 'does not learn "NV"'),
    ],
)
def test_wrong_settings_are_refused_before_work(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        run_study(recipe_with(changes), tmp_path / "run")
    assert not list((tmp_path / "run").glob("generators/*"))


def test_a_locked_run_is_refused(tmp_path):
    with runs.lock(tmp_path), pytest.raises(RunError, match="in use by another process"):
        run_study(recipe_with(), tmp_path)


def test_nearest_image_is_found_through_flips_and_turns():
    rng = np.random.default_rng(0)
    among = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    turned = np.stack([np.rot90(among[3]), among[1][:, ::-1]])
    distance, row = nearest_images(turned, among)
    assert row.tolist() == [3, 1]
    assert distance == pytest.approx([0, 0], abs=0.05)
    darker, _ = nearest_images(among[2:3] // 2, among[2:3])
    small, small_darker = (image.reshape(32, 2, 32, 2, 3).mean((1, 3)) for image in (among[2], among[2] // 2))
    assert darker[0] == pytest.approx(np.sqrt(((small - small_darker) ** 2).mean()), rel=1e-3)


KILL_AT = {
    "generator checkpoint": "run/generators/*/checkpoint-*",
    "samples": "run/samples/*/*",
    "embedding": "run/embeddings/*/stage.json",
    "first classifier": "run/classifiers/*/done.json",
    "results": "run/results.json",
}


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_at_any_point_the_same_command_ends_with_the_same_predictions(finished, tmp_path):
    """kill -9 of the whole process group at five points of one study, each time the same command again.

    test_pixels.py does so to the pass over the images.
    """
    own, recipe_file = tmp_path / "cache", tmp_path / "small.toml"
    own.mkdir()
    for drawn in runs.cache_folder().glob("phantom-*"):
        (own / drawn.name).symlink_to(drawn)
    recipe_file.write_text(recipes.to_toml(recipe_with()))
    command = [sys.executable, "-m", "moulage.cli", "study", str(recipe_file), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "MOULAGE_CACHE": str(own)}
    killed = 0
    for pattern in KILL_AT.values():
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and not list(tmp_path.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 4
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = predictions_of(finished.run), predictions_of(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert len(found) == 18
    for key, logits in expected.items():
        np.testing.assert_array_equal(found[key], logits, err_msg=str(key))


def test_samples_carry_origin_seed_and_split(finished):
    stage = next(stage for stage in finished.stages if stage.kind == "samples" and stage.trial == 2)
    samples = Catalog.load(finished.run / stage.folder / "catalog.parquet")
    assert samples.counts["AK"] == 6
    assert set(samples.table["split_digest"]) == {finished.prepared.split(0).digest}
    assert set(samples.table["origin"]) == {Path(stage.generator.folder).name}
    assert samples.only(label="AK").table["seed"].min() == 2_000_000


FOLDS = {
    "study": {"name": "folds", "target_classes": ["AK", "VASC"]},
    "data": {"source": "phantom", "options": {"num_images": 300, "size": 32, "min_lesions": 12}},
    "split": {"scheme": "folds", "num_folds": 3, "validation": 0.2, "reserve": 0.3},
    "generators": {"noise": {"plugin": "noise", "classes": ["AK", "VASC"], "size": 32}},
    "classifier": {"plugin": "probe", "options": {"size": 32, "penalty": 0.1, "backbone": SCRATCH}},
    "arms": {
        "none": {"balance": "none"},
        "copies": {"balance": "duplicates", "like": "drawn"},
        "drawn": {
            "balance": "synthesize",
            "generator": "noise",
            "ratio": {"AK": 0.25, "VASC": 0.2},
            "treatment": "balanced_softmax",
        },
        "oracle": {"balance": "oracle", "like": "drawn"},
        "softmax": {"balance": "balanced_softmax"},
        "theory": {"balance": "logit_adjustment_posthoc"},
    },
}


def folds_with(**tables):
    return recipes.parse(recipes.merge(FOLDS, tables))


@pytest.fixture(scope="module", params=SLOW)
def folded(tmp_path_factory):
    """A study of three folds with a reserve, treatments and operating points; what it said, and when."""
    said = []
    return run_study(folds_with(), tmp_path_factory.mktemp("folds"), watch=Watch(say=said.append)), said


def test_folds_score_every_image_once(folded):
    outcome, _ = folded
    prepared = outcome.prepared
    assert len(prepared.splits) == 3
    for arm in FOLDS["arms"]:
        scored = []
        for trial in range(3):
            [file] = outcome.run.glob(f"classifiers/{arm}-{trial}-*/test.parquet")
            found = Predictions.load(file)
            assert found.split_digest == prepared.split(trial).digest
            scored += found.images.tolist()
        assert sorted(scored) == sorted(prepared.catalog.images)


def test_recipes_that_share_a_network_share_its_features(finished):
    def embedded(networks):
        default = probe.DEFAULT.model_dump()
        changed = recipe_with({"classifier.options.backbones": networks, "classifier.options.backbone": default})
        stages = plan(changed, finished.prepared)
        return stages, [stage for stage in stages if stage.kind == "embedding" and not stage.samples]

    (before,) = [stage for stage in finished.stages if stage.kind == "embedding" and not stage.samples]
    stages, several = embedded([{**SCRATCH, "input_size": 48}, SCRATCH])
    assert [stage.folder == before.folder for stage in several] == [False, True]
    assert sum(stage.kind == "embedding" and bool(stage.samples) for stage in stages) == 2 * 3
    turned = {stage.folder for stage in embedded([SCRATCH, {**SCRATCH, "input_size": 48}])[1]}
    assert turned == {stage.folder for stage in several}
    keys = [stage.identity()["embeddings"] for stage in stages if stage.kind == "classifier"]
    assert keys == [[stage.key for stage in several]] * len(keys)


def test_features_of_several_networks_are_read_side_by_side(tmp_path, finished):
    catalog = finished.prepared.catalog
    values = np.random.default_rng(0).normal(size=(len(catalog), 5)).astype(np.float32)
    for folder, columns in (("a", slice(0, 2)), ("b", slice(2, 5))):
        (tmp_path / folder).mkdir()
        stored.embed_all(tmp_path / folder, catalog, values, lambda rows, c=columns: rows[:, c], runs.no_progress)
    of = stored.ByName([stored.embedded(tmp_path / "b", tmp_path / "a")])
    rows = np.array([7, 0, 3])
    assert (of(catalog.take(rows)) == values[rows][:, [2, 3, 4, 0, 1]]).all()


def test_each_fold_has_counts_of_its_own(folded):
    outcome, _ = folded
    for stage in outcome.stages:
        train = outcome.prepared.split(stage.trial).part(outcome.prepared.catalog, "train")
        if stage.kind == "classifier" and stage.name == "drawn":
            assert stage.add == {"AK": round(train.counts["AK"] / 4), "VASC": round(train.counts["VASC"] / 5)}
            assert stage.num_slots == sum(stage.add.values())
    assert [stage.trial for stage in outcome.stages if stage.kind == "gallery"] == [0]
    embedded = [stage.name for stage in outcome.stages if stage.kind == "embedding"]
    assert embedded.count("real images") == 1


def test_views_of_arms_say_how_they_were_trained(folded):
    outcome, _ = folded
    held_back = set(outcome.prepared.split(0).part(outcome.prepared.catalog, "reserve").images)
    views = {
        stage.name: runs.read_json(outcome.run / stage.folder / "view.json")
        for stage in outcome.stages
        if stage.kind == "classifier" and stage.trial == 0
    }
    assert {name: view["treatment"] for name, view in views.items()} == {
        "none": "",
        "copies": "",
        "drawn": "balanced_softmax",
        "oracle": "",
        "softmax": "balanced_softmax",
        "theory": "",
    }
    assert views["drawn"]["extra"] == views["copies"]["extra"] == views["oracle"]["extra"]
    assert views["none"]["num_distinct"] == views["softmax"]["num_distinct"] == 0
    assert views["drawn"]["num_distinct"] == sum(views["drawn"]["extra"].values())
    assert 0 < views["oracle"]["num_distinct"] <= len(held_back)


def test_the_question_is_registered_before_any_task_runs(folded):
    outcome, said = folded
    record = registration.current(outcome.run)
    assert record["before_test"]
    assert (record["declared"]["scheme"], record["declared"]["num_trials"]) == ("folds", 3)
    assert any(record["digest"] in line for line in said)
    declared, opened = openings.history(outcome.run)
    assert (declared["event"], opened["event"]) == ("declared", "opened")
    assert outcome.results.registration.entry == opened["entry"]
    assert outcome.results.registration.digest == record["digest"]


def test_fewer_folds_leave_no_split_behind(tmp_path):
    data.prepare(folds_with(), tmp_path)
    assert len(list((tmp_path / "splits").iterdir())) == 3
    data.prepare(folds_with(split={"num_folds": 2}), tmp_path)
    assert sorted(path.name for path in (tmp_path / "splits").iterdir()) == ["000.parquet", "001.parquet"]


def test_a_run_whose_records_tell_of_a_leak_gives_no_results(folded):
    outcome, _ = folded
    stage = next(stage for stage in outcome.stages if stage.kind == "classifier" and stage.trial == 1)
    path, results = outcome.run / stage.folder / "witness.json", outcome.run / "results.json"
    honest, stamp = path.read_bytes(), results.stat().st_mtime_ns
    record = runs.read_json(path)
    try:
        runs.write_json(path, {**record, "chosen_on": {"part": "test", "digest": record["scored_on"]["test"]}})
        with pytest.raises(LeakError, match="chosen on the part test"):
            run_study(folds_with(), outcome.run)
    finally:
        path.write_bytes(honest)
    assert results.stat().st_mtime_ns == stamp


def test_parts_are_predicted_some_at_a_time_and_told(monkeypatch):
    monkeypatch.setattr(predicting, "PREDICT_CHUNK", 4)
    names = [f"i{number}" for number in range(11)]
    table = pd.DataFrame({"image": names, "label": "AK", "location": names})
    catalog = Catalog.build(table, ("AK", "NV"), "r")
    parts = {"validation": catalog.take([]), "test": catalog.take([9, 3, 10, 0, 1, 2])}

    class Reader:
        def read(self, rows):
            return np.array([[int(name[1:]), 0] for name in rows.images]).reshape(-1, 2)

        def predict(self, inputs):
            assert len(inputs) <= 4
            return inputs

    said, reader = [], Reader()
    found = predict_parts(reader, parts, reader.read, None, lambda *told: said.append(told))
    assert found["test"][:, 0].tolist() == [9, 3, 10, 0, 1, 2]
    assert found["validation"].shape == (0, 2)
    assert said[1:] == [(4, 6, "images predicted, test part"), (6, 6, "images predicted, test part")]


def test_a_task_loads_the_split_of_its_own_trial(folded):
    outcome, _ = folded
    prepared = Prepared.load(outcome.run, 1)
    assert prepared.split(1).digest == outcome.prepared.split(1).digest
    with pytest.raises(RunError, match="Only the split of trial 1"):
        prepared.split(0)
    everything = Prepared.load(outcome.run)
    assert [s.digest for s in everything.splits] == [s.digest for s in outcome.prepared.splits]
    assert everything.digest == prepared.digest == outcome.prepared.digest


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"balance": "none", "treatment": "focall"}, 'Did you mean "focal"'),
        ({"balance": "none", "treatment": "focal", "treatment_options": {"gama": 1}}, "arms.x.treatment_options.gama"),
        ({"balance": "none", "treatment": "duplicates"}, "arms.x.treatment(.|\n)*no treatment"),
        ({"balance": "focal", "treatment": "balanced_softmax"}, '"focal" and "balanced_softmax"(.|\n)*both set loss'),
        ({"balance": "crt", "treatment": "balanced_softmax"}, "retrained with balanced classes"),
        ({"balance": "cutmix"}, 'arms.x.balance = "cutmix"(.|\n)*reads embeddings'),
        ({"balance": "none", "treatment": "trivialaugment"}, 'arms.x.treatment = "trivialaugment"(.|\n)*embeddings'),
        ({"balance": "linear_probe"}, 'arms.x.balance = "linear_probe"'),
        ({"balance": "oracle", "add": {"DF": 2}}, '"DF", of which nothing is held back'),
        ({"balance": "oracle", "add": {"AK": 2}, "generator": "noise"}, "given generated ones"),
        ({"balance": "logit_adjustment_posthoc", "treatment": "focal"}, "would both answer the imbalance"),
        ({"balance": "oversampling", "treatment": "logit_adjustment_posthoc"}, "would both answer the imbalance"),
        ({"balance": "crt", "treatment": "logit_adjustment_posthoc"}, "would both answer the imbalance"),
        ({"balance": "none", "operating_point": "argmax"}, "arms.x.operating_point"),
    ],
)
def test_arms_that_cannot_be_are_refused_before_work(arm, words):
    with pytest.raises(RecipeError, match=words):
        plans.check(folds_with(arms={"x": arm}))
    with pytest.raises(RecipeError, match=r"arms.oracle(.|\n)*split.reserve is 0"):
        plans.check(folds_with(split={"reserve": 0.0}))


def test_the_treatment_of_an_arm():
    counts = np.array([90, 9, 1])
    plain = Ways("duplicates", {}, "", {}, "validation")
    assert plain.treat(counts) is PLAIN
    own = replace(plain, balance="oversampling", balance_config={"power": 1.0}).treat(counts)
    assert own.class_weights is not None
    assert len(set(own.class_weights)) == 1
    assert replace(plain, treatment="focal").treat(counts).loss is not None


def test_the_strength_of_an_arm():
    plain = Ways("duplicates", {}, "mixup", {}, "validation")
    assert plain.strength is None
    assert replace(plain, operating_point="argmax").strength == 0
    fixed = replace(plain, treatment="logit_adjustment_posthoc")
    assert fixed.strength == replace(fixed, operating_point="argmax").strength == 1
    assert replace(fixed, treatment_config={"tau": 0.5}).strength == 0.5


def test_an_operating_point_is_set_on_the_validation_part_and_leaves_the_logits():
    """Two classes, nine to one; the rare one's logit is short by exactly the log of the prior's ratio."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], [400, 400])
    signal = (2 * truth - 1) * 1.5 + rng.normal(0, 1, 800)
    logits = np.stack([np.full(800, np.log(9.0)), signal], axis=1).astype(np.float32)
    given = {"validation": logits, "test": logits[:10].copy()}
    names = [f"i{row}" for row in range(800)]
    table = pd.DataFrame({"image": names, "label": np.array(["a", "b"])[truth], "location": names})
    part, counts = Catalog.build(table, ("a", "b"), "r"), np.array([900, 100])
    said, found = set_operating_point(given, part, counts, None)
    assert found["strength"] == pytest.approx(1.0, abs=0.1)
    assert found["log_prior"] == pytest.approx([np.log(0.9), np.log(0.1)])
    assert found["notes"] == []
    assert (given["validation"] == logits).all()
    expected = (logits[:10] - found["strength"] * np.log([0.9, 0.1])).argmax(1)
    assert (said["test"] == expected).all()
    recalls = [(said["validation"] == truth)[truth == k].mean() for k in (0, 1)]
    assert min(recalls) > 0.85 > (logits.argmax(1) == truth)[truth == 1].mean()
    fixed, about = set_operating_point(given, part, counts, 0.0)
    assert (about["strength"], about["notes"]) == (0.0, [])
    assert (fixed["validation"] == logits.argmax(1)).all()
    _, alone = set_operating_point({"validation": logits[:400]}, part.take(np.arange(400)), counts, None)
    assert alone["notes"] == ["The operating point was chosen without b: no validation image."]


def test_every_arm_is_scored_at_the_operating_point_that_validation_wants(folded):
    """The strengths are computed anew from the validation files; scores count what is said at them."""
    outcome, _ = folded
    arms = {arm.name: arm for arm in outcome.results.arms}
    assert arms["theory"].role == "rival"
    for fit in outcome.results.fits:
        folder = outcome.run / fit.folder
        view = runs.read_json(folder / "view.json")
        parts = {part: Predictions.load(folder / f"{part}.parquet") for part in ("validation", "test")}
        held, prior = parts["validation"], np.array(view["log_prior"])
        chosen = 1.0 if fit.arm == "theory" else choose_strength(held.logits, held.labels, prior)
        assert view["strength"] == arms[fit.arm].strength[fit.trial] == chosen
        for part, found in parts.items():
            scores = fit.scores[part]
            assert (found.predicted == (found.logits - chosen * prior).argmax(1)).all()
            assert scores.accuracy == (found.predicted == found.labels).mean()
            assert np.sum(scores.confusion, axis=0).tolist() == np.bincount(found.predicted, minlength=8).tolist()
            of_truth = log_softmax(found.logits.astype(float), axis=1)[np.arange(len(found)), found.labels]
            assert scores.log_loss == pytest.approx(-of_truth.mean())


def test_the_prior_of_an_arm_is_what_it_trained_on_real_and_added(folded):
    outcome, _ = folded
    for stage in outcome.stages:
        if stage.kind == "classifier" and stage.name in ("none", "drawn"):
            view = runs.read_json(outcome.run / stage.folder / "view.json")
            counts = outcome.prepared.part(stage.trial, "train").counts
            rows = np.array([number + view["extra"].get(name, 0) for name, number in counts.items()])
            assert view["log_prior"] == pytest.approx(np.log(rows / rows.sum()))
            assert bool(view["extra"]) == (stage.name == "drawn")


def test_an_operating_point_changes_no_measure_of_the_logits(folded):
    outcome, _ = folded
    of = {(fit.arm, fit.trial): fit.scores["test"] for fit in outcome.results.fits}
    for trial in range(3):
        plain, theory = of["none", trial], of["theory", trial]
        for name in ("auc", "average_precision", "log_loss", "expected_calibration_error"):
            assert getattr(plain, name) == getattr(theory, name)
