"""The operating point: the formula, and the choice of its strength on made-up logits whose best strength is known."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from moulage.errors import DataError
from moulage.evaluation.measure_names import find
from moulage.evaluation.measures import Outputs
from moulage.evaluation.operating_point import STRENGTHS, choose_strength, decide, log_prior
from moulage.plugins import names


def test_the_formula_by_hand():
    prior = log_prior(np.array([1, 3]))
    assert prior == pytest.approx([-np.log(4), np.log(0.75)])
    logits = np.array([[0.0, 1.0], [0.0, 1.2]], np.float32)  # with 1, the first class gains log 3 = 1.0986
    assert decide(logits, prior, 0).tolist() == [1, 1]
    assert decide(logits, prior, 1).tolist() == [0, 1]
    assert decide(logits, prior, 1.1).tolist() == [0, 0]
    assert decide(-logits, prior, -1).tolist() == [1, 0]
    assert decide(np.zeros((1, 2)), prior, 0).tolist() == [0], "of equals the first"
    assert decide(logits, prior, 1).dtype == np.int64


def test_a_prior_taken_off_leaves_the_likelihood():
    """Bayes: log p(y|x) - log p(y) is the log of p(x|y) but for a constant, so strength 1 decides by the likelihood."""
    likelihood = np.array([[0.2, 0.5, 0.1], [0.6, 0.3, 0.4]])
    prior = np.array([0.01, 0.19, 0.8])
    posterior = likelihood * prior / (likelihood * prior).sum(1, keepdims=True)
    assert posterior.argmax(1).tolist() == [1, 2]
    assert decide(np.log(posterior), np.log(prior), 1.0).tolist() == likelihood.argmax(1).tolist() == [1, 0]


def gaussians(seed: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the Bayes rule, for clouds of a standard deviation of 1 at 0, 1.5 and 3 with shares 0.9, 0.08, 0.02."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    x = rng.normal(1.5 * labels, 1)
    return -0.5 * (x[:, None] - 1.5 * np.arange(3)) ** 2 + PRIOR, labels


PRIOR = np.log([0.9, 0.08, 0.02])


@pytest.mark.parametrize(("off", "best"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (-0.5, 1.5)])
def test_the_strength_is_that_of_the_theory_whatever_the_training_took_off(off: float, best: float):
    """Balanced softmax takes the prior off in the training (1), square-root sampling half of it (0.5)."""
    logits, labels = gaussians(0, (1800, 600, 400))
    found = choose_strength(logits - off * PRIOR, labels, PRIOR)
    assert found == pytest.approx(best, abs=0.15)
    fresh, truth = gaussians(1, (900, 300, 200))
    reached = balanced_accuracy_score(truth, decide(fresh - off * PRIOR, PRIOR, found))
    assert reached == pytest.approx(balanced_accuracy_score(truth, decide(fresh, PRIOR, 1.0)), abs=0.01)
    assert reached > balanced_accuracy_score(truth, fresh.argmax(1)) + 0.1


def test_arms_that_differ_by_an_operating_point_say_the_same():
    logits, labels = gaussians(0, (900, 300, 200))
    fresh, _ = gaussians(1, (900, 300, 200))
    plain, softmax = (choose_strength(logits - off * PRIOR, labels, PRIOR) for off in (0.0, 1.0))
    assert plain == pytest.approx(softmax + 1)
    assert (decide(fresh, PRIOR, plain) == decide(fresh - PRIOR, PRIOR, softmax)).all()


def turning(rare: list[float], frequent: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes with shares of 9 to 1, 30 of each; from these strengths on rare ones are found, others lost."""
    turns = np.full((2, 30), [[9.0], [-9.0]])  # the strength from which the rare class is said
    turns[0, : len(frequent)], turns[1, : len(rare)] = frequent, rare
    logits = np.stack([np.zeros(60), -np.log(9) * turns.ravel()], axis=1)
    return logits, np.repeat([0, 1], 30), log_prior(np.array([9, 1]))


@pytest.mark.parametrize(
    ("rare", "frequent", "expected"),
    [
        ([0.57] * 20, [], 1.3),  # 0.6 to 2
        ([], [0.57] * 20, -0.225),  # -1 to 0.55
        ([-0.22] * 20, [0.62] * 20, 0.2),  # -0.2 to 0.6
        ([], [], 0.5),  # nothing is told
    ],
)
def test_the_middle_of_the_best_strengths_is_choose_strength(rare: list[float], frequent: list[float], expected: float):
    found = choose_strength(*turning(rare, frequent))
    assert found == pytest.approx(expected, abs=0.026)
    assert isinstance(found, float)


def test_a_narrow_step_of_one_image_more_is_not_the_best():
    """10 rare images are found from 0.2 to 1.4, and 11 at 1.9 alone."""
    logits, labels, prior = turning([0.17] * 10 + [1.87] * 11, [1.42] * 10 + [1.92] * 12)
    reached = [balanced_accuracy_score(labels, decide(logits, prior, strength)) for strength in STRENGTHS]
    assert STRENGTHS[int(np.argmax(reached))] == 1.9
    assert choose_strength(logits, labels, prior) == pytest.approx(0.8, abs=0.1)


def test_classes_that_do_not_occur_do_not_count():
    logits, labels = gaussians(0, (900, 300, 200))
    fourth = np.concatenate([logits, np.full((len(logits), 1), -99.0)], axis=1)
    prior = np.append(PRIOR, np.log(0.001))
    assert choose_strength(fourth, labels, prior) == choose_strength(logits, labels, PRIOR)


@pytest.mark.parametrize("name", names("evaluation.measures"))
def test_ranking_and_calibration_never_see_the_operating_point(name: str):
    """And what is of the classes that are said sees nothing else."""
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 300), rng.normal(size=(300, 3)).astype(np.float32)
    logits += 1.5 * np.eye(3, dtype=np.float32)[labels]
    said, measure = rng.integers(0, 3, 300), find(name)
    k = 1 if measure.by_class else None
    plain, moved = (measure.value(Outputs(labels, logits, *more), k) for more in ((), (said,)))
    other = measure.value(Outputs(labels, rng.normal(size=(300, 3)), said), k)
    assert measure.decided == (name in {"accuracy", "balanced_accuracy", "f1", "recall"})
    assert (moved == plain) == (not measure.decided)
    assert (moved == other) == measure.decided
    lesions = np.arange(300)
    if measure.decided:
        exact = [measure.without_each(Outputs(labels, x, said), k, lesions) for x in (logits, -logits)]
        np.testing.assert_array_equal(exact[0][1], exact[1][1])


def test_what_cannot_be_adjusted_is_refused():
    with pytest.raises(DataError, match="every class was trained on"):
        log_prior(np.array([3, 0]))
    with pytest.raises(DataError, match="cannot be adjusted"):
        decide(np.zeros((2, 3)), np.zeros(2), 1)
    with pytest.raises(DataError, match="cannot be adjusted"):
        decide(np.zeros((2, 2)), np.array([0, -np.inf]), 1)
    with pytest.raises(DataError, match="validation part"):
        choose_strength(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(2))
    with pytest.raises(DataError, match="3 labels of 2 images"):
        choose_strength(np.zeros((2, 2)), np.zeros(3, np.int64), np.zeros(2))
