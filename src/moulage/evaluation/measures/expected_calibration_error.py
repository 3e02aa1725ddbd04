"""Mean gap between confidence and accuracy over equal-width bins of the top probability (Guo et al. 2017, eq. 3).

Bin b holds the confidences in ``(b / NUM_BINS, (b + 1) / NUM_BINS]``.
"""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs
from moulage.evaluation.resampling import Weighted, count_matrix, divide

NUM_BINS = 15
"""As in Guo et al. 2017."""


def confidence_bins(probabilities: np.ndarray) -> np.ndarray:
    """The bin of each image's top probability, [N] int64, for probabilities [N, K] whose rows sum to 1."""
    return np.clip(np.ceil(probabilities.max(axis=1) * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def confidence_gaps(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Confidence minus correctness of each image, [N] float64 in -1..1."""
    return probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Of labels [N] int64 and probabilities [N, K]."""
    gaps = np.bincount(confidence_bins(probabilities), confidence_gaps(labels, probabilities), NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


class ExpectedCalibrationError(Measure):
    words = "expected calibration error"
    heading = "calibration error"
    forms = ("overall",)
    by_class = False
    lower_is_better = True

    def value(self, outputs: Outputs, k: int | None) -> float:
        return expected_calibration_error(outputs.labels, outputs.probabilities)

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        bins, gaps = confidence_bins(outputs.probabilities), confidence_gaps(outputs.labels, outputs.probabilities)
        rows = np.r_[bins, np.full(len(bins), NUM_BINS)]
        shape = NUM_BINS + 1, int(lesions.max()) + 1
        matrix = count_matrix(rows, np.r_[lesions, lesions], np.r_[gaps, np.ones(len(bins))], shape)
        return Weighted(matrix, lambda counts: np.abs(counts[:-1]).sum(axis=0) / counts[-1])

    def without_each(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        bins, gaps = confidence_bins(outputs.probabilities), confidence_gaps(outputs.labels, outputs.probabilities)
        num_lesions = int(lesions.max()) + 1
        share = np.bincount(lesions * NUM_BINS + bins, gaps, num_lesions * NUM_BINS).reshape(-1, NUM_BINS)
        total = share.sum(axis=0)  # in float64, where the matrix above holds float32
        left = len(bins) - np.bincount(lesions, minlength=num_lesions)
        return float(np.abs(total).sum() / len(bins)), divide(np.abs(total - share).sum(axis=1), left)


MEASURE = ExpectedCalibrationError()
