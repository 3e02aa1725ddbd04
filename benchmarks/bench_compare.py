"""The whole inference of a large study, and what its exact jackknife saves against leaving lesions out one by one.

    python benchmarks/bench_compare.py [--bootstrap]

13 arms x 10 fits x 5,000 images x 8 classes as unbalanced as ISIC-2019, made-up logits. The peer leaves each of the
lesions out in turn and asks scikit-learn's ``average_precision_score``; it is timed on one fit and one class.
``--bootstrap`` also times 10,000 class-stratified lesion resamples of the primary measure. CPU time, one thread.
"""

import argparse
import resource
import time

import numpy as np
from sklearn.metrics import average_precision_score

from moulage.evaluation.alignment import Fits
from moulage.evaluation.compare import compare_fits
from moulage.evaluation.measure_names import find
from moulage.evaluation.measures import Outputs

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
SHARES = (0.1785, 0.5083, 0.1312, 0.0342, 0.1037, 0.0094, 0.0099, 0.0248)
NUM_ARMS, NUM_FITS, NUM_IMAGES = 13, 10, 5000
RARE = ("AK", "DF", "VASC", "SCC")


def made_up(rng: np.random.Generator) -> Fits:
    """Fits of a study: lesions of two images in the mean, arms that share most of what they say."""
    _, lesions = np.unique(rng.integers(0, NUM_IMAGES * 6 // 10, NUM_IMAGES), return_inverse=True)
    strata = rng.choice(len(CLASSES), lesions.max() + 1, p=np.array(SHARES) / sum(SHARES))
    labels = strata[lesions]
    common = 2 * np.eye(len(CLASSES))[labels] + rng.normal(size=(NUM_IMAGES, len(CLASSES)))
    logits = {
        f"arm{a}": (common + 0.5 * rng.normal(size=(NUM_FITS, *common.shape))).astype(np.float32)
        for a in range(NUM_ARMS)
    }
    return Fits(CLASSES, labels, lesions, strata, len(strata), logits)


def main(bootstrap: bool = False) -> dict[str, float]:
    fits, found = made_up(np.random.default_rng(0)), {}
    pairs = [(f"arm{a}", "arm0") for a in range(1, NUM_ARMS)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("mean_average_precision", "balanced_accuracy", "auc", "expected_calibration_error"):
        start = time.process_time()
        compare_fits(fits, pairs, name, RARE)
        found[name] = time.process_time() - start
        print(f"{name:30} {found[name]:7.2f} CPU s")
    found["memory"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{'memory beside the logits':30} {found['memory']:7.0f} MiB")
    if bootstrap:
        start = time.process_time()
        compare_fits(fits, pairs, "mean_average_precision", RARE, num_resamples=10_000)
        found["bootstrap"] = time.process_time() - start
        print(f"{'10,000 lesion resamples':30} {found['bootstrap']:7.2f} CPU s")
    k = CLASSES.index("AK")
    outputs, positive = Outputs(fits.labels, fits.logits["arm0"][0]), fits.labels == k
    chance = outputs.probabilities
    times = []
    for _ in range(9):
        start = time.process_time()
        ours = find("average_precision").without_each(outputs, k, fits.lesions)[1]
        times.append(time.process_time() - start)
    start, chosen = time.process_time(), range(0, len(fits.strata), 20)
    judged = [average_precision_score(positive[rest], chance[rest, k]) for rest in (fits.lesions != x for x in chosen)]
    peer = (time.process_time() - start) * len(fits.strata) / len(judged)
    assert np.allclose(ours[list(chosen)], judged, atol=1e-12)
    found["jackknife"] = peer / float(np.median(times))
    seconds = f"{np.median(times):.4f} CPU s, scikit-learn {peer:.1f} ({found['jackknife']:.0f}x)"
    print(f"{len(fits.strata)} lesions left out one by one: {seconds}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", action="store_true", help="also time 10,000 resamples (about a minute)")
    main(parser.parse_args().bootstrap)
