"""Scores the classifiers of a finished study on another data set, less the images that both have.

A result holds for the data that it was found on. Other data, from elsewhere, say whether it travels, but only images
that no classifier was trained on: archives of dermoscopy share photographs, so the overlap is looked for first.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moulage import contracts, runs
from moulage.data import joined_sets
from moulage.data.audit import Audit, audit
from moulage.data.catalog import Catalog
from moulage.data.class_map import map_classes
from moulage.data.identity import Shown
from moulage.data.metadata import Encoder
from moulage.data.pixels import Pixels
from moulage.data.samples import safe_names
from moulage.errors import DataError
from moulage.evaluation.compare import compare_all
from moulage.evaluation.measure_names import parse
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.scores import scores_of
from moulage.finished.run import Finished
from moulage.stages import data
from moulage.stages.classifier import Classifier
from moulage.stages.predicting import chunks
from moulage.stages.trained import CHUNK, Trained

NUM_NAMED = 200
"""Overlapping images that the summary names."""


def evaluate_on(
    run: Path,
    source: str,
    path: Path | None,
    options: Mapping[str, Any],
    class_map: Mapping[str, str],
    *,
    device: str = "auto",
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score every classifier of a finished run on another data set, and compare the arms there.

    Left out of the score are images that the run's training, validation or reserve part holds too (the same bytes, the
    same name, the same lesion, near-duplicates), and all images of a lesion of which one is left out. Predictions that
    were made before are kept. Everything is written to ``run/external/<name>-<hash>/``: a file of predictions for each
    classifier, named like its folder, and ``summary.json``.

    ``source``, ``path`` and ``options`` are the plug-in that reads the other data, and what it is given. ``class_map``
    is their class -> ours, or -> ``""`` to leave it out; a class of the same name needs no entry. Returned is what
    ``summary.json`` holds, and ``folder``: ``data``, ``classes`` (``map``, ``left_out``, ``absent``), ``unusable``
    (image -> reason), ``overlap`` (``num_images``, ``by_reason``, ``images``, ``num_in_test``), ``num_images``,
    ``num_lesions``, ``counts``, ``fits`` (``arm``, ``trial``, ``predictions``, ``scores``), ``measure``, ``targets``,
    ``comparisons`` and ``notes``, sentences on what limits all this.
    ``RunError``: the study is not finished. ``RecipeError``: a class of ``class_map``, the source or one of its options
    does not exist. ``DataError``: no class of the other data is one of ours, or no image is left to score.
    """
    done = Finished.load(run)
    ours, size, plug = done.prepared.catalog.classes, done.size, contracts.source(source)
    found = plug.read(path, plug.configure(options, "options"))
    classes = map_classes(found, ours, class_map)
    _say(say, f"{found.name}: {len(found):,} images", *classes.notes)
    mapped = classes.apply(found, ours)
    pixels = data.pixels_of(done.recipe, mapped, (size,), progress=progress)
    report = audit(mapped, pixels, progress)
    kept, overlap, left = _kept(done, report, mapped, pixels, progress)
    _say(say, *left)
    key = runs.digest(runs.FORMAT, pixels.folder.name, size, kept.digest)
    folder = run / "external" / f"{safe_names([found.name])[found.name]}-{key}"
    with runs.lock(folder):
        scorer = _Scorer(kept, pixels, size, folder, key, device)
        fits, unseen = list(scorer.predict(done, progress)), _unseen(done, kept)
        _say(say, *unseen)
        compared = _compare(done, fits, kept)
        summary = {
            "format": runs.FORMAT,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "data": {"name": found.name, "source": source, "note": found.note, "num_images": len(found)},
            "classes": {"map": classes.ours, "left_out": classes.left_out, "absent": classes.absent},
            "unusable": report.quarantined,
            "overlap": overlap,
            "num_images": len(kept),
            "num_lesions": len(set(kept.groups)),
            "counts": kept.counts,
            "fits": [_fit(fit, scorer.path(stage)) for stage, fit in zip(done.stages, fits, strict=True)],
            **compared,
            "notes": [*classes.notes, *left, *unseen, *compared["notes"]],
        }
        runs.write_json(folder / "summary.json", summary)
    return {**summary, "folder": str(folder)}


def _say(say: Callable[[str], None], *lines: str) -> None:
    for line in lines:
        say(line)


def _kept(
    done: Finished, report: Audit, mapped: Catalog, pixels: Pixels, progress: runs.Progress
) -> tuple[Catalog, dict[str, Any], tuple[str, ...]]:
    """The images that are scored, what the run has too (``_Shared.facts``), and sentences on all that is left out."""
    clean, unusable = report.clean(mapped), report.in_brief()
    shared = _shared(done, clean, pixels, progress)
    kept = clean.take(~np.isin(clean.images, shared.left_out))
    if not len(kept):
        said, known = " ".join(unusable) or "All can be used.", len(shared.left_out)
        raise DataError(
            f"No image of {mapped.name} is left to score. {said} {known:,} are, or show a lesion, that the run's "
            "classifiers were trained on.",
            "Score them on data that were collected elsewhere.",
        )
    return kept, shared.facts, (*unusable, *shared.notes)


class _Shared(NamedTuple):
    """What the other data share with the run."""

    left_out: list[str]  # images that are not scored
    facts: dict[str, Any]  # for ``summary.json``
    notes: tuple[str, ...]


