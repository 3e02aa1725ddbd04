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
from moulage.evaluation.operating_point import decide
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
    strength: float  # of its operating point; 0: the most probable class is said
    prior: np.ndarray  # log of the class shares that it was trained on [K]
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
        view = runs.read_json(folder / VIEW, "strength", "log_prior")
        with runs.reading(folder / VIEW):
            strength, prior = float(view["strength"]), np.array(view["log_prior"], float)
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
        """Logits float32 [N, K] of images; ``catalog``: the same images' rows."""
        return self.model.predict(inputs, **self.encode(catalog))

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """The class that it says, int64 [N], by its logits [N, K] at the operating point that the study set."""
        return decide(logits, self.prior, self.strength)

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
