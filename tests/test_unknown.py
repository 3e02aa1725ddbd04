"""Scores of unknown images: formulas by hand, and what they find."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown


def test_scores_of_logits_are_the_formulas():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert unknown.of_logits(logits, "max_softmax") == pytest.approx(1 - p.max(1))
    assert unknown.of_logits(logits, "entropy") == pytest.approx(stats.entropy(p, axis=1))
    assert unknown.of_logits(logits, "energy") == pytest.approx(-np.log(np.exp(logits).sum(1)))
    assert np.isfinite(unknown.of_logits(1000 * logits, "energy")).all()
    with pytest.raises(RecipeError, match="energy"):
        unknown.of_logits(logits, "enrgy")


def test_scores_of_features_are_the_formulas():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    train = rng.normal(size=(200, 5)) + 3 * np.eye(3, 5)[labels]
    features = rng.normal(size=(30, 5)) * 2
    found = unknown.of_features(train, labels, features)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (features, train)]
    assert found["nearest"] == pytest.approx(np.sort(cdist(*unit), axis=1)[:, 9], abs=1e-3)
    means = np.stack([train[labels == k].mean(0) for k in range(3)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(train - means[labels]).covariance_)
    by_hand = cdist(features, means, "mahalanobis", VI=inverse).min(1) ** 2
    assert found["mahalanobis"] == pytest.approx(by_hand)
    with pytest.raises(DataError, match="too few"):
        unknown.of_features(train[:10], labels[:10], features)


def test_a_class_far_away_is_found_by_features():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 300)
    train = rng.normal(size=(300, 8)) + 6 * np.eye(2, 8)[labels]
    known, strange = train[:100] + 0.1 * rng.normal(size=(100, 8)), rng.normal(size=(40, 8)) + 6 * np.eye(8)[5]
    for name in unknown.OF_FEATURES:
        scores = [unknown.of_features(train, labels, f)[name] for f in (known, strange)]
        groups = [np.arange(len(s)) for s in scores]
        found = unknown.detection(name, *scores, *groups, rng)
        assert found.auroc > 0.95
        assert found.false_positives < 0.2


def test_the_area_equals_scikit_learns_and_ties_count_half():
    rng = np.random.default_rng(3)
    known, strange = rng.integers(0, 6, 80).astype(float), rng.integers(2, 9, 50).astype(float)
    found = unknown.detection("x", known, strange, np.arange(80), np.arange(50), rng)
    expected = roc_auc_score(np.repeat([0, 1], [80, 50]), np.concatenate([known, strange]))
    assert found.auroc == pytest.approx(expected)
    assert found.low < expected < found.high
    threshold = np.sort(strange)[2]  # 95 % of 50 are found from the third smallest on
    assert found.false_positives == pytest.approx((known >= threshold).mean())


def test_lesions_with_many_images_widen_the_interval():
    rng = np.random.default_rng(4)
    known, strange = rng.normal(size=200), np.repeat(rng.normal(0.7, 1, 10), 10)
    alone = unknown.detection("x", known, strange, np.arange(200), np.arange(100), np.random.default_rng(0))
    grouped = unknown.detection("x", known, strange, np.arange(200), np.repeat(np.arange(10), 10), rng)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_the_share_of_unknown_rises_from_the_quantile_on():
    usual = np.arange(100.0)
    found = unknown.unknown_share(usual, np.array([0, 89, 90.5, 95.5, 200]), 0.1)
    assert found.tolist() == pytest.approx([0, 0, 0.1, 0.6, 1])


def test_nothing_to_tell_apart_is_refused():
    with pytest.raises(DataError, match="0 unknown"):
        unknown.detection("x", np.ones(3), np.ones(0), np.arange(3), np.arange(0), np.random.default_rng())
