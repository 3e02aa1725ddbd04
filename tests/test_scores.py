"""Scores against scikit-learn called in another form."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics

from moulage.errors import DataError
from moulage.evaluation.measure_names import measure
from moulage.evaluation.scores import scores

CLASSES = ("MEL", "NV", "AK", "DF")


def study(num_images: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and logits [N, 4] of a middling classifier on unbalanced classes, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, num_images, p=[0.2, 0.6, 0.15, 0.05])
    logits = rng.normal(size=(num_images, 4)).round(1)
    logits[np.arange(num_images), labels] += 1
    return labels, logits.astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=1, keepdims=True)


def test_scores_agree_with_scikit_learn():
    labels, logits = study()
    p, predicted = softmax(logits), logits.argmax(axis=1)
    found = scores(labels, logits, CLASSES)
    report = metrics.classification_report(labels, predicted, target_names=CLASSES, output_dict=True)
    judge = {
        "num_images": 400,
        "accuracy": report["accuracy"],
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "auc": metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro"),
        "average_precision": metrics.average_precision_score(np.eye(4)[labels], p, average="macro"),
        "log_loss": metrics.log_loss(labels, p),
    }
    assert {key: found[key] for key in judge} == pytest.approx(judge, abs=1e-9)
    of_class = zip(
        CLASSES,
        metrics.roc_auc_score(np.eye(4)[labels], p, average=None),
        metrics.average_precision_score(np.eye(4)[labels], p, average=None),
        strict=True,
    )
    for name, auc, average_precision in of_class:
        judge = {"precision": report[name]["precision"], "recall": report[name]["recall"]}
        judge |= {"f1": report[name]["f1-score"], "support": report[name]["support"]}
        judge |= {"auc": auc, "average_precision": average_precision}
        assert found["classes"][name] == pytest.approx(judge, abs=1e-9)
    assert found["confusion"] == metrics.confusion_matrix(labels, predicted).tolist()


def test_what_is_undefined_is_none_without_a_warning():
    labels, logits = np.array([0, 0, 1]), np.array([[9.0, 0, 0, -9], [9, 0, 0, -9], [9, 0, 0, -9]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores(labels, logits, CLASSES)
    nothing = dict.fromkeys(("precision", "recall", "f1", "auc", "average_precision")) | {"support": 0}
    assert found["classes"]["AK"] == nothing
    assert found["classes"]["NV"]["precision"] is None
    assert found["classes"]["NV"]["f1"] == 0
    assert found["balanced_accuracy"] == pytest.approx(1 / 2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_one_class_alone_has_no_auc():
    found = scores(np.zeros(3, int), np.zeros((3, 4)), CLASSES)
    assert found["auc"] is None
    assert found["average_precision"] == pytest.approx(1)


def test_a_certain_and_wrong_prediction_has_a_finite_loss():
    assert scores(np.array([1]), np.array([[1000.0, 0]]), ("A", "B"))["log_loss"] == pytest.approx(1000)


def test_scores_are_the_measures_by_name():
    labels, logits = study()
    found = scores(labels, logits, CLASSES)
    names = ("accuracy", "balanced_accuracy", "auc", "log_loss", "expected_calibration_error")
    expected = {name: found[name] for name in names}
    for kind in ("recall", "average_precision", "auc", "f1"):
        expected[f"{kind}:DF"] = found["classes"]["DF"][kind]
    assert {name: measure(name, labels, logits, CLASSES) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_nothing_to_score_is_refused():
    with pytest.raises(DataError, match="0 labels"):
        scores(np.zeros(0, int), np.zeros((0, 4)), CLASSES)
    with pytest.raises(DataError, match="cannot be scored over 4 classes"):
        scores(np.zeros(3, int), np.zeros((3, 5)), CLASSES)
