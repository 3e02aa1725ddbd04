"""Exact values of a measure with one lesion left out, for every lesion at once.

A lesion's images are all of one class (``fits.Fits``), so leaving it out takes away either positives or negatives.
Average precision and AUC cost a sort; each lesion then costs a few additions an image (no loop over lesions). Both
equal scikit-learn's on the images that are left, which a test checks lesion by lesion.
"""

import numpy as np

from moulage.evaluation.scores import NUM_BINS, confidence_bins, confidence_gaps


def left_out(
    kind: str, k: int, labels: np.ndarray, probabilities: np.ndarray, lesions: np.ndarray
) -> tuple[float, np.ndarray]:
    """The measure of class ``k`` (ignored by the calibration error), and its values without each lesion.

    Args:
        kind: recall, f1, average_precision, auc or expected_calibration_error.
        k: class index.
        labels: [N] int64.
        probabilities: [N, K] float.
        lesions: index of each image's lesion, [N] int64, 0..L-1, every index used, each of one class.

    Returns:
        The value, and [L] float64; NaN where the measure is undefined without the lesion.
    """
    if kind == "expected_calibration_error":
        return _calibration(labels, probabilities, lesions)
    positive = labels == k
    if kind in ("average_precision", "auc"):
        return (_average_precision if kind == "average_precision" else _auc)(positive, probabilities[:, k], lesions)
    predicted = probabilities.argmax(axis=1) == k
    hits, whole = (positive & predicted).astype(float), positive.astype(float)
    if kind == "f1":
        whole = (whole + predicted) / 2
    some_hits, some = np.bincount(lesions, hits), np.bincount(lesions, whole)
    return float(hits.sum() / whole.sum()), _divide(hits.sum() - some_hits, whole.sum() - some)


def _average_precision(positive: np.ndarray, score: np.ndarray, lesions: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum over thresholds t of p_t TP_t / N_t, over P: p_t positives at t, TP_t positives and N_t images from t up.

    Thresholds are the distinct scores of positives, from the top. A lesion with c of its images at or above t changes
    N_t to N_t - c, and TP_t to TP_t - c if it is positive; c is constant between two of its images. So with the prefix
    sums of the changed terms for c = 1, 2, 3 ... each image of a lesion costs one difference of two sums.
    """
    thresholds = np.unique(score[positive])
    last = len(thresholds)
    place = last - np.searchsorted(thresholds, score, side="right")  # first threshold that the image is at or above
    at = np.bincount(place[positive], minlength=last).astype(float)
    found, images = at.cumsum(), np.bincount(place, minlength=last + 1)[:last].cumsum().astype(float)
    num_lesions, num_positive = int(lesions.max()) + 1, at.sum()
    full = float((at * found / images).sum())
    order = np.lexsort((place, lesions))
    order = order[place[order] < last]  # images below all positives change nothing
    lesion, start, is_positive = lesions[order], place[order], positive[order]
    fresh = np.r_[True, lesion[1:] != lesion[:-1]]
    count = np.arange(len(order)) - np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0)) + 1
    stop = np.r_[np.where(fresh[1:], last, start[1:]), last]
    change, own = np.zeros(len(order)), np.zeros(len(order))
    unchanged = _prefix(at * found / images)
    # The lesion's own images at one threshold leave together: the number at or above it is that of the last of them.
    lowest = np.flatnonzero(np.r_[stop[:-1] != start[:-1], True])
    there = count[lowest[np.searchsorted(lowest, np.arange(len(order)))]]
    for c in range(1, int(count.max()) + 1):
        rows = count == c
        for sign in (False, True):
            chosen = rows & (is_positive == sign)
            if chosen.any():
                precision = (found - c * sign) / np.maximum(images - c, 1)
                sums = _prefix(at * precision) - unchanged
                change[chosen] = sums[stop[chosen]] - sums[start[chosen]]
        gone = is_positive & (there == c)
        own[gone] = ((found - c) / np.maximum(images - c, 1))[start[gone]]
    total = full + np.bincount(lesion, change - own, num_lesions)
    return full / num_positive, _divide(total, num_positive - np.bincount(lesions, positive, num_lesions))


def _auc(positive: np.ndarray, score: np.ndarray, lesions: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of pairs in the right order, a tie counting half; a lesion takes its pairs away."""
    ours, theirs = np.sort(score[positive]), np.sort(score[~positive])
    pairs = np.empty(len(score))
    sides = [np.searchsorted(theirs, score[positive], side) for side in ("left", "right")]
    pairs[positive] = (sides[0] + sides[1]) / 2
    sides = [np.searchsorted(ours, score[~positive], side) for side in ("left", "right")]
    pairs[~positive] = len(ours) - (sides[0] + sides[1]) / 2
    right, num_lesions = pairs[positive].sum(), int(lesions.max()) + 1
    kept = [mask.sum() - np.bincount(lesions, mask, num_lesions) for mask in (positive, ~positive)]
    without = right - np.bincount(lesions, pairs, num_lesions)
    return float(right / (len(ours) * len(theirs))), _divide(without, kept[0] * kept[1])


def _calibration(labels: np.ndarray, probabilities: np.ndarray, lesions: np.ndarray) -> tuple[float, np.ndarray]:
    bins, gaps = confidence_bins(probabilities), confidence_gaps(labels, probabilities)
    num_lesions = int(lesions.max()) + 1
    share = np.bincount(lesions * NUM_BINS + bins, gaps, num_lesions * NUM_BINS).reshape(-1, NUM_BINS)
    total = share.sum(axis=0)
    left = len(labels) - np.bincount(lesions, minlength=num_lesions)
    return float(np.abs(total).sum() / len(labels)), _divide(np.abs(total - share).sum(axis=1), left)


def _prefix(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2 ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
