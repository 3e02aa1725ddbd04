"""Several classifiers as one, from their saved predictions; what is fitted is fitted on the validation part alone.

``mean``: the plain mean. ``weighted``: the weights that make the validation part most likely. ``greedy``: forward
selection with replacement (Caruana et al. 2004, ICML). ``stacking``: a logistic regression on the members' logits
(Wolpert 1992). The operating point is set as that of a single classifier. The test part is predicted, and nothing else
is done with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from moulage.errors import DataError, LeakError, RecipeError, nearest
from moulage.evaluation.operating_point import choose_strength, decide, log_prior
from moulage.evaluation.predictions import PARTS, Predictions, first_true, log_softmax

SEPARATE = "Give the predictions as `moulage study` wrote them: an ensemble is fitted on validation alone."
METHODS = ("mean", "weighted", "greedy", "stacking")
Average = Literal["probabilities", "logits"]

NUM_ITERATIONS = 500
"""Of expectation-maximisation; it has long converged by then."""
NUM_PICKS = 50
"""Most members, counted with repeats, of a greedy ensemble."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the penalty among which stacking chooses by cross-validation over lesions."""
NUM_STACKING_FOLDS = 5
FLOOR = 1e-12
"""Smaller probabilities count as this one, so that they have a logarithm."""


@dataclass(frozen=True)
class Member:
    """One fitted classifier: what it says about the validation part, and about the test part."""

    name: str
    validation: Predictions
    test: Predictions

    def __post_init__(self) -> None:
        """Raise ``LeakError`` where what is fitted on shows images, or lesions, of what is scored."""
        for part in PARTS:
            if (said := getattr(self, part).part) != part:
                raise LeakError(f"{self.name}: the {part} predictions are those of the {said} part.", SEPARATE)
        for column in ("images", "groups"):
            both = np.intersect1d(getattr(self.validation, column), getattr(self.test, column))
            if len(both):
                what = "image" if column == "images" else "lesion"
                raise LeakError(
                    f'{self.name}: the {what} "{both[0]}" is in the validation and in the test part.', SEPARATE
                )


@dataclass(frozen=True)
class Ensemble:
    """What ``combine`` makes."""

    method: str  # one of ``METHODS``
    # share of each member, summing to 1; of a stacking the share of the absolute coefficients
    weights: dict[str, float]
    # its predictions; the logits are logarithms of probabilities, and the operating point is chosen on these
    validation: Predictions
    test: Predictions
    notes: tuple[str, ...] = ()  # sentences on what was chosen


def combine(
    members: Sequence[Member],
    method: str,
    *,
    average: Average = "probabilities",
    balanced: bool = True,
    seed: int = 0,
) -> Ensemble:
    """One ensemble, by one of ``METHODS``, of two or more members that were trained on the same split.

    What is said of an image follows from the combined logits and a strength chosen on the validation part, whose class
    shares stand for those of the training (``operating_point``); what the members say is not asked.

    Args:
        average: whether probabilities or logits (centred: log-probabilities) are averaged; stacking ignores it.
        balanced: whether each class of the validation part counts alike, whatever its number of images: in the
            likelihood of ``weighted`` and ``stacking``, and as balanced accuracy in place of accuracy in ``greedy``.
        seed: deals the lesions into the folds of stacking's cross-validation.

    Raises:
        DataError: fewer than two members, two of a name, or members of different splits, images or classes.
        RecipeError: an unknown method.
    """
    if method not in METHODS:
        raise RecipeError(f'There is no way "{method}" to combine predictions.', nearest(method, METHODS))
    members = _aligned(members)
    labels = members[0].validation.labels
    parts = {part: np.stack([_values(getattr(m, part), average) for m in members]) for part in PARTS}
    weight_of = _image_weights(members[0].validation, balanced)
    notes: tuple[str, ...] = ()
    if method == "stacking":
        logs = {part: np.concatenate([log_softmax(getattr(m, part).logits) for m in members], axis=1) for part in PARTS}
        combined, shares, notes = _stack(members, logs, weight_of, seed)
    else:
        if method == "mean":
            shares = np.full(len(members), 1 / len(members))
        elif method == "weighted":
            shares = mixture_weights(parts["validation"], labels, weight_of, average)
        else:
            shares = greedy_weights(parts["validation"], labels, weight_of)
        combined = {part: np.tensordot(shares, values, 1) for part, values in parts.items()}
        if average == "probabilities":
            combined = {part: np.log(np.maximum(values, FLOOR)) for part, values in combined.items()}
    weights = {member.name: float(share) for member, share in zip(members, shares, strict=True)}
    prior = log_prior(np.maximum(np.bincount(labels, minlength=len(members[0].validation.classes)), 1))
    strength = choose_strength(combined["validation"], labels, prior)
    made = {
        part: replace(getattr(members[0], part), logits=values, predicted=decide(values, prior, strength), arm=method)
        for part, values in combined.items()
    }
    return Ensemble(method, weights, **made, notes=notes)


