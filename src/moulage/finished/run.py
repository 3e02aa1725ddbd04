"""A finished study, loaded: recipe, data, results, and its classifiers, which are proven to be of these splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moulage import results, runs
from moulage.errors import RunError
from moulage.evaluation.predictions import Predictions
from moulage.recipe import Recipe
from moulage.results import Results
from moulage.stages import data
from moulage.stages.classifier import Classifier
from moulage.stages.data import Prepared

AGAIN = "Run `moulage study` with the same recipe and folder again."


@dataclass(frozen=True)
class Finished:
    """A run folder whose study has ended."""

    run: Path  # the folder
    recipe: Recipe  # what was asked, of which data, and what was found
    prepared: Prepared
    results: Results
    stages: tuple[Classifier, ...]  # the classifiers, in the order of ``results.fits``

    @classmethod
    def load(cls, run: Path) -> Finished:
        """Raises ``RunError`` where the study is not finished, or a classifier is gone or of another split."""
        recipe, prepared = data.load(run)
        if not (run / results.FILE).exists():
            raise RunError(f"The study in {run} is not finished: it has no {results.FILE}.", AGAIN)
        found = results.load(run)
        for fit in found.fits:
            folder = run / fit.folder
            if not runs.is_done(folder):
                raise RunError(f"The classifier in {folder} is not finished.", AGAIN)
            trained_on = Predictions.load(folder / "test.parquet").split_digest
            if trained_on != prepared.split(fit.trial).digest:
                raise RunError(f"The classifier in {folder} was trained on another split, {trained_on}.", AGAIN)
        stages = tuple(Classifier.load(run / fit.folder) for fit in found.fits)
        return cls(run, recipe, prepared, found, stages)

    @property
    def learned(self) -> set[str]:
        """Images that some trial did not only test: those of its training, validation or reserve part."""
        tables = [split.table for split in self.prepared.splits]
        return {image for table in tables for image in table.loc[table["part"] != "test", "image"]}

    @property
    def size(self) -> int:
        """Pixels a side of the images that its classifiers take."""
        return data.classifier_size(self.recipe)
