"""Promises of the inference on simulated studies of known truth: a small version of ``benchmarks/simulate.py``.

Bounds are binomial. Arms of a study share its lesions and its reference, so that a study counts once: its first arm.
"""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not (BENCHMARKS / "simulate.py").is_file():
    pytest.skip("The benchmarks are not part of this copy.", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))
import simulate  # noqa: E402
from simulated import TARGETS, Design, Model, draw  # noqa: E402

MEASURES = ("balanced_accuracy", "mean_average_precision")
SEEDY = Model(trial_signal=0.25, trial_bias=0.25)
"""Fits that differ much, so that what they add can be told with few studies."""
HOLDOUT = Design(num_images=1500, num_sets=3, num_arms=4, model=SEEDY)
FOLDS = Design(num_images=1500, num_sets=1, num_folds=5, num_arms=4, model=SEEDY)
LOUD = replace(FOLDS, model=Model(trial_signal=2, trial_bias=2))
"""In folds what a fit adds is one of five parts of a mean over all lesions."""
CERTAIN = 0.0005
"""Chance that a promise which is kept fails a bound."""


def at_most(share: float, count: int) -> int:
    """Hits of ``count`` that a chance of ``share`` exceeds hardly ever."""
    return int(stats.binom.ppf(1 - CERTAIN, count, share))


@cache
def null_studies(design: str, num_studies: int) -> dict[str, dict[str, np.ndarray]]:
    """Measure -> what was found, [studies, arms]."""
    chosen = {"holdout": HOLDOUT, "folds": FOLDS, "loud folds": LOUD}[design]
    wanted = {measure: list(chosen.arms[1:]) for measure in MEASURES}
    studies = [simulate.run_study(chosen, wanted, 0, study) for study in range(num_studies)]
    return {measure: simulate.table_of(studies, measure) for measure in MEASURES}


def misses(found: dict[str, np.ndarray], low: str = "low", high: str = "high") -> int:
    """Studies whose interval of the first arm leaves out the truth, 0."""
    return int(((found[low] > 0) | (found[high] < 0))[:, 0].sum())


@pytest.mark.slow
@pytest.mark.parametrize("design", ["holdout", "folds"])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("number", [60, pytest.param(300, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_intervals_cover_in_null_studies(number, design, measure):
    found = null_studies(design, number)[measure]
    assert misses(found) <= at_most(0.05, number)
    helps = (found["p_value"] < 0.05) & (found["difference"] > 0)
    assert helps[:, 0].sum() <= at_most(0.025, number)
    assert (simulate.holm(found["p_value"]) < 0.05).any(axis=1).sum() <= at_most(0.05, number)
    if design == "folds":
        assert misses(found, "cautious_low", "cautious_high") <= at_most(0.05, number)


def test_intervals_are_no_wider_than_they_need_to_be():
    """The mean variance is near that of the differences: within the 99.9 % bounds of a chi-squared of 60 studies."""
    found = null_studies("holdout", 60)["balanced_accuracy"]
    ratio = np.mean(found["difference"][:, 0] ** 2) / np.mean(found["standard_error"][:, 0] ** 2)
    low, high = stats.chi2.ppf([CERTAIN, 1 - CERTAIN], 60) / 60
    assert low < ratio < high


@pytest.mark.parametrize(
    ("design", "measure"),
    [*(("holdout", name) for name in MEASURES), pytest.param("loud folds", MEASURES[0], marks=pytest.mark.slow)],
)
def test_fits_taken_as_fixed_fail_the_same_bound(design, measure):
    """Lesions alone, V_L, as a bootstrap of the images under fixed fits has it: it must miss far more than 5 %."""
    found = null_studies(design, 60)[measure]
    half = stats.norm.ppf(0.975) * np.sqrt(found["variance_lesions"])
    wrong = found | {"low": found["difference"] - half, "high": found["difference"] + half}
    assert misses(wrong) > at_most(0.05, 60)


@pytest.mark.parametrize("design", [HOLDOUT, FOLDS], ids=["holdout", "folds"])
def test_a_threshold_has_its_variance_from_the_bootstrap_and_not_from_the_jackknife(design):
    """The measure's own choice is as wide as it need be, within the bounds above; the jackknife is too wide."""
    measure, wide = "mean_sensitivity_at_specificity", []
    for num_resamples in (200, 0):
        studies = [simulate.run_study(design, {measure: ["arm1"]}, 0, study, num_resamples) for study in range(60)]
        found = simulate.table_of(studies, measure)
        wide.append(np.mean(found["difference"] ** 2) / np.mean(found["standard_error"] ** 2))
        assert misses(found) <= at_most(0.05, 60)
    low, high = stats.chi2.ppf([CERTAIN, 1 - CERTAIN], 60) / 60
    assert low < wide[0] < high
    assert wide[1] < low


@pytest.mark.parametrize(("measure", "signal"), [("balanced_accuracy", 1.2), ("mean_average_precision", 0.8)])
def test_a_planted_effect_is_found(measure, signal):
    """A gain of more than 1.3 minimal detectable effects: 75 % of the studies find it, at least."""
    detectable = simulate.detectable(null_studies("holdout", 60)[measure]).mean()
    design = replace(HOLDOUT, planted={"arm1": signal})
    studies = [simulate.run_study(design, {measure: ["arm1"]}, 1, study) for study in range(30)]
    found = simulate.table_of(studies, measure)
    assert 1.3 * detectable < found["difference"].mean() < 2 * detectable
    assert ((found["p_value"] < 0.05) & (found["difference"] > 0)).sum() >= 30 - at_most(0.25, 30)


def test_equality_is_found_at_a_fifth_of_the_margin_and_not_at_the_margin():
    found = null_studies("holdout", 60)["mean_average_precision"]
    first = {name: values[:, 0] for name, values in found.items()}
    margin = simulate.MARGIN * first["standard_error"].mean()
    assert simulate.equal(first, margin).sum() >= 60 - at_most(0.2, 60)
    assert simulate.equal(first, margin, margin).sum() <= at_most(0.05, 60)


def test_holm_against_the_definition():
    rng = np.random.default_rng(0)
    for p_values in rng.uniform(0, 0.1, (20, 10)):
        ranked = np.sort(p_values)
        steps = [min(1, max((10 - j) * ranked[j] for j in range(i + 1))) for i in range(10)]
        assert np.sort(simulate.holm(p_values)) == pytest.approx(steps)
        assert (simulate.holm(p_values)[np.argsort(p_values)] == np.sort(simulate.holm(p_values))).all()


def test_a_simulated_study_is_what_it_says():
    """Folds part the lesions and each class evenly; a planted signal moves its arm alone; a number gives one study."""
    fits = draw(FOLDS, simulate.generator(3, 4))
    assert fits.folds is not None
    for fold in fits.folds:
        assert all(len(set(fold[fits.lesions == lesion])) == 1 for lesion in range(0, len(fits.strata), 50))
        of_lesion = fold[np.unique(fits.lesions, return_index=True)[1]]
        counts = np.array([np.bincount(fits.strata[of_lesion == part], minlength=8) for part in range(5)])
        assert np.ptp(counts, axis=0).max() <= 1
    planted = draw(replace(FOLDS, planted={"arm2": 1.0}), simulate.generator(3, 4))
    for name, logits in fits.logits.items():
        change = planted.logits[name] - logits
        rare = np.isin(fits.labels, [simulate.CLASSES.index(target) for target in TARGETS])
        own = np.eye(8)[fits.labels] * (rare & (name == "arm2"))[:, None]
        assert change == pytest.approx(np.broadcast_to(own, change.shape), abs=1e-5)
