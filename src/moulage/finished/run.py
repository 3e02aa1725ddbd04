"""A finished study, loaded: recipe, data, results, and its classifiers, which are proven to be of these splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moulage import openings, results, runs
from moulage.errors import LeakError, RunError
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
        """Raises ``RunError`` where the study is not finished or a classifier is gone, else as ``proven``."""
        recipe, prepared = data.load(run)
        if not (run / results.FILE).exists():
            raise RunError(f"The study in {run} is not finished: it has no {results.FILE}.", AGAIN)
        found = results.load(run)
        stages = tuple(proven(run, prepared, fit.folder) for fit in found.fits)
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


def proven(run: Path, prepared: Prepared, folder: str) -> Classifier:
    """The classifier in a folder of a run, its predictions and weights proven to be those of its fit and split.

    Whoever asks looks at what it says of the test part, and is noted (``openings``). ``RunError``: it is not finished.
    ``LeakError``: it was trained on another split, or a file was exchanged; the message names it.
    """
    if not runs.is_done(run / folder):
        raise RunError(f"The classifier in {run / folder} is not finished.", AGAIN)
    openings.opened(run / folder / openings.TEST)
    stage = Classifier.load(run / folder)
    if stage.split != prepared.split(stage.trial).digest:
        raise LeakError(f"The classifier in {run / folder} was trained on another split, {stage.split}.", AGAIN)
    stage.prove_predictions(prepared, run)
    runs.prove_files(run / folder)
    return stage
