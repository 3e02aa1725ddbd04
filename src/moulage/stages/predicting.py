"""From a trained classifier to what is kept of it: examples, logits part by part, and their adjustment."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moulage import contracts, runs
from moulage.data.catalog import Catalog
from moulage.data.metadata import Encoder
from moulage.data.training_view import Examples
from moulage.evaluation.adjust import adjust, choose_tau, log_prior
from moulage.stages.stored import ByName
from moulage.treatment import Treatment

VIEW = "view.json"
"""What the arm was trained on and how, for the report; and how its logits were adjusted."""
PREDICT_CHUNK = 512
"""Images predicted between two reports of progress."""


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
