"""The probe's head beside scikit-learn's logistic regression, on the same features: scores and CPU time in one run.

    python benchmarks/bench_probe.py [RUN]

RUN is a finished study of the classifier ``probe`` on a hold-out, whose embeddings and split are taken (plain training
of its first trial); without one, clouds are drawn that are as unbalanced as ISIC-2019. Scikit-learn gets standardised
features, and the best C of a grid by validation log-loss, as a user would choose it. CPU time, one thread; the time of
the grid is scikit-learn's too. Written: a line each, with the scores on the test part and CPU seconds, and
the time of both for one penalty that is given.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from bench_finetune_scores import scores
from moulage import randomness, runs
from moulage.classifiers import probe
from moulage.data.training_view import Examples, TrainingView

SHARES = np.array([0.51, 0.18, 0.13, 0.10, 0.03, 0.03, 0.01, 0.01])
GRID = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]  # of C
Parts = dict[str, Examples]


def drawn(number: int = 6000, num_features: int = 512) -> Parts:
    """Overlapping clouds: means of random directions, and features that are correlated as a network's are."""
    rng = np.random.default_rng(0)
    means, mixing = rng.normal(0, 0.12, (8, num_features)), rng.normal(0, 1, (num_features, num_features))
    mixing *= np.linspace(2, 0.05, num_features)[:, None] / np.sqrt(num_features)

    def part(count: int) -> Examples:
        labels = rng.choice(8, count, p=SHARES / SHARES.sum())
        return Examples(((rng.normal(0, 1, (count, num_features)) @ mixing) + means[labels]).astype(np.float32), labels)

    return {"train": part(number), "validation": part(number // 7), "test": part(number // 3)}


def kept(run: Path) -> Parts:
    """Embeddings and labels of the first split of a study."""
    import pandas as pd

    [folder] = (run / "embeddings").glob("probe-real-*")
    names, rows = runs.read_json(folder / "images.json"), np.load(folder / "inputs.npy", mmap_mode="r")
    split = pd.read_parquet(sorted((run / "splits").iterdir())[0])
    place = {name: row for row, name in enumerate(names)}
    classes = sorted(split["label"].unique())
    found = {}
    for part in ("train", "validation", "test"):
        of_part = split[split["part"] == part]
        labels = np.array([classes.index(label) for label in of_part["label"]])
        found[part] = Examples(np.array(rows[[place[name] for name in of_part["image"]]]), labels)
    return found


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def main(parts: Parts | None = None) -> dict[str, float]:
    parts = parts or drawn()
    train, validation, test = (parts[name] for name in ("train", "validation", "test"))
    classes = tuple(map(str, range(train.labels.max() + 1)))

    def ours(penalty: float | None) -> np.ndarray:
        classifier = probe.Classifier(probe.Config(penalty=penalty), classes)
        with TemporaryDirectory() as folder:
            classifier.fit(TrainingView(train, None, 0), validation, seed=0, folder=Path(folder))
        return classifier.predict(test.inputs)

    mean, std = train.inputs.mean(0), train.inputs.std(0)
    scaled = {name: (part.inputs - mean) / std for name, part in parts.items()}

    def theirs(values: list[float]) -> np.ndarray:
        fits = [LogisticRegression(C=value, max_iter=2000).fit(scaled["train"], train.labels) for value in values]
        losses = [log_loss(validation.labels, fit.predict_proba(scaled["validation"])) for fit in fits]
        return fits[int(np.argmin(losses))].decision_function(scaled["test"])

    warnings.simplefilter("ignore", ConvergenceWarning)
    middle = GRID[len(GRID) // 2]
    with randomness.reproducible("bench"):
        found = {
            "probe": timed(lambda: ours(None)),
            "scikit-learn": timed(lambda: theirs(GRID)),
            "probe, penalty given": timed(lambda: ours(1 / (middle * len(train)))),
            "scikit-learn, C given": timed(lambda: theirs([middle])),
        }
    reached = {name: scores(logits, test.labels) for name, (logits, _) in found.items()}
    for name, (_, seconds) in found.items():
        print(f"{name:22}: " + "  ".join(f"{k} {v:.4f}" for k, v in reached[name].items()) + f"  {seconds:.2f} CPU-s")
    return {
        "probe": found["scikit-learn"][1] / found["probe"][1],
        "probe_given": found["scikit-learn, C given"][1] / found["probe, penalty given"][1],
        "probe_loss": reached["probe"]["log-loss"] - reached["scikit-learn"]["log-loss"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a finished study of the classifier probe")
    given = parser.parse_args().run
    main(kept(given) if given else None)
