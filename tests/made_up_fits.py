"""Made-up fits of several arms, for whoever tests what compares them."""

from dataclasses import replace

import numpy as np

from moulage.evaluation.predictions import ARGMAX, Predictions

CLASSES = ("NV", "MEL", "AK", "DF")


def fit(labels, logits, groups=None, *, arm="none", trial=0, **changes) -> Predictions:
    names = np.array([f"i{row}" for row in range(len(labels))], object)
    values = {"images": names, "groups": names if groups is None else groups, "labels": np.asarray(labels)}
    values |= {"logits": logits, "classes": CLASSES, "part": "test", "split_digest": "d"}
    return Predictions(**(values | {"arm": arm, "trial": trial} | changes))


def saying(found: Predictions, logits) -> Predictions:
    """The same images with other logits, of which the largest is said."""
    return replace(found, logits=logits, predicted=ARGMAX)


def study(lesions=(60, 40, 25, 20), num_arms=3, num_trials=4, seed=0, seed_noise=0.25, rng=None):
    """Arms that are equal in truth; 1 to 4 images a lesion.

    Lesions differ in difficulty, an arm in how it sees each lesion, a fit in its bias towards each class.
    """
    rng = rng or np.random.default_rng(seed)
    strata = np.repeat(np.arange(4), lesions)
    of = np.repeat(np.arange(len(strata)), rng.choice([1, 2, 3, 4], len(strata), p=[0.5, 0.25, 0.15, 0.1]))
    labels, groups = strata[of], np.array([f"l{lesion}" for lesion in of], object)
    common = rng.normal(size=(len(strata), 4))[of] + 0.7 * rng.normal(size=(len(of), 4))
    common += np.log(np.maximum(lesions, 1)) / 2
    common[np.arange(len(of)), labels] += 1.8
    arms = {}
    for arm in ["none", *(f"arm{number}" for number in range(1, num_arms))]:
        mine = common + 0.3 * rng.normal(size=(len(strata), 4))[of]
        arms[arm] = []
        for trial in range(num_trials):
            logits = mine + 0.5 * rng.normal(size=(len(of), 4)) + seed_noise * rng.normal(size=4)
            arms[arm].append(fit(labels, logits, groups, arm=arm, trial=trial))
    return arms


def in_folds(num_folds=4, num_repeats=2, seed=0, arms=("none", "arm1", "arm2"), fold_noise=0.0, gain=0.0, rng=None):
    """Repeated folds: each (repeat, fold) fit predicts its own lesions; ``fold_noise`` moves all images of a fit."""
    rng = rng or np.random.default_rng(seed)
    strata = np.repeat(np.arange(4), (40, 30, 24, 20))
    of = np.r_[np.arange(len(strata)), rng.integers(0, len(strata), len(strata))]
    labels, names = strata[of], np.array([f"i{i}" for i in range(len(of))])
    signal = 1.5 * np.eye(4)[strata] + 0.6 * rng.normal(size=(len(strata), 4))
    own = {arm: signal[of] + 0.5 * rng.normal(size=(len(of), 4)) for arm in arms}
    found = {arm: [] for arm in arms}
    for repeat in range(num_repeats):
        fold_of = rng.permutation(np.arange(len(strata)) % num_folds)
        for fold in range(num_folds):
            rows = rng.permutation(np.flatnonzero(fold_of[of] == fold))
            for arm in arms:
                lift = gain * (arm == "arm1") + fold_noise * rng.normal()
                logits = own[arm][rows] + 0.4 * rng.normal(size=(len(rows), 4)) + lift * np.eye(4)[labels[rows]]
                groups = [f"g{lesion}" for lesion in of[rows]]
                about = {"arm": arm, "trial": repeat * num_folds + fold, "images": names[rows]}
                found[arm].append(fit(labels[rows], logits, groups, split_digest=f"split{repeat}{fold}", **about))
    return found