def _shared(done: Finished, clean: Catalog, pixels: Pixels, progress: runs.Progress) -> _Shared:
    """Compare the other data with all images of the run; what only its test part holds is counted, not left out."""
    ours = joined_sets.members(done.prepared.catalog, done.prepared.pixels)
    table, said = joined_sets.find(Shown.of(clean, pixels), ours, progress)
    notes = list(said)
    reasons: dict[str, tuple[str, str]] = {}
    for row in table[table["same_as"].isin(done.learned)].itertuples():
        reasons.setdefault(str(row.image), (str(row.why), str(row.same_as)))
    groups = dict(zip(clean.images, clean.groups, strict=True))
    left_out = {groups[image]: image for image in reversed(list(reasons))}
    for image, group in groups.items():
        if group in left_out and image not in reasons:
            reasons[image] = ("lesion of an image that is left out", left_out[group])
    in_test = set(table["image"]) - set(reasons)
    if count := len(reasons):
        notes.append(f"{count:,} images left out: the run's classifiers were trained on them, or on their lesions.")
    if in_test:
        notes.append(f"{len(in_test):,} images are in the run's test part too: they are no new evidence.")
    named = [{"image": image, "why": why, "same_as": same} for image, (why, same) in reasons.items()]
    facts = {
        "num_images": len(reasons),
        "by_reason": dict(Counter(why for why, _ in reasons.values()).most_common()),
        "num_in_test": len(in_test),
        "images": named[:NUM_NAMED],
    }
    return _Shared(list(reasons), facts, tuple(notes))


@dataclass
class _Scorer:
    """Predicts the images that are left, with one classifier after another; embeddings are made once and kept."""

    catalog: Catalog
    pixels: Pixels
    size: int
    folder: Path
    digest: str
    device: str

    def predict(self, done: Finished, progress: runs.Progress) -> Iterator[Predictions]:
        """Predictions of each classifier, those that are on disk already from there."""
        rows = self.catalog
        for number, stage in enumerate(done.stages, 1):
            path = self.path(stage)
            if not path.exists():
                about = (rows.classes, stage.name, stage.trial, "test", self.digest)
                logits, predicted = self._said(done.run / stage.folder)
                Predictions(rows.images, rows.groups, rows.labels, logits, *about, predicted=predicted).save(path)
            progress(number, len(done.stages), "classifiers")
            yield Predictions.load(path)

    def path(self, stage: Classifier) -> Path:
        """Where the predictions of a classifier go: its folder's name is of this arm, trial and settings alone."""
        return self.folder / f"{Path(stage.folder).name}.parquet"

    def _said(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """Logits of one classifier, float32 [N, K], and what it says at the study's operating point, int64 [N]."""
        from moulage.randomness import reproducible

        with reproducible():
            trained = Trained.load(folder, self.device)
            pieces = enumerate(chunks(self.catalog, CHUNK))
            logits = np.concatenate([trained.predict(self._inputs(trained, n, rows), rows) for n, rows in pieces])
            return logits, trained.decide(logits)

    def _inputs(self, trained: Trained, number: int, rows: Catalog) -> np.ndarray:
        """Pixels or embeddings of one chunk of the images; all classifiers of a study read the same embeddings."""
        pixels = self.pixels.array(self.size)[self.pixels.rows(rows.images)]
        if not trained.stage.embeddings:
            return pixels
        path = self.folder / f"inputs-{runs.digest(*trained.stage.embedding_keys)}-{number}.npy"
        if not path.exists():
            with runs.atomic(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, trained.embed(pixels))
        with runs.reading(path, EOFError):
            return np.load(path)


def _fit(fit: Predictions, path: Path) -> dict[str, Any]:
    found = scores_of(fit)
    return {"arm": fit.arm, "trial": fit.trial, "predictions": path.name, "scores": found}


def _unseen(done: Finished, kept: Catalog) -> list[str]:
    """What the other data call otherwise than the data that the classifiers were trained on, a sentence a column."""
    found: dict[str, dict[str, int]] = {}
    for stage in done.stages:
        encoder = Encoder.load(done.run / stage.folder)
        for column, words in (encoder.unseen(kept) if encoder else {}).items():
            found.setdefault(column, {}).update(words)
    return [
        f"{sum(words.values()):,} images have a {column} that no training image has, and count as having none: "
        f"{', '.join(words)}."
        for column, words in found.items()
    ]


def _compare(done: Finished, fits: list[Predictions], kept: Catalog) -> dict[str, Any]:
    """The pairs of arms that the study compared, under its primary measure, on the other data."""
    study, notes = done.recipe.study, list[str]()
    primary, named = study.primary, parse(study.primary)
    missing = [name for name, count in kept.counts.items() if not count]
    targets = [name for name in study.target_classes if name not in missing]
    if named.form == "targets" and len(targets) < len(study.target_classes):
        left = ", ".join(targets) or "no class"
        notes.append(f"The {primary} is taken over {left}: the other targets have no image.")
    elif named.form == "overall" and missing:
        notes.append(f"The {primary} is taken without {', '.join(missing)}, of which there is no image.")
    if done.recipe.split.scheme == "folds":
        notes.append("The trials are folds: their fits share training images, which the intervals here do not know of.")
    about: dict[str, Any] = {"measure": primary, "targets": targets, "comparisons": [], "notes": notes}
    if named.of in missing or (named.form == "targets" and not targets):
        notes.append(f"Nothing is compared: there is no image for the primary measure, {primary}.")
        return about
    arms: dict[str, list[Predictions]] = {}
    for fit in fits:
        arms.setdefault(fit.arm, []).append(fit)
    pairs = dict.fromkeys((c.arm, c.reference) for c in done.results.comparisons if c.measure == primary)
    about["comparisons"] = [asdict(found) for found in compare_all(arms, pairs, primary, targets)]
    return about
