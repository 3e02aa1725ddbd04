"""Trains one arm's classifier in one trial, and keeps what it predicts for the validation and the test part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from moulage import contracts, runs
from moulage.arm import arms_of
from moulage.data import masks, replacing
from moulage.data.catalog import REAL, Catalog
from moulage.data.metadata import Encoder, lend
from moulage.data.samples import check_parents, check_provenance
from moulage.data.split import RESERVE
from moulage.data.training_view import TrainingView
from moulage.errors import LeakError, RecipeError, RunError
from moulage.evaluation.predictions import Predictions
from moulage.plugins import names
from moulage.recipe import Recipe
from moulage.recipe_tables import METADATA
from moulage.runs import seed_of
from moulage.stages.data import Prepared
from moulage.stages.embedding import Embedding
from moulage.stages.predicting import VIEW, examples_of, predict_parts, set_operating_point
from moulage.stages.samples import Samples
from moulage.stages.selection import Selection
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import ByName, embedded, given_digest, pixels_of
from moulage.stages.witness import (
    AGAIN,
    HELD_OUT,
    IN_PLACE_OF,
    ROW,
    Known,
    Witness,
    fitted,
    names_digest,
    origins_of,
    prove_predictions,
    read_columns,
    rows_digest,
)
from moulage.treatment import Ways
from moulage.use import Use

EXTRA = "extra.parquet"
"""The rows that the arm added, with the columns by which they are known."""


@dataclass(frozen=True)
class Classifier(Stage):
    """The classifier of an arm (``name``) in one trial."""

    kind: ClassVar[str] = "classifier"
    place: ClassVar[str] = "classifiers"

    plugin: str  # the plug-in and its options
    config: dict[str, Any]
    classes: tuple[str, ...]  # that it tells apart
    seed: int  # of everything random in the training; the same for all arms of a trial
    split: str  # digest of the trial's split
    ways: Ways  # how the arm answers imbalance
    use: Use  # what is done with the images that it adds
    add: dict[str, int]  # images that it adds to each class
    num_slots: int  # the most that any arm needs; how many more images than the real ones an epoch holds
    samples: Samples | None  # generated images that it adds, and which of them were kept
    selection: Selection | None
    given: str  # a folder of samples from elsewhere, and a digest of what it lists; empty for none
    given_digest: str
    # of all images that it reads, where its plug-in reads embeddings: of the real ones by each network, then of others
    embeddings: tuple[Embedding, ...]
    weights: dict[str, float]  # how often an image of a further data set is shown, for once an image of the main one
    metadata: tuple[str, ...]  # columns that it reads of the patient
    masks: str  # names the lesion masks that it learns; empty for none

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        chosen = recipe.classifier
        plug = contracts.classifier(chosen.plugin)
        config = plug.configure(chosen.options, "classifier.options")
        _check_metadata(recipe, plug.metadata)
        for arm in arms_of(recipe).values():
            arm.check()
        if recipe.arms and plug.embedding:
            plug.embedding.key(config)

    @property
    def takes_time(self) -> str:
        return self.plugin

    def identity(self) -> dict[str, Any]:
        """An arm goes by the series that its images are of, not by the folder of samples: another arm that asks the
        same generator for more images changes that folder, but not the first images in it. Embeddings follow from it.
        """
        series = self.samples.series if self.samples else ""
        return {**super().identity(), "samples": series, "embeddings": self.embedding_keys}

    @property
    def embedding_keys(self) -> list[str]:
        """Names of the features that it reads, in their order, a name a network; none where it reads pixels."""
        return list(dict.fromkeys(each.key for each in self.embeddings))

    @property
    def _model(self) -> tuple[contracts.ClassifierPlugin, Any]:
        plug = contracts.classifier(self.plugin)
        return plug, plug.configure(self.config)

    def num_images(self, prepared: Prepared) -> int:
        return len(prepared.part(self.trial, "train")) + self.num_slots

    def alike(self) -> tuple[Any, ...]:
        return self.plugin, self.config

    def seconds(self, num_images: int, device: str) -> float:
        plug, config = self._model
        num_steps, a_step = plug.Classifier(config, self.classes).steps_and_seconds(num_images, device=device)
        return num_steps * a_step

    def run(self, at: Context) -> Witness:
        """Nothing but the training part, and what the arm adds to it, is trained on; what is chosen (an epoch, the
        operating point) is chosen on the validation part. The test part is predicted at the end.
        """
        folder = at.run / self.folder
        train, extra = at.prepared.part(self.trial, "train"), self.extra(at.prepared, at.run)
        parts = {part: at.prepared.part(self.trial, part) for part in HELD_OUT}
        inputs, encoder = self.inputs(at.prepared, at.run), Encoder.fit(train, self.metadata) if self.metadata else None
        view = self._view(at.prepared, inputs, encoder, train, extra)
        chosen_on = examples_of(inputs, parts["validation"], encoder)
        counts = view.counts(len(self.classes))
        treatment = self.ways.treat(counts)
        plug, config = self._model
        model = plug.Classifier(config, self.classes)
        model.fit(
            view,
            chosen_on,
            seed=self.seed,
            folder=folder,
            device=at.device,
            progress=at.progress,
            treatment=treatment,
        )
        model.save(folder)
        if encoder is not None:
            encoder.save(folder)
        logits = predict_parts(model, parts, inputs, encoder, at.progress)
        predicted, point = set_operating_point(logits, parts["validation"], counts, self.ways.strength)
        about: dict[str, Any] = {"arm": self.name, "trial": self.trial, "split_digest": self.split}
        for part in HELD_OUT:
            rows = parts[part]
            said = {"logits": logits[part], "predicted": predicted[part], "part": part}
            found = Predictions(rows.images, rows.groups, rows.labels, classes=self.classes, **said, **about)
            found.save(folder / f"{part}.parquet")
        self._write_view(folder, train, extra, point)
        return self._witness(folder, train, extra, parts)

    def _view(
        self, prepared: Prepared, inputs: ByName, encoder: Encoder | None, train: Catalog, extra: Catalog
    ) -> TrainingView:
        """Metadata are encoded as the training part has them; lesion masks are those of the training part alone."""
        of_train, of_extra = self.lesion_masks(prepared, train, extra) if self.masks else (None, None)
        added = examples_of(inputs, self.with_metadata(extra, train), encoder, of_extra) if len(extra) else None
        weights, real = weights_of(self.weights, train, extra), examples_of(inputs, train, encoder, of_train)
        return TrainingView(real, added, self.num_slots, weights, self.use, self._in_place_of(extra.table, train))

    def _in_place_of(self, added: pd.DataFrame, train: Catalog) -> np.ndarray | None:
        """The row of the training part whose place each added row takes (``replacing``); None where none leaves."""
        if self.use.way != "replace":
            return None
        return replacing.in_place_of(added["label"].to_numpy(object), train, self._leaving)

    def _left(self, added: pd.DataFrame, train: Catalog) -> np.ndarray:
        """The real image that left for each added row, [len(added)] of str; empty where none did."""
        rows = self._in_place_of(added, train)
        if rows is None:
            return np.full(len(added), "", object)
        return np.where(rows < 0, "", train.images[rows])

    @property
    def _leaving(self) -> np.random.Generator:
        """Draws in which order real images leave; the same for all arms of a trial."""
        return np.random.default_rng(seed_of(self.seed, "replace"))

    def lesion_masks(self, prepared: Prepared, train: Catalog, extra: Catalog) -> tuple[np.ndarray, np.ndarray]:
        """Lesion masks uint8 [N, S, S] of the training images and of what the arm adds; unknown for drawn images."""
        size = self._model[1].size
        kept = masks.build(masks.with_masks(prepared.catalog), size, prepared.framing, filters=prepared.filters)
        real = np.where(extra.table["origin"] == REAL, extra.images, "")
        return masks.read_known(kept, size, train.images), masks.read_known(kept, size, real)

    def with_metadata(self, extra: Catalog, train: Catalog) -> Catalog:
        """What the arm adds, with borrowed metadata for generated images where the classifier reads any."""
        return with_metadata(extra, train, self.seed) if self.metadata else extra

    @property
    def samples_folder(self) -> str:
        """Where its generated images lie: in the run, or in the folder that was given; empty for none."""
        return self.samples.folder if self.samples else self.given

    def inputs(self, prepared: Prepared, run: Path) -> ByName:
        """What it reads of any image of the run: pixels, or kept embeddings."""
        if self.embeddings:
            number = len(self.embedding_keys)
            sets = [self.embeddings[first : first + number] for first in range(0, len(self.embeddings), number)]
            return ByName(embedded(*(run / each.folder for each in one)) for one in sets)
        folders = ["", *filter(None, [self.samples_folder])]
        found = [pixels_of(prepared, run, folder, self._model[1].size) for folder in folders]
        return ByName((catalog.images.tolist(), array) for catalog, array in found)

    def extra(self, prepared: Prepared, run: Path) -> Catalog:
        """The rows that the arm adds to the training part, proven to be allowed there.

        The arm that is a positive control draws from the reserve; any other from its samples.
        """
        train, plug = prepared.part(self.trial, "train"), contracts.balance(self.ways.balance)
        if plug.extend is None:
            return train.take([])
        held_back = prepared.part(self.trial, RESERVE) if self.ways.is_positive else None
        samples, add = held_back, self.add
        if samples is None and self.samples_folder:
            samples = Catalog.load(run / self.samples_folder / "catalog.parquet")
            check_provenance(samples, self.split)
            if self.selection:
                kept = Catalog.load(run / self.selection.folder / "catalog.parquet")
                samples = samples.only(image=kept.images)
                add = {label: min(number, samples.counts[label]) for label, number in add.items()}
        rng = np.random.default_rng(seed_of(self.seed, "balance"))
        # Nothing is copied of what leaves for the copies.
        seen = replacing.staying(train, add, self._leaving) if self.use.way == "replace" else train
        extra = plug.extend(plug.configure(self.ways.balance_config), seen, samples, add, rng)
        check_extra(extra, train, self.split, held_back)
        return extra

    def _write_view(self, folder: Path, train: Catalog, extra: Catalog, point: dict[str, Any]) -> None:
        about = {
            "num_real": len(train) - np.count_nonzero(self._left(extra.table, train)),
            "num_slots": self.num_slots,
            "extra": {name: count for name, count in extra.counts.items() if count},
            "num_distinct": len(set(extra.images)),
            "treatment": " and ".join(self.ways.treatments),
            **point,
        }
        runs.write_json(folder / VIEW, about)

    def _witness(self, folder: Path, train: Catalog, extra: Catalog, parts: dict[str, Catalog]) -> Witness:
        added = extra.table[ROW].assign(**{IN_PLACE_OF: self._left(extra.table, train)})
        with runs.atomic(folder / EXTRA) as temporary:
            added.to_parquet(temporary)
        return fitted(
            self.split,
            train,
            parts["validation"],
            scored_on={part: names_digest(rows.images) for part, rows in parts.items()},
            origins=origins_of(extra),
            extra=rows_digest(added),
            extra_real=names_digest(extra.only(origin=REAL).images),
            seed=self.seed,
            images_seen=sum(record.get("num_images", 0) for record in runs.read_log(folder, "epoch")),
        )

    def check(self, known: Known) -> None:
        known.was_fitted(self, "trained")
        known.was_chosen(self, "the classifier's epoch was chosen on", must=True)
        for part in HELD_OUT:
            known.same_images(self, known.of(self).scored_on.get(part, ""), part, f"{part} scores are of")
        self._check_extra(known)
        if self.given and given_digest(Path(self.given), self.split) != self.given_digest:
            raise LeakError(f"{self.given} holds other samples than the arm {self.name} was given.", AGAIN)
        self.prove_predictions(known.prepared, known.run)

    def _check_extra(self, known: Known) -> None:
        """What the arm added is allowed there, row by row."""
        seen, added = known.of(self), read_columns(known.run / self.folder / EXTRA, [*ROW, IN_PLACE_OF])
        real = set(added["image"][added["origin"] == REAL])
        if seen.extra != rows_digest(added) or seen.extra_real != names_digest(real):
            raise LeakError(f"{self.folder}: {EXTRA} holds other rows than the arm added.", AGAIN)
        held_back = real & set(known.part(self, RESERVE).images)
        who = f"{self.folder}: the arm {self.name} adds"
        if held_back and not self.ways.is_positive:
            raise LeakError(f'{who} "{min(held_back)}", held back for the positive control.', AGAIN)
        strangers = real - held_back - set(known.part(self, "train").images)
        if strangers:
            raise LeakError(f'{who} "{min(strangers)}" from outside its training part.', AGAIN)
        left = self._left(added, known.part(self, "train"))
        if (added[IN_PLACE_OF].to_numpy() != left).any() or real & set(left):
            raise LeakError(f"{self.folder}: other images left for those that came than were to leave.", AGAIN)
        drawn = added[added["origin"] != REAL]
        foreign = sorted(set(drawn["parent"].astype(str)) - {""} - set(known.part(self, "train").images))
        if foreign:
            raise LeakError(f'{who} an image that was made of "{foreign[0]}", from outside its training part.', AGAIN)
        other = drawn[drawn["split_digest"] != known.split(self).digest]
        if len(other):
            raise LeakError(
                f'{self.folder}: "{other["image"].iloc[0]}" was drawn by a generator fitted on the split '
                f"{other['split_digest'].iloc[0]}, not on {known.split(self).digest}.",
                AGAIN,
            )
        origins = sorted(set(drawn["origin"]))
        if seen.origins != origins:
            raise LeakError(f"{self.folder}: {EXTRA} names other generators than the arm drew from.", AGAIN)
        if self.selection:
            kept = read_columns(known.run / self.selection.folder / "catalog.parquet", ["image"])
            unselected = sorted(set(drawn["image"]) - set(kept["image"]))
            if unselected:
                raise LeakError(f'{who} "{unselected[0]}", which {self.selection.folder} dropped.', AGAIN)
        sources = {name for stage in (self.samples, self.selection) if stage for name in known.of(stage).origins}
        strange = [name for name in origins if name not in sources]
        if strange and not self.given:  # a folder from elsewhere: its rows alone tell the split
            raise LeakError(f"{who} images of {strange[0]}, which is not its generator.", AGAIN)

    def prove_predictions(self, prepared: Prepared, run: Path) -> None:
        """Raise ``LeakError`` where a file of its predictions is not of the part of the split that it is called by."""
        about = {"arm": self.name, "trial": self.trial, "split_digest": prepared.split(self.trial).digest}
        for part in HELD_OUT:
            path, real = run / self.folder / f"{part}.parquet", set(prepared.catalog.images)
            prove_predictions(path, prepared.part(self.trial, part), {**about, "part": part}, real)

    @classmethod
    def check_together(cls, known: Known, stages: Sequence[Stage]) -> None:
        """The arms of a trial are paired: one split, one seed, the same images scored, as many images seen."""
        first: dict[int, Stage] = {}
        for stage in stages:
            reference = first.setdefault(stage.trial, stage)
            seen, expected = known.of(stage), known.of(reference)
            for key in ("split_digest", "seed", "scored_on"):
                if getattr(seen, key) != getattr(expected, key):
                    raise LeakError(
                        f"{stage.folder} and {reference.folder} are of one trial, but differ in {key}.", AGAIN
                    )
            if seen.images_seen != expected.images_seen:
                raise RunError(
                    f"{stage.folder} saw {seen.images_seen} images in training, {reference.folder} "
                    f"{expected.images_seen}: a difference between them could be one of steps.",
                    "Delete both folders, and run the same command again.",
                )


def with_metadata(extra: Catalog, train: Catalog, seed: int) -> Catalog:
    """Added rows, generated ones with metadata of training images; arms of one seed borrow alike."""
    return lend(extra, train, np.random.default_rng(seed_of(seed, "metadata")))


def weights_of(weights: Mapping[str, float], train: Catalog, extra: Catalog) -> np.ndarray | None:
    """The weights of the real images and then of what an arm adds, float64 [n]; None for all alike.

    ``weights``: of data sets. A copy weighs what its image does, and a drawn image 1.
    """
    names = [*train.table["data_set"], *extra.table["data_set"]]
    return np.array([weights.get(name, 1.0) for name in names], np.float64) if weights else None


def check_extra(extra: Catalog, train: Catalog, split_digest: str, reserve: Catalog | None = None) -> None:
    """What an arm adds is a real image of the training part, or made of one, or was drawn by who saw only that part.

    Args:
        extra: the rows that are added.
        train: the training part.
        split_digest: digest of the split.
        reserve: the images that were held back, for the one arm that may add them.

    Raises:
        LeakError: naming an image that is none of these.
    """
    check_provenance(extra.take((extra.table["origin"] != REAL).to_numpy()), split_digest)
    check_parents(extra, train)
    allowed = set(train.images) if reserve is None else set(train.images) | set(reserve.images)
    strangers = set(extra.only(origin=REAL).images) - allowed
    if strangers:
        raise LeakError(f'The arm adds the real image "{min(strangers)}", which is not in the training part.')


def _check_metadata(recipe: Recipe, reads: str) -> None:
    """The classifier reads the metadata that the recipe gives it, and is given those that it cannot do without."""
    chosen = recipe.classifier
    if chosen.metadata and not reads:
        able = [name for name in names("classifiers") if contracts.classifier(name).metadata]
        raise RecipeError(
            f'classifier.metadata: the classifier "{chosen.plugin}" reads images alone.',
            f"Leave it out, or use one of {', '.join(able)}.",
        )
    if reads == "required" and not chosen.metadata:
        raise RecipeError(
            f'classifier.metadata: the classifier "{chosen.plugin}" reads nothing else, and it is empty.',
            f"Set some of {', '.join(METADATA)}.",
        )
