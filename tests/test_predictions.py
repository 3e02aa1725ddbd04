"""Predictions: checked on the way in, unchanged by a trip to disk."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from moulage.errors import DataError, RunError
from moulage.evaluation.predictions import Predictions

CLASSES = ("AK", "DF, rare", "VÄSC")


def make(**changes) -> Predictions:
    values = {
        "images": ["a", "b", "c", "d"],
        "groups": ["l1", "l1", "l2", "l3"],
        "labels": np.array([0, 0, 1, 2]),
        "logits": np.array([[3.0, 1, 0], [0, 2, 1], [1, 1, 0], [-1e30, 0, 1e30]]),
        "classes": CLASSES,
        "arm": "none",
        "trial": 2,
        "part": "test",
        "split_digest": "abc",
    }
    return Predictions(**(values | changes))


def test_types_are_fixed():
    made = make(labels=np.array([0, 0, 1, 2], np.int8), classes=list(CLASSES))
    assert made.labels.dtype == np.int64
    assert made.logits.dtype == np.float32
    assert made.images.dtype == object
    assert made.classes == CLASSES
    assert len(made) == 4


def test_probabilities_are_the_softmax_even_of_huge_logits():
    made = make()
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = made.probabilities
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, softmax(made.logits.astype(np.float64), axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_predicted_is_the_first_of_equal_logits():
    assert make().predicted.tolist() == [0, 1, 0, 2]


def test_predicted_is_what_was_said_where_that_is_given():
    said = make(predicted=np.array([2, 2, 1, 0], np.int8)).predicted
    assert said.dtype == np.int64
    assert said.tolist() == [2, 2, 1, 0]


def test_round_trip_changes_nothing(tmp_path):
    made = make(images=np.array(["ISIC_1", "<b>", "ü", "x,y"], object), predicted=np.array([2, 2, 1, 0]))
    path = tmp_path / "new" / "test.parquet"
    made.save(path)
    back = Predictions.load(path)
    for name in ("images", "groups", "labels", "logits", "predicted"):
        assert getattr(back, name).dtype == getattr(made, name).dtype
        assert (getattr(back, name) == getattr(made, name)).all()
    for name in ("classes", "arm", "trial", "part", "split_digest"):
        assert getattr(back, name) == getattr(made, name)
    assert [file.name for file in path.parent.iterdir()] == ["test.parquet"]


def test_the_file_can_be_read_without_moulage(tmp_path):
    make().save(tmp_path / "test.parquet")
    table = pd.read_parquet(tmp_path / "test.parquet")
    assert list(table.columns) == [
        "image",
        "group",
        "label",
        "predicted",
        *(f"logit_{name}" for name in CLASSES),
    ]
    assert table["label"].tolist() == ["AK", "AK", "DF, rare", "VÄSC"]
    assert table["predicted"].tolist() == ["AK", "DF, rare", "AK", "VÄSC"]
    meta = json.loads(pq.read_schema(tmp_path / "test.parquet").metadata[b"moulage"])
    assert meta["arm"] == "none"
    assert meta["split_digest"] == "abc"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": []}, "at least one name"),
        ({"images": ["a", "b", "a", "d"]}, '"a" stands there twice'),
        ({"images": ["a", "", "c", "d"]}, "row 1 of images"),
        ({"images": ["a", 7, "c", "d"]}, "row 1 of images"),
        ({"groups": ["l1", "l1", "l2"]}, "groups have the shape"),
        ({"groups": ["l1", None, "l2", "l3"]}, "row 1 of groups"),
        ({"labels": np.array([0, 1])}, "labels have the shape"),
        ({"labels": np.array([0.0, 0, 1, 2])}, "not integer"),
        ({"labels": np.array([0, 0, 1, 3])}, "label 3 of row 3"),
        ({"labels": np.array([0, -1, 1, 2])}, "label -1 of row 1"),
        ({"predicted": np.array([0, 0, 1, 3])}, "predicted class 3 of row 3"),
        ({"predicted": np.array([0, 0, 1])}, "predicted have the shape"),
        ({"predicted": np.array([0.0, 0, 1, 2])}, "predicted are float64"),
        ({"logits": np.zeros((4, 2))}, "logits have the shape"),
        ({"logits": np.zeros(4)}, "logits have the shape"),
        ({"logits": np.full((4, 3), np.nan)}, "not finite"),
        ({"logits": np.full((4, 3), 1e300)}, "not finite"),
        ({"classes": ("AK", "AK", "DF")}, "different names"),
        ({"part": "train"}, 'part is "train"'),
    ],
)
def test_bad_values_are_refused(changes, words):
    with pytest.raises(DataError, match="none, trial 2") as caught:
        make(**changes)
    assert words in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "other.parquet")
    make().save(tmp_path / "short.parquet")
    data = (tmp_path / "short.parquet").read_bytes()
    (tmp_path / "short.parquet").write_bytes(data[: len(data) // 2])
    for name in ("missing.parquet", "text.parquet", "other.parquet", "short.parquet"):
        with pytest.raises(RunError, match=name):
            Predictions.load(tmp_path / name)
