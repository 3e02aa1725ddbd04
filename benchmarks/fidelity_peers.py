"""Fidelity scores beside those of other programs on the same features.

    python benchmarks/fidelity_peers.py [NUM_IMAGES] [NUM_FEATURES]

It needs torch-fidelity, torchmetrics, prdc and scikit-learn (``pip install torch-fidelity torchmetrics prdc`` into an
environment of its own) and prints one line a score: ours, the peer's, the relative difference, seconds of each.
Exit status 1 if any differs by more than 1e-4 (colours are counted in bins: 1e-2).
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from moulage.data.neighbours import nearest_rows
from moulage.evaluation.manifolds import density_coverage, precision_recall
from moulage.evaluation.memorisation import data_copying
from moulage.evaluation.set_distances import colour_distances, frechet, squared_mmd, to_lab

TOLERANCE, BINNED = 1e-4, 1e-2
Score = Callable[[], float]


def features(num: int, size: int, seed: int, shift: float) -> np.ndarray:
    """Non-negative, correlated features, as after a ReLU."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(num, 8)) @ np.random.default_rng(99).normal(size=(8, size)) + rng.normal(size=(num, size))
    return np.maximum(mixed / 4 + 0.3 + shift, 0).astype(np.float32)


def main(num: int = 1000, size: int = 64) -> int:
    """Compare everything once; the number of scores that differ."""
    real, generated = features(num, size, 1, 0.0), features(num - 100, size, 2, 0.05)
    rows = [*_distances(real, generated), *_shares(real, generated), *_others(real, generated)]
    worst = 0
    peers = ("torch-fidelity", "torchmetrics", "prdc", "scikit-learn", "scipy")
    print(", ".join(f"{peer} {version(peer)}" for peer in peers))
    print(f"{num} real and {num - 100} generated images, {size} features")
    for name, ours, theirs in rows:
        start = time.perf_counter()
        mine = ours()
        middle = time.perf_counter()
        peer = theirs()
        end = time.perf_counter()
        gap = abs(mine - peer) / max(abs(peer), 1e-12)
        worst += gap > (BINNED if name.startswith("colours") else TOLERANCE)
        print(f"{name:44s} {mine:14.8f} {peer:14.8f}  {gap:8.1e}  {middle - start:6.2f} s {end - middle:6.2f} s")
    return worst


def _distances(real: np.ndarray, generated: np.ndarray) -> list[tuple[str, Score, Score]]:
    import torch
    from torch_fidelity import metric_fid, metric_kid
    from torchmetrics.image import fid, kid

    equal = real[: len(generated)]  # both peers want equal numbers for the kernel distance
    a, b, c = (torch.from_numpy(x).double() for x in (real, generated, equal))

    def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return features.mean(0), torch.cov(features.T)

    def fidelity_fid() -> float:
        statistics = [metric_fid.fid_features_to_statistics(features) for features in (a, b)]
        return float(metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])

    def fidelity_kid() -> float:
        options = {"kid_subsets": 1, "kid_subset_size": len(b), "verbose": False}
        return float(metric_kid.kid_features_to_metric(c, b, **options)["kernel_inception_distance_mean"])

    def our_fid() -> float:
        return frechet(real, generated).value

    def our_kid() -> float:
        return squared_mmd(equal, generated).value

    return [
        ("Frechet distance, torch-fidelity", our_fid, fidelity_fid),
        ("Frechet distance, torchmetrics", our_fid, lambda: float(fid._compute_fid(*moments(a), *moments(b)))),
        ("kernel distance, torch-fidelity", our_kid, fidelity_kid),
        ("kernel distance, torchmetrics", our_kid, lambda: float(kid.poly_mmd(c, b))),
    ]


def _shares(real: np.ndarray, generated: np.ndarray) -> list[tuple[str, Score, Score]]:
    import torch
    from prdc import compute_prdc
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    def peer(key: str, k: int) -> Score:
        return lambda: float(_quiet(lambda: compute_prdc(real, generated, k))[key])

    def fidelity(which: int) -> Score:
        tensors = torch.from_numpy(generated).double(), torch.from_numpy(real).double()
        return lambda: calculate_precision_recall_full(*tensors, 3)[which]

    return [
        ("precision, prdc", lambda: precision_recall(real, generated).precision, peer("precision", 3)),
        ("recall, prdc", lambda: precision_recall(real, generated).recall, peer("recall", 3)),
        ("precision, torch-fidelity", lambda: precision_recall(real, generated).precision, fidelity(0)),
        ("recall, torch-fidelity", lambda: precision_recall(real, generated).recall, fidelity(1)),
        ("density, prdc", lambda: density_coverage(real, generated).density, peer("density", 5)),
        ("coverage, prdc", lambda: density_coverage(real, generated).coverage, peer("coverage", 5)),
    ]


def _others(real: np.ndarray, generated: np.ndarray) -> list[tuple[str, Score, Score]]:
    from scipy import stats
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(3)
    held_out = features(200, real.shape[1], 4, 0.0)
    first, second = (rng.integers(low, 256, (20, 16, 16, 3), dtype=np.uint8) for low in (0, 60))

    def away(queries: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=1, algorithm="brute").fit(real).kneighbors(queries)[0][:, 0]

    def z_score() -> float:
        two_sided = stats.mannwhitneyu(
            away(generated), away(held_out), use_continuity=False, method="asymptotic", alternative="greater"
        )
        return float(stats.norm.isf(two_sided.pvalue))

    def lightness() -> float:
        return float(stats.wasserstein_distance(*(to_lab(x)[..., 0].ravel() for x in (first, second))))

    return [
        (
            "distance to the 5th neighbour, scikit-learn",
            lambda: float(nearest_rows(generated, real, 5)[0][:, 4].mean()),
            lambda: float(NearestNeighbors(n_neighbors=5).fit(real).kneighbors(generated)[0][:, 4].mean()),
        ),
        (
            "data copying C_T, SciPy and scikit-learn",
            lambda: data_copying(real, held_out, generated, rng=rng, num_cells=1).overall,
            z_score,
        ),
        (
            "colours, lightness of pixels, SciPy",
            lambda: colour_distances(first, second)["pixels"]["lightness"],
            lightness,
        ),
    ]


def _quiet(call: Callable[[], dict[str, float]]) -> dict[str, float]:
    """prdc prints as it computes."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:3]))))
