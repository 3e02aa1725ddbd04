"""A classifier that was trained: how everything after the training gets at what it says of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moulage import contracts, runs
from moulage.data.catalog import Catalog
from moulage.data.metadata import Encoder
from moulage.data.training_view import Examples
from moulage.evaluation.adjust import adjust, choose_tau, log_prior
from moulage.stages.stored import ByName
from moulage.treatment import Treatment

if TYPE_CHECKING:
    from moulage.stages.classifier import Classifier

VIEW = "view.json"
"""What the arm was trained on and how, for the report; and how its logits were adjusted."""
PREDICT_CHUNK = 512
"""Images predicted between two reports of progress."""
CHUNK = 1024
"""Images whose inputs are held at once."""


@dataclass(frozen=True)
class Trained:
    """A finished classifier of a run.

    Attributes:
        stage: what was trained, and how.
        model: the plug-in's classifier, on ``device``.
        encoder: how the patients' metadata become numbers; None where it reads none.
        strength, prior: of the logit adjustment, the logarithm of how often each class was drawn [K]; None for none.
        device: where it runs.
    """

    stage: Classifier
    model: contracts.Classifier
    encoder: Encoder | None
    strength: float | None
    prior: np.ndarray | None
    device: str

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Trained:
        """The classifier of a finished folder. Call it, and what it does, inside ``randomness.reproducible``.

        Raises:
            RunError: the folder holds none, or a damaged one.
        """
        from moulage.devices import pick_device
        from moulage.stages.classifier import Classifier

        stage, chosen = Classifier.load(folder), str(pick_device(device))
        model = contracts.classifier(stage.plugin).load(folder, device=chosen)
        view: dict[str, Any] = runs.read_json(folder / VIEW)
        strength: float | None = view["logit_adjustment"]
        prior = None if strength is None else np.array(view["log_prior"])
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


def chunks(catalog: Catalog, size: int) -> Iterator[Catalog]:
    """A catalog in pieces of at most ``size`` rows; one without a row is one piece."""
    for first in range(0, max(len(catalog), 1), size):
        yield catalog.take(np.arange(first, min(first + size, len(catalog))))


def encode(encoder: Encoder | None, catalog: Catalog) -> dict[str, Any]:
    """What ``predict`` and ``features`` are given beside the inputs: ``metadata``, or nothing where none are read."""
    return {} if encoder is None else {"metadata": encoder.encode(catalog)}


def examples_of(inputs: ByName, catalog: Catalog, encoder: Encoder | None, masks: np.ndarray | None = None) -> Examples:
    """Inputs, labels and, where the classifier reads them, metadata of these images; with the masks that it learns."""
    return Examples(inputs(catalog), catalog.labels, encode(encoder, catalog).get("metadata"), masks)


def predict_parts(
    model: contracts.Classifier,
    parts: Mapping[str, Catalog],
    inputs: ByName,
    encoder: Encoder | None,
    progress: runs.Progress = runs.no_progress,
) -> dict[str, np.ndarray]:
    """Logits float32 [N, K] of each part, some images at a time: with many views this takes minutes."""
    done, total = 0, sum(len(rows) for rows in parts.values())
    logits: dict[str, np.ndarray] = {}
    for part, rows in parts.items():
        found: list[np.ndarray] = []
        for chunk in chunks(rows, PREDICT_CHUNK):
            found.append(model.predict(inputs(chunk), **encode(encoder, chunk)))
            done += len(chunk)
            progress(done, total, f"images predicted, {part} part")
        logits[part] = np.concatenate(found)
    return logits


def adjust_logits(
    logits: dict[str, np.ndarray],
    chosen_on: np.ndarray,
    counts: np.ndarray,
    treatment: Treatment,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Adjust the logits [N, K] of every part in place of what they were, as strongly as suits the validation part.

    The prior is how often each class was drawn in training: its share of the images, or what the treatment's weights
    make of it; a head that was trained anew was trained with balanced classes.

    Args:
        logits: by part; those of ``"validation"`` choose the strength.
        chosen_on: labels of the validation part, int64 [n].
        counts: images of each class that were trained on, int64 [K].

    Returns:
        For ``view.json``: ``logit_adjustment`` (the strength), ``log_prior`` [K], ``notes``.
    """
    drawn = np.ones(len(classes)) if treatment.retrain_head else np.asarray(treatment.class_weights or counts, float)
    prior = log_prior(drawn)
    tau = choose_tau(logits["validation"], chosen_on, prior)
    for part, values in logits.items():
        logits[part] = adjust(values, prior, tau)
    absent = [name for k, name in enumerate(classes) if k not in chosen_on]
    note = f"The strength of the logit adjustment was chosen without {', '.join(absent)}: no validation image."
    return {"logit_adjustment": tau, "log_prior": prior.tolist(), "notes": [note] if absent else []}
