"""The operating point: the formula, and the choice of its strength on made-up logits whose best strength is known."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from moulage.errors import DataError
from moulage.evaluation.measure_names import find
from moulage.evaluation.measures import Outputs
from moulage.evaluation.operating_point import NOISE, STRENGTHS, choose_strength, decide, log_prior
from moulage.plugins import names

ALONE = np.array([f"l{number}" for number in range(5000)], object)
"""Lesions of one image each."""


def chosen(logits, labels, prior, **more) -> float:
    return choose_strength(logits, labels, ALONE[: len(labels)], prior, **more)


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
    found = chosen(logits - off * PRIOR, labels, PRIOR)
    assert found == pytest.approx(best, abs=0.15)
    fresh, truth = gaussians(1, (900, 300, 200))
    reached = balanced_accuracy_score(truth, decide(fresh - off * PRIOR, PRIOR, found))
    assert reached == pytest.approx(balanced_accuracy_score(truth, decide(fresh, PRIOR, 1.0)), abs=0.01)
    assert reached > balanced_accuracy_score(truth, fresh.argmax(1)) + 0.1


def test_arms_that_differ_by_an_operating_point_say_the_same():
    logits, labels = gaussians(0, (900, 300, 200))
    fresh, _ = gaussians(1, (900, 300, 200))
    plain, softmax = (chosen(logits - off * PRIOR, labels, PRIOR) for off in (0.0, 1.0))
    assert plain == pytest.approx(softmax + 1)
    assert (decide(fresh, PRIOR, plain) == decide(fresh - PRIOR, PRIOR, softmax)).all()


def turning(gained: int, lost: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two classes with shares of 9 to 1, 20 images of each; from 0.55 on rare ones are found, and others lost."""
    turns = np.full((2, 20), [[9.0], [-9.0]])  # the strength from which the rare class is said
    turns[0, :lost] = turns[1, :gained] = 0.55
    logits = np.stack([np.zeros(40), -np.log(9) * turns.ravel()], axis=1)
    return logits, np.repeat([0, 1], 20), log_prior(np.array([9, 1]))


UPPER, WHOLE = 1.3, 0.5
"""The middle of the strengths from 0.6 on, and of all."""


def test_the_middle_of_the_best_strengths_is_chosen():
    logits, labels, prior = turning(gained=20, lost=0)
    assert np.mean([s for s in STRENGTHS if s > 0.55]) == pytest.approx(UPPER)
    assert np.mean(STRENGTHS) == pytest.approx(WHOLE)
    assert chosen(logits, labels, prior) == UPPER
    assert chosen(logits, labels, prior, strengths=(2, 1, 0.5)) == 1.5
    assert chosen(*turning(gained=0, lost=20)) == pytest.approx(np.mean([s for s in STRENGTHS if s < 0.55]), abs=1e-3)
    assert chosen(*turning(gained=0, lost=0)) == WHOLE, "nothing is told"
    assert isinstance(chosen(logits, labels, prior, strengths=(1,)), float)


@pytest.mark.parametrize(
    ("gained", "lost", "found"),
    [
        (5, 4, WHOLE),  # 1 image is less than half of sqrt(9)
        (4, 5, WHOLE),
        (6, 4, UPPER),  # 2 are more than half of sqrt(10)
        (8, 4, UPPER),
        (1, 0, UPPER),  # 1 is more than half of sqrt(1)
    ],
)
def test_what_half_a_standard_error_decides_does_not_count(gained: int, lost: int, found: float):
    assert NOISE == 0.5
    assert chosen(*turning(gained, lost)) == found


def test_images_of_a_lesion_count_as_one():
    """8 images gained and 4 lost are 4, less than half of sqrt(8^2 + 4^2) if those are two lesions."""
    logits, labels, prior = turning(8, 4)
    lesions = ALONE[:40].copy()
    lesions[:4], lesions[20:28] = "one", "two"
    assert choose_strength(logits, labels, lesions, prior) == WHOLE
    lesions[20:24] = "three"  # 4, more than half of sqrt(4^2 + 4^2 + 4^2)
    assert choose_strength(logits, labels, lesions, prior) == UPPER


def test_classes_that_do_not_occur_do_not_count():
    logits = np.array([[1.0, 0.0, -9.0], [1.0, 0.5, -9.0]])
    assert chosen(logits, np.array([0, 1]), log_prior(np.array([7, 3, 1])), strengths=(0, 1)) == 1


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
        chosen(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(2))
    with pytest.raises(DataError, match="of 2 lesions"):
        choose_strength(np.zeros((3, 2)), np.zeros(3, np.int64), ALONE[:2], np.zeros(2))
    with pytest.raises(DataError, match="0 strengths"):
        chosen(np.zeros((1, 2)), np.zeros(1, np.int64), np.zeros(2), strengths=())
