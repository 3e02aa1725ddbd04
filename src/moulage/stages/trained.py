"""A classifier that was trained: how everything after the training gets at what it says of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moulage import contracts, runs
from moulage.data.catalog import Catalog
from moulage.data.metadata import Encoder
from moulage.evaluation.adjust import adjust
from moulage.stages.classifier import Classifier
from moulage.stages.predicting import VIEW, chunks, encode

CHUNK = 1024
"""Images whose inputs are held at once."""


@dataclass(frozen=True)
class Trained:
    """A finished classifier of a run."""

    stage: Classifier  # what was trained, and how
    model: contracts.Classifier  # the plug-in's classifier, on ``device``
    encoder: Encoder | None  # how the patients' metadata become numbers; None where it reads none
    # of the logit adjustment, the logarithm of how often each class was drawn [K]; None for none
    strength: float | None
    prior: np.ndarray | None
    device: str  # where it runs

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Trained:
        """The classifier of a finished folder. Call it, and what it does, inside ``randomness.reproducible``.

        Raises:
            RunError: the folder holds none, or a damaged one.
            LeakError: its files are not those that it was finished with.
        """
        from moulage.devices import pick_device

        runs.prove_files(folder)
        stage, chosen = Classifier.load(folder), str(pick_device(device))
        model = contracts.classifier(stage.plugin).load(folder, device=chosen)
        view = runs.read_json(folder / VIEW, "logit_adjustment", "log_prior")
        strength: float | None = view["logit_adjustment"]
        with runs.reading(folder / VIEW):
            prior = None if strength is None else np.array(view["log_prior"], float)
        return cls(stage, model, Encoder.load(folder), strength, prior, chosen)

    @property
    def size(self) -> int:
        """Pixels a side of the images that it takes."""
        return contracts.classifier(self.stage.plugin).configure(self.stage.config).size

    def encode(self, catalog: Catalog) -> dict[str, Any]:
        """What ``model`` is given beside the inputs; see the function."""
        return encode(self.encoder, catalog)

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """What ``predict`` and ``features`` take in place of pixels uint8 [N, S, S, 3]: embeddings, or just these."""
        plug = contracts.classifier(self.stage.plugin)
        if plug.embedding is None:
            return pixels
        return plug.embedding.embed(plug.configure(self.stage.config), pixels, device=self.device)

    def predict(self, inputs: np.ndarray, catalog: Catalog) -> np.ndarray:
        """Logits float32 [N, K] of images, adjusted as the study adjusted them; ``catalog``: the same images' rows."""
        return self.adjusted(self.model.predict(inputs, **self.encode(catalog)))

    def adjusted(self, logits: np.ndarray) -> np.ndarray:
        """Logits [N, K] of the model as the study reports them."""
        return logits if self.strength is None or self.prior is None else adjust(logits, self.prior, self.strength)

    def features(
        self, of: Callable[[Catalog], np.ndarray], catalog: Catalog, done: Callable[[int], None] = lambda number: None
    ) -> np.ndarray:
        """What is under the head, float32 [N, D], some images at a time.

        Args:
            of: the inputs of some rows, such as ``stage.inputs(...)``.
            catalog: which images.
            done: told after each chunk how many images it had.
        """
        found: list[np.ndarray] = []
        for rows in chunks(catalog, CHUNK):
            found.append(self.model.features(of(rows), **self.encode(rows)))
            done(len(rows))
        return np.concatenate(found)
