"""Draws the images that arms add or select from: as many of each class as the greediest arm wants."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moulage import contracts
from moulage.data.catalog import REAL, Catalog
from moulage.data.samples import check_parents, check_provenance, prove_files
from moulage.errors import LeakError
from moulage.stages.generator import Generator, draw
from moulage.stages.parents import Chooser
from moulage.stages.stage import Context, Stage
from moulage.stages.witness import AGAIN, Known, Witness, names_digest, origins_of, parents_digest

SEEDS_PER_TRIAL = 1_000_000
"""Samples of trial t are drawn from the seeds t * SEEDS_PER_TRIAL + 0, 1, 2 ..."""


@dataclass(frozen=True)
class Samples(Stage):
    """Images of one generator in one trial, drawn in one way."""

    kind: ClassVar[str] = "samples"
    place: ClassVar[str] = "samples"

    generator: Generator
    drawing: dict[str, Any]  # the plug-in's options of drawing, all of them
    counts: dict[str, int]  # of each class
    first_seed: int  # the others follow it
    masks: str = ""  # names the lesion masks by which images are edited; empty where none is looked at

    @property
    def series(self) -> list[Any]:
        """What the images depend on beside their seeds; of two stages that share it, one has the other's first ones."""
        return [self.generator.folder, self.drawing, self.masks]

    def run(self, at: Context) -> Witness:
        fitted, out = at.run / self.generator.folder, at.run / self.folder
        drawn = draw(
            fitted,
            self.counts,
            self.first_seed,
            out,
            drawing=self.drawing,
            data=(at.prepared, self.trial),
            device=at.device,
            progress=at.progress,
        )
        split = ",".join(sorted(set(drawn.table["split_digest"])))  # a comma, of two splits, matches no digest
        return Witness(
            split,
            origins=origins_of(drawn),
            num_images=len(drawn),
            drawn=names_digest(drawn.images),
            parents=parents_digest(drawn),
        )

    def check(self, known: Known) -> None:
        known.same_split(self)
        seen, samples = known.of(self), Catalog.load(known.run / self.folder / "catalog.parquet")
        check_provenance(samples, known.split(self).digest)
        real = samples.only(origin=REAL)
        if len(real):
            raise LeakError(f'{self.folder}: the real image "{real.images[0]}" is among the samples.', AGAIN)
        expected, names = [Path(self.generator.folder).name], origins_of(samples)
        if seen.origins != expected or names != expected:
            strange = sorted({*seen.origins, *names} - set(expected))
            raise LeakError(f"{self.folder}: samples were drawn by {', '.join(strange)}, not by {expected[0]}.", AGAIN)
        if seen.drawn != names_digest(samples.images):
            raise LeakError(f"{self.folder}: its catalog lists other images than were drawn.", AGAIN)
        self._check_parents(known, samples)
        prove_files(samples)

    def _check_parents(self, known: Known, samples: Catalog) -> None:
        """Every edited image was made of the training image that its seed has; no other image has a parent."""
        if known.of(self).parents != parents_digest(samples):
            raise LeakError(f"{self.folder}: its catalog names other parents than its images were made of.", AGAIN)
        check_parents(samples, known.part(self, "train"))
        plug, fitted = contracts.generator(self.generator.plugin), self.generator
        edit = plug.edit(self.drawing)
        chooser = Chooser(known.prepared, self.trial, edit, fitted.size) if edit else None
        for label in fitted.classes:
            rows = samples.only(label=label).table
            found, expected = rows["parent"].to_numpy(object), np.full(len(rows), "", object)
            if chooser and len(rows):
                expected = chooser.rows(label, rows["seed"].to_numpy(np.int64)).images
            wrong = np.flatnonzero(found != expected)
            if len(wrong):
                image, named, own = (values[wrong[0]] for values in (rows["image"].to_numpy(object), found, expected))
                raise LeakError(f'{self.folder}: {image} names "{named}" as its parent, not "{own}".', AGAIN)
