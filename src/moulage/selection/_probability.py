"""How probable each class is for a candidate, by classifiers that have not seen the real image it is most like."""

from typing import NamedTuple

import numpy as np

from moulage.data.neighbours import nearest_rows
from moulage.selection import ImageSet


class Probabilities(NamedTuple):
    """Of K classes."""

    candidates: np.ndarray  # float64 [N, K]
    real: np.ndarray  # out of fold, float64 [M, K]
    rows: np.ndarray  # the M real images, rows of the reference


def probabilities(
    candidates: ImageSet,
    reference: ImageSet,
    rng: np.random.Generator,
    *,
    num_folds: int,
    strength: float,
    most_images: int,
) -> Probabilities | None:
    """Logistic regression on features, each class weighted equally, over folds that part no lesion.

    A candidate is judged by the one classifier that was fitted without the fold of its nearest real image: otherwise an
    image that repeats a training image would get the answer that was learned by heart. There are fewer than
    ``num_folds`` folds, but 2 at least, where a class has fewer lesions. The penalty is C = 1 / (``strength`` * number
    of images); of each class no more than ``most_images`` are used, drawn at random. None where fewer than two classes
    have two lesions.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    lesions = {label: len(set(reference.groups[rows])) for label, rows in reference.by_class()}
    usable = [label for label, number in lesions.items() if number >= 2]
    if len(usable) < 2:
        return None
    drawn = [np.sort(rng.permutation(reference.rows_of(label))[:most_images]) for label in usable]
    rows = np.concatenate(drawn)
    inputs, labels, groups = reference.features[rows], reference.catalog.labels[rows], reference.groups[rows]
    num_folds = max(2, min(num_folds, *(lesions[label] for label in usable)))
    dealer = StratifiedGroupKFold(num_folds, shuffle=True, random_state=int(rng.integers(2**31)))
    fold = np.zeros(len(rows), np.int64)
    for number, (_, left_out) in enumerate(dealer.split(inputs, labels, groups)):
        fold[left_out] = number
    closest = nearest_rows(candidates.features, inputs)[1][:, 0] if len(candidates) else np.zeros(0, np.int64)
    found = np.zeros((len(candidates), len(reference.catalog.classes)))
    real = np.zeros((len(rows), found.shape[1]))
    for number in range(num_folds):
        seen, asked = fold != number, np.flatnonzero(fold[closest] == number)
        penalty = LogisticRegression(C=1 / (strength * seen.sum()), class_weight="balanced", max_iter=500)
        model = make_pipeline(StandardScaler(), penalty).fit(inputs[seen], labels[seen])
        columns = model.classes_
        real[np.ix_(~seen, columns)] = model.predict_proba(inputs[~seen])
        if len(asked):
            found[np.ix_(asked, columns)] = model.predict_proba(candidates.features[asked])
    return Probabilities(found, real, rows)
