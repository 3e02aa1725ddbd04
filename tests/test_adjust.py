"""Post-hoc logit adjustment: the formula, and the choice of its strength."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from moulage.errors import DataError
from moulage.evaluation.adjust import TAUS, adjust, choose_tau, log_prior


def test_the_formula_by_hand():
    prior = log_prior(np.array([1, 3]))
    assert prior == pytest.approx([-np.log(4), np.log(0.75)])
    logits = np.array([[0.0, 1.0]], np.float32)
    assert adjust(logits, prior, 0.5) == pytest.approx(np.array([[np.log(2), 1 - 0.5 * np.log(0.75)]]))
    assert (adjust(logits, prior, 0) == logits).all()
    assert adjust(logits, prior, 1).dtype == np.float32
    assert logits.tolist() == [[0.0, 1.0]]


def test_a_prior_taken_off_leaves_the_likelihood():
    """Bayes: log p(y|x) - log p(y) is the log of p(x|y) but for a constant, so tau = 1 decides by the likelihood."""
    likelihood = np.array([[0.2, 0.5, 0.1], [0.6, 0.3, 0.4]])
    prior = np.array([0.01, 0.19, 0.8])
    posterior = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    found = adjust(np.log(posterior), np.log(prior), 1.0)
    assert np.exp(found - found.max(1, keepdims=True)) == pytest.approx(likelihood / likelihood.max(1, keepdims=True))


def gaussians(seed: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the Bayes rule, for clouds of a standard deviation of 1 at 0, 1.5 and 3 with shares 0.9, 0.08, 0.02."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    x = rng.normal(1.5 * labels, 1)
    return -0.5 * (x[:, None] - 1.5 * np.arange(3)) ** 2 + np.log([0.9, 0.08, 0.02]), labels


def test_the_strength_is_the_best_of_all():
    logits, labels = gaussians(0, (900, 300, 200))
    prior = np.log([0.9, 0.08, 0.02])
    judged = [balanced_accuracy_score(labels, (logits - tau * prior).argmax(1)) for tau in TAUS]
    found = choose_tau(logits, labels, prior)
    assert found == TAUS[int(np.argmax(judged))]
    assert 0.7 <= found <= 1.3, "near the 1 of the theory"
    fresh, truth = gaussians(1, (900, 300, 200))
    plain, adjusted = (balanced_accuracy_score(truth, adjust(fresh, prior, t).argmax(1)) for t in (0, found))
    assert adjusted > plain + 0.1


def test_the_smallest_of_equals_is_chosen():
    logits, labels = np.array([[5.0, 0.0], [0.0, 5.0]]), np.array([0, 1])
    prior = log_prior(np.array([9, 1]))
    assert choose_tau(logits, labels, prior) == 0
    assert choose_tau(logits, labels, prior, taus=(2, 1, 0.5)) == 0.5
    assert isinstance(choose_tau(logits, labels, prior, taus=(1,)), float)


def test_classes_that_do_not_occur_do_not_count():
    logits = np.array([[1.0, 0.0, -9.0], [1.0, 0.5, -9.0]])
    assert choose_tau(logits, np.array([0, 1]), log_prior(np.array([7, 3, 1])), taus=(0, 1)) == 1


def test_what_cannot_be_adjusted_is_refused():
    with pytest.raises(DataError, match="every class was trained on"):
        log_prior(np.array([3, 0]))
    with pytest.raises(DataError, match="cannot be adjusted"):
        adjust(np.zeros((2, 3)), np.zeros(2), 1)
    with pytest.raises(DataError, match="cannot be adjusted"):
        adjust(np.zeros((2, 2)), np.array([0, -np.inf]), 1)
    with pytest.raises(DataError, match="validation part"):
        choose_tau(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(2))
    with pytest.raises(DataError, match="0 strengths"):
        choose_tau(np.zeros((1, 2)), np.zeros(1, np.int64), np.zeros(2), taus=())
