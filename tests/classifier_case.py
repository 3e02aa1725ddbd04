"""A classifier of each kind with small data, in the form that it asks for: for every test that trains one."""

from pathlib import Path
from typing import Any

import numpy as np

from moulage import plugins
from moulage.data.training_view import Examples, TrainingView

CLASSES = ("AK", "BKL", "NV")
SIZE = 32
DESCENT = {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "choose": "balanced_accuracy"}
"""A probe by gradient steps: ``Case("probe", descent=DESCENT)``."""
TINY = {"name": "test_efficientnet", "weights": "scratch"}
OPTIONS: dict[str, dict[str, Any]] = {
    "probe": {"size": SIZE, "backbone": TINY},
    "metadata": {},
    "finetune": {
        "size": SIZE,
        "backbone": TINY,
        "epochs": 3,
        "batch_size": 8,
        "backbone_learning_rate": 1e-2,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "ema_decay": 0.5,
        "choose": "balanced_accuracy",
        "views": {},
        "clip_norm": 0,
    },
}


def pictures(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy squares whose colour tells the class: uint8 [N, SIZE, SIZE, 3] and int64 [N]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = rng.integers(60, 120, (len(labels), SIZE, SIZE, 3))
    for image, label in zip(pixels, labels, strict=True):
        top, left = rng.integers(0, SIZE // 2, 2)
        image[top : top + 16, left : left + 16, label] += 120
    return pixels.astype(np.uint8), labels


class Case:
    """A classifier and its data: ``pictures``, and where asked metadata that tell the class too."""

    def __init__(self, name: str, *, metadata: bool = False, blind: bool = False, **options: Any) -> None:
        """``blind``: images are of one random grey each, so that they tell nothing."""
        self.name, self.metadata, self.blind = name, metadata, blind
        self.module = plugins.load("classifiers", name)
        self.config = plugins.configure("classifiers", name, {**OPTIONS[name], **options})
        counts = [(20, 20, 20), (10, 10, 10), (2, 2, 2)] if blind else [(30, 24, 5), (10, 9, 6), (0, 0, 8)]
        self.train, self.validation, self.extra = (self.examples(count, i) for i, count in enumerate(counts, 1))
        self.view = TrainingView(self.train, self.extra, 12)

    def examples(self, counts: tuple[int, ...], seed: int) -> Examples:
        pixels, labels = pictures(counts, seed)
        rng = np.random.default_rng(seed)
        if self.blind:
            pixels = np.tile(rng.integers(0, 255, (len(labels), 1, 1, 1), np.uint8), (1, SIZE, SIZE, 3))
        known = np.float32(np.eye(3)[labels] * 2 + rng.normal(0, 0.1, (len(labels), 3))) if self.metadata else None
        inputs = self.module.embed(self.config, pixels) if hasattr(self.module, "embed") else pixels
        return Examples(inputs, labels, known)

    def new(self, classes: tuple[str, ...] = CLASSES) -> Any:
        return self.module.Classifier(self.config, classes)

    def fitted(self, folder: Path, seed: int = 0, view: TrainingView | None = None, **options: Any) -> Any:
        classifier = self.new()
        classifier.fit(view or self.view, self.validation, seed=seed, folder=folder, **options)
        return classifier

    def predict(self, classifier: Any) -> np.ndarray:
        """Logits of the validation part."""
        return classifier.predict(self.validation.inputs, self.validation.metadata)