def best_single(members: Sequence[Member], balanced: bool = True) -> Member:
    """The member with the highest (balanced) accuracy on the validation part; of equals the more likely one."""

    def merit(member: Member) -> tuple[float, float]:
        found = member.validation
        weights = _image_weights(found, balanced)
        likelihood = (weights * log_softmax(found.logits)[np.arange(len(found)), found.labels]).sum()
        return float(weights @ (found.predicted == found.labels)), float(likelihood)

    return max(members, key=merit)


def mixture_weights(values: np.ndarray, labels: np.ndarray, weight_of: np.ndarray, average: Average) -> np.ndarray:
    """Weights on the simplex, float64 [M], that make the labels most likely.

    Probabilities: a mixture of experts with constant weights, whose likelihood is concave in them; expectation-
    maximisation (Dempster et al. 1977) never leaves the simplex and never gets worse. Logits: a product of experts,
    concave too; the same start, by exponentiated gradient with a step that halves where it would get worse.

    Args:
        values: [M, N, K] probabilities, or centred logits; ``average`` says which.
        labels: int64 [N].
        weight_of: weight of each image, [N], summing to 1.
    """
    weights, rows = np.full(len(values), 1 / len(values)), np.arange(len(labels))
    if average == "probabilities":
        right = np.maximum(values[:, rows, labels], FLOOR)
        for _ in range(NUM_ITERATIONS):
            responsible = weights[:, None] * right
            weights = (responsible / responsible.sum(axis=0)) @ weight_of
        return weights / weights.sum()

    def likelihood(shares: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(np.tensordot(shares, values, 1))
        residual = -np.exp(logs) * weight_of[:, None]
        residual[rows, labels] += weight_of
        return float(weight_of @ logs[rows, labels]), (values * residual).sum(axis=(1, 2))

    step = 1.0
    best, gradient = likelihood(weights)
    for _ in range(NUM_ITERATIONS):
        tried = weights * np.exp(step * (gradient - gradient.max()))
        tried /= tried.sum()
        value, slope = likelihood(tried)
        if value > best:
            weights, best, gradient, step = tried, value, slope, step * 1.2
        elif step < 1e-6:
            break
        else:
            step /= 2
    return weights


def greedy_weights(values: np.ndarray, labels: np.ndarray, weight_of: np.ndarray) -> np.ndarray:
    """Weights float64 [M] of a forward selection with replacement by accuracy on the weighted images.

    The best member begins; then whichever member lifts the mean most joins, again and again; the best ensemble of this
    way is kept, the smallest of equals. Of members that lift it equally the likeliest labels decide. Arguments as of
    ``mixture_weights``.
    """
    rows = np.arange(len(labels))
    total = np.zeros(values.shape[1:])
    counts, best, kept = np.zeros(len(values)), -np.inf, np.zeros(len(values))
    for size in range(1, NUM_PICKS + 1):
        means = ((total + own) / size for own in values)
        merits = [(round(_accuracy(x, labels, weight_of), 12), float(weight_of @ x[rows, labels])) for x in means]
        chosen = max(range(len(values)), key=merits.__getitem__)
        total += values[chosen]
        counts[chosen] += 1
        if merits[chosen][0] > best:
            best, kept = merits[chosen][0], counts.copy()
    return kept / kept.sum()


def _stack(
    members: Sequence[Member], logs: dict[str, np.ndarray], weight_of: np.ndarray, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[str, ...]]:
    """Log-probabilities by part, shares of the members, and what was chosen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    known = members[0].validation
    labels, num_classes = known.labels, len(known.classes)
    scale = logs["validation"].std()
    logs = {part: values / scale for part, values in logs.items()}
    if absent := [name for k, name in enumerate(known.classes) if k not in labels]:
        raise DataError(
            f"Stacking learns from the validation part, which has no image of {', '.join(absent)}.",
            "Use mean, weighted or greedy, or a larger validation part.",
        )
    counts = [len(set(known.groups[labels == k])) for k in range(num_classes)]
    num_folds = min(NUM_STACKING_FOLDS, *counts)
    importance = weight_of * len(labels)

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=strength, max_iter=2000)
        return model.fit(logs["validation"][rows], labels[rows], sample_weight=importance[rows])

    strength, note = STRENGTHS[0], "Too few lesions of a class to choose stacking's penalty: the strongest was taken."
    if num_folds >= 2:
        folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        losses = np.zeros(len(STRENGTHS))
        for train, held in folds.split(logs["validation"], labels, known.groups):
            if len(np.unique(labels[train])) < num_classes:
                continue
            for i, tried in enumerate(STRENGTHS):
                found = fitted(tried, train).predict_log_proba(logs["validation"][held])
                losses[i] -= importance[held] @ found[np.arange(len(held)), labels[held]]
        strength = STRENGTHS[int(losses.argmin())]
        note = f"Stacking: inverse penalty {strength:g}, chosen by {num_folds}-fold cross-validation over lesions."
    model = fitted(strength, np.arange(len(labels)))
    size = np.abs(model.coef_).reshape(len(model.coef_), len(members), -1).sum(axis=(0, 2))
    combined = {part: np.maximum(model.predict_log_proba(values), np.log(FLOOR)) for part, values in logs.items()}
    return combined, size / size.sum(), (note,)


def _values(predictions: Predictions, average: Average) -> np.ndarray:
    logs = log_softmax(predictions.logits)
    return np.exp(logs) if average == "probabilities" else logs - logs.mean(axis=1, keepdims=True)


def _image_weights(predictions: Predictions, balanced: bool) -> np.ndarray:
    """Weight of each image, summing to 1; ``balanced``: of each class together equally much."""
    labels = predictions.labels
    weights = 1 / np.bincount(labels)[labels] if balanced else np.ones(len(labels))
    return weights / weights.sum()


def _accuracy(values: np.ndarray, labels: np.ndarray, weight_of: np.ndarray) -> float:
    return float(weight_of @ (values.argmax(axis=1) == labels))


def _aligned(members: Sequence[Member]) -> list[Member]:
    """The members with their images in the order of the first, proven to belong together."""
    if len(members) < 2:
        raise DataError(f"{len(members)} member makes no ensemble.", "Name two or more.")
    names = [member.name for member in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise DataError(f'Two members are called "{twice}".', "Give each a name of its own.")
    return [
        Member(member.name, **{part: _like_first(member, members[0], part) for part in PARTS}) for member in members
    ]


def _like_first(member: Member, first: Member, part: str) -> Predictions:
    ours, theirs, name = getattr(member, part), getattr(first, part), member.name
    if ours.split_digest != theirs.split_digest:
        raise DataError(
            f"{name} and {first.name} were trained on different splits ({ours.split_digest} and "
            f"{theirs.split_digest}): what one was tested on the other may have learned from.",
            "Combine fits of one split: of folds those of one trial.",
        )
    if ours.classes != theirs.classes:
        known = f"{first.name} {', '.join(theirs.classes)}"
        raise DataError(f"{name} has the classes {', '.join(ours.classes)}, {known}.")
    order = pd.Index(ours.images).get_indexer(pd.Index(theirs.images))
    if (order < 0).any() or len(ours) != len(theirs):
        what = f"{len(ours)} instead of {len(theirs)} images"
        if (missing := first_true(order < 0)) is not None:
            what = f'no prediction of "{theirs.images[missing]}"'
        raise DataError(f"{name} has {what} in the {part} part.", "Predict the same images with every member.")
    if (ours.labels[order] != theirs.labels).any():
        raise DataError(f"{name} has other labels in the {part} part.", "Use predictions of the same data.")
    rows = {column: getattr(ours, column)[order] for column in ("logits", "predicted")}
    return replace(ours, images=theirs.images, groups=theirs.groups, labels=theirs.labels, **rows)
