"""What ``finetune`` scores with its defaults, and what it costs, beside the plainest loop of timm's parts.

    python benchmarks/bench_finetune_scores.py                                        # images drawn by code
    python benchmarks/bench_finetune_scores.py --source isic2019 --data FOLDER        # real ones

Both start from the same ImageNet weights of Lite0, learn from the same images of one split (no lesion crosses), see
equally many of them, and predict the same test part after the last epoch. The peer is ``timm_peer.py``: AdamW at the
same learning rate for all weights, a cosine after one epoch of warm-up, nearly the same augmentation. Ours is
``finetune.Config()`` but for the sizes named below. Images lie as PNG at the size that is seen, so that decoding is
cheap for the peer. CPU time (user and system) of one thread, of training and predicting; several seeds in turns.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss, roc_auc_score
from timm.models import create_model

import timm_peer
from bench_cache import cpu_seconds
from bench_dcgan import ALLOCATOR
from moulage import backbones, randomness
from moulage import recipe as recipes
from moulage.classifiers import finetune
from moulage.data.training_view import Examples, TrainingView
from moulage.evaluation.predictions import log_softmax
from moulage.stages import data

OURS, PEER = "finetune", "timm"
PARTS = ("train", "validation", "test")
Options = argparse.Namespace
Scores = dict[str, float]


def read(options: Options, run: Path) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Pixels and labels of each part, the training part cut to ``--images``, and the names of the classes."""
    about = {} if options.data is None else {"path": str(options.data)}
    recipe = recipes.parse(
        {
            "study": {"name": "bench", "primary": "auc"},
            "data": {"source": options.source, **about, "fit": "squash"},
            "classifier": {"plugin": OURS, "options": {"size": options.size}},
            "arms": {"none": {"balance": "none"}},
        }
    )
    prepared, found = data.prepare(recipe, run), {}
    for part in PARTS:
        catalog = prepared.part(0, part)
        if part == "train":
            rows = np.random.default_rng(0).permutation(len(catalog))[: options.images]
            catalog = catalog.take(np.sort(rows))
        if len(
            missing := set(catalog.classes) - set(catalog.table["label"])
        ):  # ImageFolder numbers those that it finds
            raise SystemExit(f"The {part} part has no image of {', '.join(sorted(missing))}: take more images.")
        found[part] = Examples(prepared.images(catalog, options.size), catalog.labels)
    return found, prepared.catalog.classes


def write(parts: dict[str, Examples], classes: tuple[str, ...], folder: Path) -> None:
    """``folder/PART/CLASS/NUMBER.png``: timm's ImageFolder, whose classes are in alphabetical order."""
    for part, examples in parts.items():
        for i, (pixels, label) in enumerate(zip(examples.inputs, examples.labels, strict=True)):
            path = folder / part / classes[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)


def scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Of logits [N, K] and labels [N], by scikit-learn; mean over the classes that occur."""
    says = np.exp(log_softmax(logits))
    says /= says.sum(1, keepdims=True)
    occur = np.unique(labels)
    return {
        "log-loss": float(log_loss(labels, says, labels=range(says.shape[1]))),
        "macro AP": float(np.mean([average_precision_score(labels == k, says[:, k]) for k in occur])),
        "AUC": float(np.mean([roc_auc_score(labels == k, says[:, k]) for k in occur])),
        "balanced accuracy": float(balanced_accuracy_score(labels, says.argmax(1))),
    }


def ours(parts: dict[str, Examples], classes: tuple[str, ...], seed: int, options: Options, out: Path) -> Scores:
    asked = {"size": options.size, "epochs": options.epochs, "precision": "fp32"}
    config = finetune.Config.model_validate(asked)
    steps = len(parts["train"]) // config.batch_size  # as timm, which leaves out a last batch that is not full
    classifier = finetune.Classifier(config.model_copy(update={"steps_per_epoch": steps}), classes)
    classifier.fit(TrainingView(parts["train"], None, 0), parts["validation"], seed=seed, folder=out)
    return scores(classifier.predict(parts["test"].inputs), parts["test"].labels)


def peer(folder: Path, num_classes: int, seed: int, options: Options, out: Path) -> Scores:
    with randomness.reproducible("peer", seed):
        config = finetune.Config()
        model = create_model(config.backbone.name, num_classes=num_classes)
        model.load_state_dict(backbones.build(config.backbone, options.size).network.state_dict(), strict=False)
        sizes = {"size": options.size, "batch_size": config.batch_size}
        for _ in timm_peer.epochs(model, folder, out, number=options.epochs, channels_last=True, **sizes):
            pass
        return scores(*timm_peer.predict(model, folder, "test", **sizes))


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="phantom")
    parser.add_argument("--data", type=Path, help="the folder of a source that has one")
    parser.add_argument("--images", type=int, default=1000, help="training images, at most")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, list[Scores]] = {OURS: [], PEER: []}
    with tempfile.TemporaryDirectory() as scratch:
        parts, classes = read(options, Path(scratch) / "run")
        write(parts, classes, Path(scratch) / "images")
        for seed, name in itertools.product(range(options.seeds), found):
            start, out = cpu_seconds(), Path(scratch) / f"{name}-{seed}"
            out.mkdir()
            if name == OURS:
                result = ours(parts, classes, seed, options, out)
            else:
                result = peer(Path(scratch) / "images", len(classes), seed, options, out)
            found[name].append({**result, "CPU s": cpu_seconds() - start})
    sizes = ", ".join(f"{len(examples)} {part}" for part, examples in parts.items())
    print(f"{options.source} at {options.size} pixels, {sizes} images, {options.epochs} epochs, {options.seeds} fits:")
    mean = {name: {key: statistics.mean(fit[key] for fit in fits) for key in fits[0]} for name, fits in found.items()}
    for key in mean[OURS]:
        columns = "".join(
            f"{name:>12} {mean[name][key]:8.3f} ({', '.join(f'{fit[key]:.3f}' for fit in fits)})"
            for name, fits in found.items()
        )
        print(f"    {key:20}{columns}")
    result = {key: mean[OURS][key] - mean[PEER][key] for key in ("log-loss", "macro AP", "AUC")}
    print(f"    ours - timm's: {', '.join(f'{key} {value:+.3f}' for key, value in result.items())}")
    return result


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    main()
