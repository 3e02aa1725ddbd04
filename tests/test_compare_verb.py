"""`moulage compare`: predictions from anywhere, through files and the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from moulage.errors import DataError
from moulage.evaluation.compare import compare_all
from moulage.evaluation.model_comparison import CORRECTED, _reading, _sentence
from moulage.evaluation.prediction_files import FLOOR, read
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.verdict import equivalence_p, holm

CLASSES = ("NV", "BCC", "AK")


def table(num_fits=4, seed=0, gain=0.0, lesions=(60, 30, 20), kind="prob") -> pd.DataFrame:
    """Rows of several fits of a made-up model; two images a lesion; ``gain`` lifts AK."""
    base, rng = np.random.default_rng(99), np.random.default_rng(seed)
    strata = np.repeat(np.arange(3), lesions)
    of = np.repeat(np.arange(len(strata)), 2)
    labels = strata[of]
    common = 1.5 * np.eye(3)[labels] + base.normal(size=(len(strata), 3))[of] + np.log(lesions) / 2
    rows = []
    for trial in range(num_fits):
        logits = common + 0.4 * rng.normal(size=common.shape) + 0.2 * rng.normal(size=3)
        logits[labels == 2, 2] += gain
        values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) if kind == "prob" else logits
        frame = pd.DataFrame(values, columns=[f"{kind}_{name}" for name in CLASSES])
        frame.insert(0, "label", np.array(CLASSES)[labels])
        frame.insert(0, "lesion", [f"L{lesion}" for lesion in of])
        frame.insert(0, "image", [f"ISIC_{row:04d}" for row in range(len(of))])
        rows.append(frame.assign(trial=trial))
    return pd.concat(rows, ignore_index=True)


def save(frame: pd.DataFrame, name: str) -> str:
    path = Path(name)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(
        path, index=False, sep="\t" if path.suffix == ".tsv" else ","
    )
    return name


def predictions(frame: pd.DataFrame, arm: str) -> list[Predictions]:
    """The same rows as our own type."""
    values = frame[[f"prob_{name}" for name in CLASSES]].to_numpy()
    labels = pd.Index(CLASSES).get_indexer(frame["label"])
    found = []
    for trial in np.unique(frame["trial"]):
        rows = (frame["trial"] == trial).to_numpy()
        images, groups = (frame[name].to_numpy(object)[rows] for name in ("image", "lesion"))
        about = (CLASSES, arm, int(trial), "test", "d")
        found.append(Predictions(images, groups, labels[rows], np.log(values[rows]), *about))
    return found


def test_three_models_in_three_formats_equal_the_library(call):
    a, b, c = table(seed=1), table(seed=2, gain=1.0), table(seed=3)
    files = [save(a, "plain.csv"), save(b, "gan.parquet"), save(c, "other.tsv")]
    result = call("compare", *files, "--targets", "AK", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["reference"], found["models"]) == ("plain", ["plain", "gan", "other"])
    assert (found["num_images"], found["num_lesions"], found["num_trials"]) == (220, 110, 4)
    assert found["num_lesions_by_class"] == {"NV": 60, "BCC": 30, "AK": 20}
    arms = {name: predictions(frame, name) for name, frame in (("plain", a), ("gan", b), ("other", c))}
    for measure in ("average_precision:AK", "recall:AK", "balanced_accuracy"):
        expected = compare_all(arms, [("gan", "plain"), ("other", "plain")], measure, ["AK"])
        rows = [row for row in found["comparisons"] if row["measure"] == measure]
        adjusted = holm({e.arm: e.p_value for e in expected if e.p_value is not None})
        for row, e in zip(rows, expected, strict=True):
            for name in ("difference", "low", "high", "p_value", "estimate_reference"):
                assert row[name] == pytest.approx(getattr(e, name), abs=1e-6)
            assert row["p_adjusted"] == pytest.approx(adjusted[e.arm], abs=1e-6)
    gan = found["comparisons"][0]
    assert (gan["arm"], gan["reading"]) == ("gan", "better")
    assert found["fixed_pairs"] == []
    assert found["sentences"][0].startswith('Taking "gan" changed the average precision of AK by +')
    assert "After Holm over 2 models p" in found["sentences"][0]
    assert any("Nothing is known of what the models were trained on" in note for note in found["notes"])


def test_the_page_for_people(call):
    files = [save(table(seed=1), "plain.csv"), save(table(seed=2, gain=1.0), "gan.csv"), save(table(seed=3), "c.csv")]
    result = call("compare", *files, "--targets", "AK", "--out", "tables")
    assert result.code == 0, result.err
    assert "220 images, 110 lesions (NV 60, BCC 30, AK 20), 4 fits a model" in result.out
    assert "p, Holm" in result.out
    assert "better than plain" in result.out
    assert "plain: 4 fits" in result.err
    with Path("tables/comparisons.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["measure"] for row in rows} == {"average_precision:AK", "recall:AK", "balanced_accuracy"}
    assert len(rows) == 6
    assert rows[0]["classes"] == "AK"
    assert rows[0]["lesions_AK"] == "20"
    assert float(rows[0]["low"]) < float(rows[0]["difference"]) < float(rows[0]["high"])
    assert not Path("tables/fixed_pairs.csv").exists()


def test_logits_and_shuffled_rows_and_classes_give_the_same(call):
    save(table(seed=1), "a.csv")
    logits = table(seed=2, gain=0.5, kind="logit")
    save(table(seed=2, gain=0.5), "b.csv")
    shuffled = logits.sample(frac=1, random_state=0)
    save(shuffled[["logit_AK", "trial", "label", "image", "logit_NV", "lesion", "logit_BCC"]], "c.csv")
    plain = json.loads(call("compare", "a.csv", "m=b.csv", "--json").out)["comparisons"]
    other = json.loads(call("compare", "a.csv", "m=c.csv", "--json").out)["comparisons"]
    for ours, theirs in zip(plain, other, strict=True):
        assert ours["low"] == pytest.approx(theirs["low"], abs=1e-6)
        assert ours["p_value"] == pytest.approx(theirs["p_value"], abs=1e-5)


def test_a_column_predicted_is_what_is_said_and_the_ranking_stays(call):
    """Of a model that calls every AK so; its classes stand in another order."""
    plain, moved = table(seed=1), table(seed=2)
    most = [frame[[f"prob_{name}" for name in CLASSES]].to_numpy().argmax(axis=1) for frame in (plain, moved)]
    said = np.array(CLASSES)[np.where(moved["label"] == "AK", 2, most[1])]
    save(plain, "plain.csv")
    save(plain.assign(predicted=np.array(CLASSES)[most[0]]), "most.csv")
    save(moved, "moved.csv")
    save(moved.assign(predicted=said)[[*moved.columns[::-1], "predicted"]], "said.csv")
    verb = ("compare", "--json", *(f"--measure={name}" for name in ("recall:AK", "auc:AK", "log_loss")))
    pairs = ("plain.csv", "m=moved.csv"), ("plain=most.csv", "m=moved.csv"), ("plain.csv", "m=said.csv")
    without, same, found = (json.loads(call(*verb, *files).out) for files in pairs)
    assert found["comparisons"][0]["estimate_arm"] == 1
    recall = (most[1] == 2)[moved["label"] == "AK"].mean()
    assert recall < 1
    assert without["comparisons"][0]["estimate_arm"] == pytest.approx(recall)
    for ours, theirs in zip(found["comparisons"][1:], without["comparisons"][1:], strict=True):
        assert (ours["difference"], ours["low"]) == pytest.approx((theirs["difference"], theirs["low"]), abs=1e-6)
    assert same == without
    told = [note for note in found["notes"] if "An operating point was set for m," in note]
    assert "as plain is" in told[0]
    assert not any("operating point" in note for note in without["notes"])


def test_fits_by_files_by_trial_and_by_model_column_are_the_same(call):
    a, b = table(seed=1, num_fits=3), table(seed=2, num_fits=3)
    save(a, "a.csv")
    save(b, "b.csv")
    for trial in range(3):
        save(a[a["trial"] == trial].drop(columns="trial"), f"a{trial}.csv")
        save(b[b["trial"] == trial].drop(columns="trial"), f"b{trial}.csv")
    save(pd.concat([a.assign(model="a"), b.assign(model="b")]), "both.csv")
    ways = [("a.csv", "b.csv"), ("a=a0.csv,a1.csv,a2.csv", "b=b0.csv,b1.csv,b2.csv"), ("both.csv",)]
    found = [json.loads(call("compare", *way, "--json").out) for way in ways]
    assert found[0]["comparisons"] == found[1]["comparisons"] == found[2]["comparisons"]
    assert found[0]["num_trials"] == 3


def test_reference_and_measures_can_be_named(call):
    save(table(seed=1), "a.csv")
    save(table(seed=2, gain=1), "b.csv")
    both = ["--measure", "recall:AK", "--measure", "log_loss", "--smallest-effect", "0.4"]
    found = json.loads(call("compare", "a.csv", "b.csv", "--reference", "b", *both, "--json").out)
    assert [(c["arm"], c["reference"], c["measure"]) for c in found["comparisons"]] == [
        ("a", "b", "recall:AK"),
        ("a", "b", "log_loss"),
    ]
    assert found["comparisons"][0]["difference"] < 0
    assert found["comparisons"][1]["reading"] == "practically equal"
    assert "nats" not in found["sentences"][0]
    shown = call("compare", "a.csv", "b.csv", "--reference", "b", *both).out
    [line] = [line for line in shown.splitlines() if "log_loss" in line]
    score, of_reference = (f"{found['comparisons'][1][key]:.3f}" for key in ("estimate_arm", "estimate_reference"))
    assert [cell.strip() for cell in line.split("│")][3:5] == [score, of_reference]
    assert "Compared with b" in shown


def test_resamples_are_those_of_the_library(call):
    frames = {"a": table(seed=1), "b": table(seed=2)}
    files = [save(frame, f"{name}.csv") for name, frame in frames.items()]
    found = json.loads(call("compare", *files, "--targets", "AK", "--resamples", 200, "--json").out)["comparisons"][0]
    arms = {name: predictions(frame, name) for name, frame in frames.items()}
    [expected] = compare_all(arms, [("b", "a")], "average_precision:AK", num_resamples=200)
    assert found["method"] == "lesion bootstrap"
    assert found["standard_error"] == pytest.approx(expected.standard_error, rel=1e-4)


def test_one_fit_a_model_gives_no_interval_but_tests_of_the_fixed_pair(call):
    a, b = table(1, seed=1), table(1, seed=2, gain=1.5)
    save(a.drop(columns="trial"), "a.csv")
    save(b.drop(columns="trial"), "b.csv")
    found = json.loads(call("compare", "a.csv", "b.csv", "--targets", "AK", "--json", "--out", "out").out)
    assert all(c["low"] is None and c["reading"] == "no interval" for c in found["comparisons"])
    assert any("no interval holds for the methods" in note for note in found["notes"])
    rows = {(row["test"], row["measure"]): row for row in found["fixed_pairs"]}
    assert {row["holds_for"] for row in rows.values()} == {"these two fixed models only"}
    ours, theirs = (fit.predicted == fit.labels for frame in (b, a) for fit in predictions(frame, "m"))
    exact = rows["McNemar, exact", "accuracy"]
    assert exact["p"] == pytest.approx(stats.binomtest(int((ours & ~theirs).sum()), int((ours ^ theirs).sum())).pvalue)
    assert exact["difference"] == pytest.approx(ours.mean() - theirs.mean())
    assert (exact["only_model_right"], exact["only_reference_right"]) == (
        (ours & ~theirs).sum(),
        (theirs & ~ours).sum(),
    )
    assert rows["DeLong", "auc:AK"]["p"] < 0.05
    assert ("DeLong", "auc:NV") not in rows
    lesions = rows["lesions as the only chance", "average_precision:AK"]
    assert lesions["low"] < lesions["difference"] < lesions["high"]
    shown = call("compare", "a.csv", "b.csv", "--targets", "AK").out
    assert "these two fixed models only" in shown
    assert "nothing can be concluded without an interval" in shown
    assert len(Path("out/fixed_pairs.csv").read_text().splitlines()) == 1 + len(rows)


def test_two_fits_give_neither(call):
    save(table(2, seed=1), "a.csv")
    save(table(2, seed=2), "b.csv")
    found = json.loads(call("compare", "a.csv", "b.csv", "--json").out)
    assert found["fixed_pairs"] == []
    assert any("2 fits an arm: an interval needs at least 3" in note for note in found["notes"])


@pytest.mark.slow
def test_folds_are_understood_by_trial_or_by_fold_column(call):
    """Five folds: each image predicted once, out of fold."""
    for name, seed in (("a", 1), ("b", 2)):
        frame = table(1, seed=seed).drop(columns="trial")
        fold = frame["lesion"].str[1:].astype(int) % 5
        save(frame.assign(fold=fold), f"{name}.csv")
        save(frame.assign(trial=fold), f"{name}-trials.csv")
        columns = [column for column in frame if column.startswith("prob_")]
        other = frame.assign(**{column: 0.9 * frame[column] + 0.1 / len(columns) for column in columns})
        save(pd.concat([f.assign(fold=fold + 1, trial=t) for t, f in ((1, frame), (2, other))]), f"{name}-twice.csv")
        save(pd.concat([frame.assign(fold=fold + 1, trial=t) for t in (1, 2)]), f"{name}-copied.csv")
    found = json.loads(call("compare", "a.csv", "b.csv", "--json").out)
    assert (found["scheme"], found["num_trials"], found["num_images"]) == ("folds", 5, 220)
    first = found["comparisons"][0]
    assert first["num_folds"] == 5
    assert first["low"] is not None
    assert first["cautious_low"] is not None
    assert "cautious" in call("compare", "a.csv", "b.csv").out
    other = json.loads(call("compare", "a=a-trials.csv", "b=b-trials.csv", "--json").out)
    assert other["comparisons"] == found["comparisons"]
    twice = json.loads(call("compare", "a=a-twice.csv", "b=b-twice.csv", "--json").out)["comparisons"][0]
    assert (twice["num_folds"], twice["num_repeats"], twice["num_trials"]) == (5, 2, 10)
    copied = call("compare", "a=a-copied.csv", "b=b-copied.csv")
    assert copied.code == 1
    assert "Repeat 2 of the folds predicts" in copied.err


def test_own_predictions_can_be_compared_with_foreign_ones(call):
    a, b = table(3, seed=1), table(3, seed=2)
    for fit in predictions(a, "none"):
        fit.save(Path(f"none-{fit.trial}.parquet"))
    own = [f"none-{trial}.parquet" for trial in range(3)]
    save(b, "b.csv")
    found = json.loads(call("compare", *own, "b.csv", "--json").out)
    assert found["models"] == ["none", "b"]
    assert found["num_trials"] == 3
    assert any("trained on" in note for note in found["notes"])
    for fit in predictions(b, "gan"):
        fit.save(Path(f"gan-{fit.trial}.parquet"))
    ours = json.loads(call("compare", *own, *(f"gan-{trial}.parquet" for trial in range(3)), "--json").out)
    assert ours["notes"] == []
    assert ours["comparisons"][0]["low"] == pytest.approx(found["comparisons"][0]["low"], abs=1e-6)


def test_own_predictions_of_another_split_are_refused(call):
    for name, digest in (("a", "d"), ("b", "e")):
        for fit in predictions(table(3, seed=1), name):
            values = {**vars(fit), "split_digest": digest}
            Predictions(**values).save(Path(f"{name}{fit.trial}.parquet"))
    files = [f"{name}{trial}.parquet" for name in "ab" for trial in range(3)]
    result = call("compare", *files)
    assert (result.code, "split_digest is e" in result.err) == (1, True)


def test_without_lesions_every_image_is_its_own_and_it_is_said(call):
    save(table(3, seed=1).drop(columns="lesion"), "a.csv")
    save(table(3, seed=2).drop(columns="lesion"), "b.csv")
    result = call("compare", "a.csv", "b.csv")
    assert "220 images, 220 lesions" in result.out
    assert "a.csv has no column group or lesion, so by it every image is a lesion of its own" in result.out


def intervals(call, *files: str) -> tuple[list[float], list[str]]:
    found = json.loads(call("compare", *files, "--json").out)
    return [found["comparisons"][0][side] for side in ("low", "high")], found["notes"]


def test_lesions_that_one_file_knows_hold_for_all_models(call):
    a, b = table(3, seed=1), table(3, seed=2)
    save(a, "a.csv")
    save(b, "b.csv")
    wanted, notes = intervals(call, "a.csv", "b.csv")
    assert len(notes) == 1  # nothing is known of the training
    save(b.assign(lesion=b["lesion"] + " of b"), "b.csv")
    assert intervals(call, "a.csv", "b.csv") == (wanted, notes)
    save(b.drop(columns="lesion"), "b.csv")
    for order in (("a.csv", "b.csv"), ("b.csv", "a.csv")):
        found, notes = intervals(call, *order, "--reference", "a")
        assert found == pytest.approx(wanted)
        assert any(note.startswith("b tells 220 lesions apart, and with what the others know") for note in notes)
        assert any("there are 110: what any model's file joins counts as one." in note for note in notes)
    patient = b["lesion"].where(~b["lesion"].isin(["L0", "L1"]), "P0")
    save(b.assign(lesion=patient), "b.csv")
    assert any("a tells 110 lesions apart" in note and "109" in note for note in intervals(call, "a.csv", "b.csv")[1])


def test_lesions_that_cross_are_refused(call):
    """The images 1 and 2 are of two lesions to one model, and of one lesion, without their others, to another."""
    a, b = table(3, seed=1), table(3, seed=2)
    save(a, "a.csv")
    save(b.assign(lesion=b["lesion"].where(~b["image"].isin(["ISIC_0001", "ISIC_0002"]), "together")), "b.csv")
    result = call("compare", "a.csv", "b.csv")
    assert result.code == 1
    assert (
        'b and a contradict each other on what belongs together: "ISIC_0001" is of the lesion "together"' in result.err
    )
    assert "Names alone" in result.err


def test_one_file_of_a_model_may_lack_lesions(call):
    for name, seed in (("a", 1), ("b", 2)):
        for trial, frame in table(3, seed=seed).groupby("trial"):
            save(frame.drop(columns=["trial", *(["lesion"] if trial == 1 else [])]), f"{name}{trial}.csv")
    found, _ = intervals(call, *(f"{name}={name}0.csv,{name}1.csv,{name}2.csv" for name in "ab"))
    save(table(3, seed=1), "a.csv")
    save(table(3, seed=2), "b.csv")
    assert found == pytest.approx(intervals(call, "a.csv", "b.csv")[0])


def test_files_of_one_name_with_other_bytes_are_told(call):
    a, b = table(3, seed=1), table(3, seed=2)
    digests = "d" + a["image"]
    save(a.assign(sha256=digests), "a.csv")
    save(b.assign(sha256=digests.where(a["image"] != "ISIC_0007", "dISIC_0008")), "b.csv")
    notes = intervals(call, "a.csv", "b.csv")[1]
    assert notes[0].startswith('Beware: 1 of 220 images are other files in b.csv than in a.csv ("ISIC_0007" first).')
    assert notes[1].startswith('Beware: b.csv: 2 images are equal byte for byte to another one ("ISIC_0007" and')
    save(b.assign(sha256=digests), "b.csv")
    assert len(intervals(call, "a.csv", "b.csv")[1]) == 1
    save(b.assign(sha256=[f"d{row}" for row in range(len(b))]), "b.csv")
    assert 'b.csv: the image "ISIC_0000" has two values of sha256' in call("compare", "a.csv", "b.csv").err


def test_the_images_of_a_run_are_known_by_its_scan(call):
    for run, frame in (("r", table(3, seed=1)), ("s", table(3, seed=2))):
        for fit in predictions(frame, f"of-{run}"):
            fit.save(Path(f"{run}/classifiers/fit{fit.trial}/test.parquet"))
        images = frame["image"].unique()
        known = pd.DataFrame(
            {
                "image": images,
                "sha256": [f"{image}{'s' if run == 's' and n < 3 else ''}" for n, image in enumerate(images)],
            }
        )
        known.to_parquet(f"{run}/scan.parquet")
    files = [f"{run}/classifiers/fit{trial}/test.parquet" for run in "rs" for trial in range(3)]
    assert "Beware: 3 of 220 images are other files in s/" in intervals(call, *files)[1][0]


def test_runs_of_two_splits_are_refused_beside_foreign_files_too(call):
    for name, digest in (("a", "d"), ("b", "e")):
        for fit in predictions(table(3, seed=1), name):
            Predictions(**{**vars(fit), "split_digest": digest}).save(Path(f"{name}{fit.trial}.parquet"))
    save(table(3, seed=2), "c.csv")
    result = call("compare", *[f"{name}{trial}.parquet" for name in "ab" for trial in range(3)], "c.csv")
    assert result.code == 1
    assert "test part of the split e" in result.err


def test_zeros_get_a_floor_and_it_is_said(call):
    frame = table(3, seed=1)
    frame.loc[[5, 9], ["prob_NV", "prob_BCC", "prob_AK"]] = [1.0, 0.0, 0.0]
    save(frame, "a.csv")
    save(table(3, seed=2), "b.csv")
    found = json.loads(call("compare", "a.csv", "b.csv", "--json").out)
    assert "a.csv: 4 probabilities below 1e-12 count as 1e-12." in found["notes"]
    fit = read(["a.csv"]).fits["a"][0]
    assert fit.logits[5, 1] == np.float32(np.log(FLOOR))
    assert fit.probabilities[5] == pytest.approx([1, 0, 0], abs=1e-11)


def test_rounded_probabilities_pass_and_odd_class_names_are_text(call):
    names = {"NV": "NA", "BCC": "007", "AK": "None"}
    for file, seed in (("a.csv", 1), ("b.csv", 2)):
        frame = table(3, seed=seed).round(3)
        frame["label"] = frame["label"].map(names)
        save(frame.rename(columns={f"prob_{old}": f"prob_{new}" for old, new in names.items()}), file)
    found = json.loads(call("compare", "a.csv", "b.csv", "--targets", "007", "--json").out)
    assert found["num_lesions_by_class"] == {"NA": 60, "007": 30, "None": 20}


def edit(frame: pd.DataFrame, **cells) -> pd.DataFrame:
    """The table with row 3 changed."""
    changed = frame.astype(dict.fromkeys(cells, object))
    for name, value in cells.items():
        changed.loc[2, name] = value
    return changed


GOOD = table(3, seed=5)
WRONG = {
    "no image column": (GOOD.drop(columns="image"), 'lacks the column "image"', "There are: lesion, label, prob_NV"),
    "no label column": (GOOD.drop(columns="label"), 'lacks the column "label"', "There are:"),
    "no values": (GOOD[["image", "label"]], "lacks prob_<class> or logit_<class>", "There are: image, label."),
    "both kinds": (GOOD.assign(logit_NV=0.0), "both prob_ and logit_", "Keep one kind"),
    "unknown label": (edit(GOOD, label="BKL"), 'row 3: the label "BKL" is none of the classes NV, BCC, AK', "prob_"),
    "label near": (edit(GOOD, label="BC"), 'row 3: the label "BC"', 'Did you mean "BCC"?'),
    "unknown predicted": (
        edit(GOOD.assign(predicted="AK"), predicted="2"),
        'row 3: the predicted class "2" is none of the classes NV, BCC, AK',
        "Without a column predicted the most probable class",
    ),
    "no predicted": (edit(GOOD.assign(predicted="AK"), predicted=""), 'row 3: "predicted" is empty', ""),
    "no label": (edit(GOOD, label=""), 'row 3: "label" is empty', ""),
    "no number": (edit(GOOD, prob_AK="much"), 'row 3: prob_AK is "much", no finite number', ""),
    "nothing": (edit(GOOD, prob_AK=""), "row 3: prob_AK is", "no finite number"),
    "sum": (edit(GOOD, prob_AK=0.9, prob_NV=0.9), 'row 3 (image "ISIC_0002"): the probabilities sum to', "1 of 660"),
    "negative": (edit(GOOD, prob_AK=-0.2, prob_NV=1.2), "row 3", "not between 0 and 1"),
    "half trial": (edit(GOOD, trial=0.5), 'row 3: trial is "0.5", no whole number', ""),
    "twice": (
        GOOD.assign(trial=0),
        'row 221: image "ISIC_0000" stands there twice in one fit of bad',
        "column `trial`",
    ),
    "two groups": (GOOD.assign(group="x"), "columns group and lesion, and they differ", "Keep the one"),
    "other labels": (edit(GOOD, label="AK"), "labels", "ISIC_0002"),
    "other images": (edit(GOOD, image="ISIC_X"), "different images: 2 are in one of them only", "ISIC_0002"),
    "fewer images": (GOOD[GOOD["image"] > "ISIC_0004"], "different images: 5 are in one of them only", "ISIC_0000"),
    "other groups": (edit(GOOD, lesion="other"), "groups", "ISIC_0002"),
    "fewer fits": (GOOD[GOOD["trial"] < 2], "trials [0, 1]", "[0, 1, 2]"),
    "other classes": (GOOD.rename(columns={"prob_AK": "prob_SCC"}).replace("AK", "SCC"), "AK, SCC", "in one of them"),
    "no rows": (GOOD[:0], "has no rows", ""),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_file_and_row(call, case):
    frame, *words = WRONG[case]
    save(table(3, seed=4), "good.csv")
    save(frame, "bad.csv")
    result = call("compare", "good.csv", "bad.csv")
    assert result.code == 1
    assert result.err.count("error: ") == 1
    for word in ("bad", *words):
        assert word in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.csv"], "only one model, a"),
        (["a=a.csv,a.csv", "b=a.csv"], "a: a.csv is named twice"),
        (["a.csv", "nowhere.csv"], "no file nowhere.csv"),
        (["a.csv", "=a.csv"], "names no model"),
        (["a.csv", "b.xlsx"], "no CSV, TSV or Parquet"),
        (["a.csv", "broken.parquet"], "broken.parquet cannot be read"),
        (["a.csv", "deeper/a.csv"], "both hold trial 0 of the model a"),
        (["a.csv", "c=b.csv", "--reference", "b"], 'no model "b" to be the reference'),
        (["a.csv", "b.csv", "--measure", "recal:AK"], 'no measure "recal:AK"'),
        (["a.csv", "b.csv", "--targets", "AKK"], 'Did you mean "AK"'),
        (["a.csv", "m=models.csv"], "several models by its column `model`"),
    ],
)
def test_wrong_arguments(call, arguments, words):
    Path("deeper").mkdir()
    for name in ("a.csv", "b.csv", "deeper/a.csv"):
        save(GOOD, name)
    save(pd.concat([GOOD.assign(model="x"), GOOD.assign(model="y")]), "models.csv")
    Path("b.xlsx").write_text("no")
    Path("broken.parquet").write_text("no")
    result = call("compare", *arguments)
    assert (result.code, result.err.count("error: ")) == (1, 1)
    assert words in result.err


def test_few_lesions_give_no_verdict(call):
    for name, seed in (("a.csv", 1), ("b.csv", 2)):
        save(table(3, seed=seed, gain=0.5 * seed, lesions=(60, 30, 8)), name)
    found = json.loads(call("compare", "a.csv", "b.csv", "--targets", "AK", "--json").out)
    assert found["comparisons"][0]["reading"] == "too few lesions"
    assert "no verdict, for want of lesions of AK" in found["sentences"][0]


@pytest.mark.parametrize(("p", "adjusted", "words"), [(0.01, 0.03, "better"), (0.03, 0.2, CORRECTED)])
def test_correction_can_take_a_finding_back(p, adjusted, words):
    arms = {name: predictions(table(3, seed=seed), name) for name, seed in (("a", 1), ("b", 2))}
    [found] = compare_all(arms, [("b", "a")], "balanced_accuracy")
    found = replace(found, difference=0.05, standard_error=0.02, low=0.01, high=0.09, p_value=p)
    assert _reading(found, adjusted, 1.0, 0.02) == words
    said = _sentence(found, adjusted, 1.0, 4, 0.02)
    assert f"After Holm over 4 models p = {adjusted:.3f}" in said
    assert ("not enough data after all" in said) == (adjusted > 0.05)


@pytest.mark.parametrize(("p_equal", "words"), [(0.03, "practically equal"), (0.12, CORRECTED)])
def test_equality_is_corrected_over_models_too(p_equal, words):
    arms = {name: predictions(table(3, seed=seed), name) for name, seed in (("a", 1), ("b", 2))}
    [found] = compare_all(arms, [("b", "a")], "balanced_accuracy")
    found = replace(found, difference=0.0, standard_error=0.005, low=-0.01, high=0.01, p_value=1.0)
    found = replace(found, degrees_of_freedom=30.0)
    assert equivalence_p(found, 0.02) < 0.05
    assert _reading(found, 1.0, p_equal, 0.02) == words
    said = _sentence(found, 1.0, p_equal, 4, 0.02)
    assert f"After Holm over 4 models p = {p_equal:.3f} of the tests of equality" in said
    assert ("not enough data after all" in said) == (p_equal > 0.05)


def test_each_model_is_equal_by_holm_of_all_of_them(call):
    """Of as many tests of equality as there are models the smallest p counts as many times."""
    files = [save(table(4, seed=seed), f"m{seed}.csv") for seed in (1, 2, 3, 4)]
    found = json.loads(call("compare", *files, "--measure", "accuracy", "--smallest-effect", 0.05, "--json").out)
    arms = {name: predictions(table(4, seed=seed), name) for seed, name in enumerate(found["models"], 1)}
    compared = compare_all(arms, [(name, "m1") for name in found["models"][1:]], "accuracy")
    p_values = {c.arm: equivalence_p(c, 0.05) for c in compared}
    expected = multipletests(list(p_values.values()), method="holm")[1]
    assert min(p_values.values()) < 0.05
    assert [row["equivalence_p_adjusted"] for row in found["comparisons"]] == pytest.approx(list(expected), abs=1e-6)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def scaled(kind: str, how: str) -> pd.DataFrame:
    """The good table with columns of one kind, whose numbers are of another scale."""
    frame = table(3, seed=5, kind="logit")
    logits = frame[[f"logit_{name}" for name in CLASSES]].to_numpy()
    shares, sigmoid = softmax(logits), 1 / (1 + np.exp(-logits))
    half = np.where(np.arange(len(shares))[:, None] % 2, shares, logits)
    one_hot = np.eye(3)[shares.argmax(axis=1)]
    values = {"shares": shares, "percent": 100 * shares, "of 255": 255 * shares, "sigmoid": sigmoid, "half": half}
    values |= {"logs": np.log(shares), "one-hot": one_hot, "percent, sigmoid": 100 * sigmoid, "logits": logits}
    named = {f"{kind}_{name}": values[how][:, k] for k, name in enumerate(CLASSES)}
    return frame[["image", "label", "lesion", "trial"]].assign(**named)


@pytest.mark.parametrize(
    ("kind", "how", "said", "hint"),
    [
        ("logit", "shares", "the logit_ columns hold probabilities", "Call the columns prob_<class>."),
        ("logit", "one-hot", "the logit_ columns hold probabilities", "Call the columns prob_<class>."),
        ("logit", "half", "sum to 1 in 330 of 660 rows", "Call the columns prob_<class>."),
        ("logit", "percent", "the logit_ columns hold percentages", "Call the columns prob_<class>."),
        ("logit", "of 255", "the logit_ columns hold shares", "prob_<class>, divided by 255."),
        ("logit", "sigmoid", "look like sigmoid outputs", "log(p / (1 - p))"),
        ("prob", "logits", "not between 0 and 1", "Call the columns logit_<class> if they are logits"),
        ("prob", "logs", "not between 0 and 1", "logarithms of probabilities: call the columns logit_<class>"),
        ("prob", "of 255", "not between 0 and 1", "Every row sums to 255: divide by it"),
        ("prob", "percent, sigmoid", "not between 0 and 1", "percentages? Divide by 100"),
        ("prob", "sigmoid", "the probabilities sum to", "sigmoid outputs do not"),
    ],
)
def test_numbers_of_another_scale_are_refused(call, kind, how, said, hint):
    save(table(3, seed=4), "good.csv")
    save(scaled(kind, how), "bad.csv")
    result = call("compare", "good.csv", "bad.csv")
    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert hint in result.err


def test_percentages_are_read_as_such_and_it_is_said(call):
    save(scaled("prob", "percent").round(2), "percent.csv")
    save(scaled("prob", "shares").round(4), "shares.csv")
    found = read(["percent.csv", "shares.csv"])
    assert "percent.csv: the prob_ columns sum to 100 in every row, and were read as percentages." in found.notes
    for one, other in zip(*found.fits.values(), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


@pytest.mark.parametrize("how", ["logits", "logs"])
def test_logits_are_logits_whatever_is_added_to_a_row(how):
    frame = scaled("logit", how)
    columns = [f"logit_{name}" for name in CLASSES]
    frame[columns] += np.random.default_rng(0).normal(5, 3, (len(frame), 1))
    save(frame, "a.csv")
    save(scaled("prob", "shares"), "b.csv")
    found = read(["a.csv", "b.csv"]).fits
    assert found["a"][0].probabilities == pytest.approx(found["b"][0].probabilities, abs=1e-5)


@pytest.mark.parametrize("word", ["nan", "NA", "None", "unknown", ""])
def test_a_lesion_called_nan_is_no_lesion(call, word):
    """As one lesion of many images it would narrow the interval."""
    frame = table(3, seed=1)
    missing = frame["image"].str.slice(5).astype(int) % 3 == 0
    frame["lesion"] = frame["lesion"].mask(missing, word)
    for name, seed in (("a.csv", 1), ("b.csv", 2)):
        save(table(3, seed=seed).assign(lesion=frame["lesion"]), name)
    found = json.loads(call("compare", "a.csv", "b.csv", "--json").out)
    images = frame[missing]["image"].nunique()
    assert found["num_lesions"] == images + frame[~missing]["lesion"].nunique()
    assert (
        f"a.csv: {missing.sum()} rows have no lesion; each of their images counts as one of its own." in found["notes"]
    )


def test_predictions_that_chose_the_epoch_are_no_evidence(call):
    for name, seed in (("a", 1), ("b", 2)):
        for fit in predictions(table(3, seed=seed), name):
            replace(fit, part="validation").save(Path(f"{name}{fit.trial}.parquet"))
    models = [f"{name}={name}0.parquet,{name}1.parquet,{name}2.parquet" for name in "ab"]
    said = json.loads(call("compare", *models, "--json").out)["notes"][0]
    assert said.startswith("Beware: a0.parquet and 5 more are of a validation part. It chose the epoch")
    assert "must not be the evidence" in said


def test_a_file_name_with_an_equals_sign_is_a_file(call):
    save(GOOD, "lr=0.1.csv")
    assert list(read(["lr=0.1.csv"]).fits) == ["lr=0.1"]


def test_reading_raises_the_errors_of_this_package(call):
    save(GOOD, "good.csv")
    with pytest.raises(DataError, match="no file none"):
        read(["good.csv", "none.csv"])
