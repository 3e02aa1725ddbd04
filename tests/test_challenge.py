"""The ISIC-2019 challenge's form and measures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from moulage.errors import DataError, RecipeError
from moulage.evaluation import challenge
from moulage.evaluation.predictions import ARGMAX, Predictions
from moulage.evaluation.scores import scores


def predictions(part: Any = "test", num: int = 90, classes: tuple[str, ...] = challenge.CLASSES, seed: int = 0):
    rng = np.random.default_rng((seed, len(part)))
    labels = np.arange(num) % len(classes)
    logits = 1.2 * np.eye(len(classes))[labels] + rng.normal(size=(num, len(classes)))
    names = np.array([f"{part}{i:03d}" for i in range(num)], object)
    return Predictions(names, names, labels, logits, classes, "none", 0, part, "s")


def truth_of(found: Predictions, path: Path) -> pd.DataFrame:
    table = pd.DataFrame({"image": found.images, **dict.fromkeys(challenge.COLUMNS, 0.0)})
    for row, k in enumerate(found.labels):
        table.loc[row, found.classes[k]] = 1.0
    table.to_csv(path, index=False)
    return table


def test_written_read_and_scored_is_what_our_own_scores_say(tmp_path: Path):
    found = predictions()
    challenge.write(challenge.table_of(found), tmp_path / "s.csv")
    truth_of(found, tmp_path / "t.csv")
    table, truth = challenge.read(tmp_path / "s.csv"), challenge.read(tmp_path / "t.csv", truth=True)
    assert list(table) == ["image", "MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]
    assert table[list(challenge.COLUMNS)].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    judged, ours = challenge.score(table, truth), scores(found.labels, found.logits, found.classes)
    assert judged["balanced_accuracy"] == pytest.approx(ours["balanced_accuracy"])
    assert judged["mean"]["auc"] == pytest.approx(ours["auc"], abs=1e-3)


def test_the_class_that_is_said_leads_by_the_least_that_does(tmp_path: Path):
    found = predictions()
    said = np.where(np.arange(len(found)) % 3 == 0, (found.predicted + 1) % 8, found.predicted)
    challenge.write(challenge.table_of(replace(found, predicted=said)), tmp_path / "s.csv")
    challenge.write(challenge.table_of(found), tmp_path / "most.csv")
    table, most = (
        challenge.read(tmp_path / name)[list(challenge.CLASSES)].to_numpy() for name in ("s.csv", "most.csv")
    )
    assert (table.argmax(axis=1) == [challenge.CLASSES.index(found.classes[k]) for k in said]).all()
    ordered = np.sort(table, axis=1)
    assert ((ordered[:, -1] - ordered[:, -2])[::3] <= 2e-4).all()
    assert table.sum(axis=1) == pytest.approx(1, abs=1e-5)
    kept = np.arange(len(found)) % 3 > 0
    assert (table[kept] == most[kept]).all()


def test_measures_equal_scikit_learns_with_an_unknown_class(tmp_path: Path):
    rng = np.random.default_rng(1)
    values = rng.dirichlet(np.ones(9) * 0.3, 200)
    labels = np.array([rng.choice(9, p=row) for row in values])
    names = [f"i{i}" for i in range(200)]
    table = pd.DataFrame({"image": names, **dict(zip(challenge.COLUMNS, values.T, strict=True))})
    truth = pd.DataFrame({"image": names, **dict(zip(challenge.COLUMNS, np.eye(9)[labels].T, strict=True))})
    found = challenge.score(table.sample(frac=1, random_state=0), truth)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, values.argmax(1)))
    for k, name in enumerate(challenge.COLUMNS):
        own, called = labels == k, values[:, k] > 0.5
        row = found["classes"][name]
        assert row["auc"] == pytest.approx(roc_auc_score(own, values[:, k]))
        assert row["average_precision"] == pytest.approx(average_precision_score(own, values[:, k]))
        assert row["sensitivity"] == pytest.approx((own & called).sum() / own.sum())
        assert row["specificity"] == pytest.approx((~own & ~called).sum() / (~own).sum())


def test_a_class_that_was_never_learned_is_zero_and_one_the_challenge_has_not_is_refused():
    table = challenge.table_of(predictions(classes=("NV", "AK")))
    assert (table[["MEL", "UNK"]] == 0).all(axis=None)
    with pytest.raises(DataError, match="AKIEC"):
        challenge.table_of(predictions(classes=("NV", "AKIEC")))


def test_unknown_takes_the_strangest_images_alone():
    found, usual = predictions(), predictions("validation", 400)
    strange = found.logits.copy()
    strange[:10] = 0.001 * np.arange(8)
    table = challenge.table_of(replace(found, logits=strange, predicted=ARGMAX), usual, "entropy", 0.05)
    assert (table["UNK"][:10] == 1).all()
    assert (table["UNK"][10:] > 0).mean() < 0.15
    assert table[list(challenge.COLUMNS)].sum(axis=1).to_numpy() == pytest.approx(1)
    with pytest.raises(DataError, match="validation"):
        challenge.table_of(found, None, "entropy")
    with pytest.raises(RecipeError, match="entropy"):
        challenge.table_of(found, usual, "entropi")


GOOD = pd.DataFrame({"image": ["a", "b"], **{name: [0.0, 1.0] for name in challenge.COLUMNS}})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (GOOD.drop(columns="AK"), 'lacks the column "AK"'),
        (GOOD.iloc[:0], "no rows"),
        (GOOD.assign(image=["a", "a"]), "is twice"),
        (GOOD.assign(AK=[0.5, 1.5]), r'row 2 \(image "b"\): a value is not between'),
        (GOOD.assign(AK=["x", "0"]), "row 1"),
    ],
)
def test_a_wrong_file_names_the_row(table: pd.DataFrame, says: str, tmp_path: Path):
    table.to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(DataError, match=says):
        challenge.read(tmp_path / "s.csv")


def test_a_truth_of_two_classes_and_missing_images_are_refused(tmp_path: Path):
    GOOD.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="exactly one class"):
        challenge.read(tmp_path / "t.csv", truth=True)
    with pytest.raises(DataError, match="lacks a"):
        challenge.score(GOOD.iloc[1:], GOOD)


def test_both_verbs(call):
    found = predictions()
    found.save(Path("fit/test.parquet"))
    predictions("validation").save(Path("fit/validation.parquet"))
    truth_of(found, Path("t.csv"))
    result = call("challenge", "write", "fit/test.parquet", "--out", "s.csv", "--unknown", "energy")
    assert result.code == 0, result.err
    assert "90 images" in result.out
    result = call("challenge", "score", "s.csv", "--truth", "t.csv", "--json")
    assert result.code == 0, result.err
    assert 0.3 < json.loads(result.out)["balanced_accuracy"] < 1
    assert "balanced accuracy" in call("challenge", "score", "s.csv", "--truth", "t.csv").out
    result = call("challenge", "write", "fit/test.parquet", "--out", "s.csv", "--unknown", "enrgy")
    assert (result.code, "energy" in result.err) == (1, True)
