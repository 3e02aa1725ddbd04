"""From a trained classifier to what is kept of it: examples, logits part by part, and the classes that are said."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from moulage import contracts, runs
from moulage.data.catalog import Catalog
from moulage.data.metadata import Encoder
from moulage.data.training_view import Examples
from moulage.evaluation.operating_point import choose_strength, decide, log_prior
from moulage.stages.stored import ByName

VIEW = "view.json"
"""What the arm was trained on and how, for the report; and its operating point."""
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


def set_operating_point(
    logits: Mapping[str, np.ndarray], chosen_on: Catalog, counts: np.ndarray, strength: float | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Which class is said of each image of every part, at one operating point; see ``evaluation.operating_point``.

    The prior is the share of each class among the rows that were trained on, real and added, however a treatment weighs
    or draws them: what that changes in the logits is for the strength to find.

    Args:
        logits: [N, K] by part.
        chosen_on: the validation part, of the logits ``"validation"``.
        counts: images of each class that were trained on, int64 [K].
        strength: of the adjustment; None: it is chosen on the validation part.

    Returns:
        The classes that are said, int64 [N] by part; and for ``view.json`` ``strength``, ``log_prior`` [K], ``notes``.
    """
    prior, notes = log_prior(counts), list[str]()
    if strength is None:
        absent = [name for k, name in enumerate(chosen_on.classes) if k not in chosen_on.labels]
        notes = [f"The operating point was chosen without {', '.join(absent)}: no validation image."] if absent else []
        strength = choose_strength(logits["validation"], chosen_on.labels, prior)
    said = {part: decide(values, prior, strength) for part, values in logits.items()}
    return said, {"strength": strength, "log_prior": prior.tolist(), "notes": notes}
