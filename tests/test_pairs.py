"""Tests of fixed pairs: judged by scipy, statsmodels, a slow double loop, and a case worked by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as judge

from moulage.errors import DataError
from moulage.evaluation.alignment import align
from moulage.evaluation.measure_names import resolve
from moulage.evaluation.pairs import delong, fixed, mcnemar
from moulage.evaluation.predictions import Predictions


@pytest.mark.parametrize(
    ("both", "ours", "theirs", "neither"), [(10, 9, 2, 3), (0, 1, 0, 0), (5, 30, 31, 1), (4, 0, 0, 2)]
)
def test_mcnemar_equals_statsmodels_and_scipy(both, ours, theirs, neither):
    first = np.repeat([True, True, False, False], [both, ours, theirs, neither])
    second = np.repeat([True, False, True, False], [both, ours, theirs, neither])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (ours, theirs)
    assert found.p_value == pytest.approx(judge([[both, ours], [theirs, neither]], exact=True).pvalue, abs=1e-12)
    tail = min(1.0, 2 * stats.binom.cdf(min(ours, theirs), ours + theirs, 0.5)) if ours + theirs else 1.0
    assert found.p_value == pytest.approx(tail, abs=1e-12)


def test_mcnemar_needs_lists_of_equal_length():
    with pytest.raises(DataError, match="equal length"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))


def by_loops(positive, first, second):
    """The U-statistic and equations 3 to 5 of DeLong et al. 1988, word for word."""
    aucs, v10, v01 = [], [], []
    for score in (first, second):
        ours, theirs = score[positive], score[~positive]
        kernel = np.array([[1.0 if y < x else 0.5 if y == x else 0.0 for y in theirs] for x in ours])
        aucs.append(kernel.mean())
        v10.append([sum(row) / len(theirs) for row in kernel])
        v01.append([sum(column) / len(ours) for column in kernel.T])
    s10, s01 = np.zeros((2, 2)), np.zeros((2, 2))
    for r in range(2):
        for s in range(2):
            s10[r, s] = sum((a - aucs[r]) * (b - aucs[s]) for a, b in zip(v10[r], v10[s], strict=True))
            s01[r, s] = sum((a - aucs[r]) * (b - aucs[s]) for a, b in zip(v01[r], v01[s], strict=True))
    m, n = len(v10[0]), len(v01[0])
    whole = s10 / (m - 1) / m + s01 / (n - 1) / n
    contrast = np.array([1.0, -1.0])
    return aucs, float(contrast @ whole @ contrast)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_delong_equals_a_double_loop(seed, ties):
    rng = np.random.default_rng(seed)
    positive = rng.random(70) < 0.3
    common = positive + rng.normal(size=70)
    first, second = common + 0.5 * rng.normal(size=70), common + rng.normal(size=70)
    if ties:
        first, second = np.round(first), np.round(second)
    (a, b), variance = by_loops(positive, first, second)
    found = delong(positive, first, second)
    assert (found.auc_first, found.auc_second) == (pytest.approx(a, abs=1e-12), pytest.approx(b, abs=1e-12))
    assert found.auc_first == pytest.approx(roc_auc_score(positive, first), abs=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(variance), abs=1e-12)
    z = (a - b) / np.sqrt(variance)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(stats.norm.interval(0.95, a - b, np.sqrt(variance)), abs=1e-12)


def test_delong_by_hand():
    """Positives 3, 1; negatives 2, 0. First: 3 beats both, 1 beats one. Second: reversed, it beats one in all."""
    positive = np.array([True, True, False, False])
    found = delong(positive, np.array([3.0, 1.0, 2.0, 0.0]), np.array([0.0, 2.0, 1.0, 3.0]))
    # V10: first (1, 1/2), second (0, 1/2): differences 1, 0, variance 1/2. V01: first (1/2, 1), second (1/2, 0): 0, 1.
    assert (found.auc_first, found.auc_second, found.difference) == (0.75, 0.25, 0.5)
    assert found.standard_error == pytest.approx(np.sqrt(0.5 / 2 + 0.5 / 2))


def test_delong_says_nothing_of_equal_scores_and_needs_two_of_each():
    positive = np.array([True, True, False, False])
    same = delong(positive, np.arange(4.0), np.arange(4.0))
    assert (same.difference, same.standard_error, same.p_value) == (0.0, None, None)
    with pytest.raises(DataError, match="two images of the class"):
        delong(np.array([True, False, False]), np.arange(3.0), np.arange(3.0))
    with pytest.raises(DataError, match="two scores"):
        delong(positive, np.arange(3.0), np.arange(4.0))


def test_delong_keeps_its_level_on_independent_images():
    """1,000 pairs of equal scores, 40 of 200 images positive: p < 0.05 in 5 %, Monte-Carlo error 0.7."""
    rng = np.random.default_rng(1)
    positive = np.arange(200) < 40
    hits = 0
    for _ in range(1000):
        common = positive + rng.normal(size=200)
        found = delong(positive, common + rng.normal(size=200), common + rng.normal(size=200))
        hits += found.p_value is not None and found.p_value < 0.05
    assert 30 <= hits <= 75


def models(correct_first, correct_second, labels, groups):
    def fit(arm, correct, trial=0):
        predicted = np.where(correct, labels, 1 - labels)
        logits = np.eye(2, dtype=np.float32)[predicted]
        images = np.array([f"i{row}" for row in range(len(labels))], object)
        return Predictions(images, np.array(groups, object), labels, logits, ("A", "B"), arm, trial, "test", "d")

    return fit, {"first": [fit("first", correct_first)], "second": [fit("second", correct_second)]}


def test_fixed_pair_by_hand_counts_lesions_not_images():
    """20 lesions a class with two images each, both right or both wrong: the variance is that of 20, not of 40."""
    labels = np.repeat([0, 1], 40)
    groups = [f"l{row // 2}" for row in range(80)]
    first, second = np.ones(80, bool), np.ones(80, bool)
    second[:10] = False  # five lesions of A
    _, arms = models(first, second, labels, groups)
    fits = align(arms)
    found = fixed(fits, resolve("recall:A", fits.labels, fits.classes), "first", "second")
    assert found is not None
    assert found.difference == pytest.approx(0.25)
    error = np.sqrt(0.25 * 0.75 / 19)  # p (1 - p) / (m - 1)
    assert found.standard_error == pytest.approx(error)
    assert found.degrees_of_freedom == pytest.approx(19)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 19, 0.25, error))
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.25 / error, 19))
    assert mcnemar(first, second).p_value < found.p_value  # which takes ten images for ten independent ones


def test_fixed_pair_needs_one_fit_each_and_something_that_varies():
    labels, groups = np.repeat([0, 1], 40), [f"l{row}" for row in range(80)]
    right = np.ones(80, bool)
    fit, arms = models(right, right, labels, groups)
    fits = align(arms)
    wanted = resolve("balanced_accuracy", fits.labels, fits.classes)
    assert fixed(fits, wanted, "first", "second") is None
    two = align({name: [*found, fit(name, right, trial=1)] for name, found in arms.items()})
    with pytest.raises(DataError, match="one fit each, not 2"):
        fixed(two, wanted, "first", "second")
