"""Does one task: a function of the run folder and the task, wherever it is called."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moulage import plugins, runs
from moulage.data import masks
from moulage.data import samples as sampling
from moulage.data.catalog import REAL, Catalog
from moulage.data.metadata import Encoder, lend
from moulage.data.view import TrainingView
from moulage.errors import DataError, LeakError
from moulage.evaluation.adjust import adjust, choose_tau, log_prior
from moulage.evaluation.predictions import Predictions
from moulage.recipe import Recipe
from moulage.tasks import prepare, witness
from moulage.tasks.arms import is_positive, treat, treatments
from moulage.tasks.fidelity import judge_of, labels_of, score_generator
from moulage.tasks.gallery import make_gallery
from moulage.tasks.inputs import (
    Inputs,
    embed_all,
    encode,
    examples_of,
    masks_for,
    pixels_of,
    samples_folder,
    selection_folder,
)
from moulage.tasks.plan import Task, seed_of
from moulage.tasks.prepare import Prepared, learns_masks, needs_masks
from moulage.tasks.select import extract_features, select
from moulage.treatment import Treatment

PREDICT_CHUNK = 512
"""Images predicted between two reports of progress."""
HELD_OUT: tuple[Literal["validation", "test"], ...] = ("validation", "test")


def execute(run: Path, task: Task, device: str = "auto") -> None:
    """Compute one task into its folder; what is done already, or was begun, is used.

    Args:
        run: a folder that ``prepare`` has written.
        task: one of ``plan``.
        device: ``auto``, ``cpu``, ``cuda`` or another name of torch.

    Raises:
        MoulageError: whatever stops the task, in the user's words.
    """
    from moulage.devices import pick_device
    from moulage.randomness import reproducible

    folder = run / task.folder
    with runs.lock(folder):
        if runs.is_done(folder):
            return
        for leftover in folder.glob(".*.tmp"):  # of an attempt that was killed while it wrote
            leftover.unlink()
        recipe, prepared = prepare.load(run, task.trial)
        chosen = str(pick_device(device))
        runs.write_json(folder / "task.json", {"kind": task.kind, "name": task.name, **task.settings})
        with reproducible(), _meter(folder, chosen) as (progress, cost):
            DO[task.kind](recipe, prepared, run, task, chosen, progress)
            facts = cost()
        runs.finish(folder, kind=task.kind, name=task.name, trial=task.trial, **facts)


@contextlib.contextmanager
def _meter(folder: Path, device: str) -> Iterator[tuple[runs.Progress, Callable[[], dict[str, Any]]]]:
    """Progress that is written to ``progress.json`` at most twice a second, with what all attempts together cost and,
    where it can be told from this attempt, the seconds that are left.
    """
    path = folder / "progress.json"
    before = runs.read_json(path) if path.exists() else {}
    wall, cpu = time.perf_counter(), time.process_time()
    last, pace = -np.inf, runs.Pace()

    def cost() -> dict[str, Any]:
        return {
            "wall_seconds": before.get("wall_seconds", 0.0) + time.perf_counter() - wall,
            "cpu_seconds": before.get("cpu_seconds", 0.0) + time.process_time() - cpu,
            "device": device,
        }

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        left = pace.seconds_left(done, total, time.perf_counter())
        if time.perf_counter() - last > 0.5:
            last = time.perf_counter()
            runs.write_json(path, {"done": done, "total": total, "note": note, "seconds_left": left, **cost()})

    progress(0, 1, "starting")
    yield progress, cost


def fit_generator(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Fit a generator on its classes' images of the training part; the validation part chooses among its weights."""
    settings, folder = task.settings, run / task.folder
    module = plugins.load("generators", settings["plugin"])
    config = plugins.configure("generators", settings["plugin"], settings["config"])
    classes = tuple(settings["classes"])
    split = prepared.split(task.trial)
    train = split.part(prepared.catalog, "train").only(label=classes)
    images = prepared.pixels.array(settings["size"])[prepared.pixels.rows(train.images)]
    labels = labels_of(train, classes)
    generator, judge = module.Generator(config, classes, settings["size"]), judge_of(prepared, task, device)
    steps = prepare.steps_of(recipe)
    more = {"masks": masks.read(train, settings["size"], recipe.data.fit, steps=steps)} if needs_masks(module) else {}
    generator.fit(
        images, labels, seed=settings["seed"], folder=folder, device=device, progress=progress, judge=judge, **more
    )
    generator.save(folder)
    about = {"plugin": settings["plugin"], "classes": classes, "size": settings["size"], "origin": origin(task.folder)}
    about |= {"split_digest": split.digest, "num_images": len(train), "all_classes": prepared.catalog.classes}
    runs.write_json(folder / "generator.json", about)
    witness.of_fit(folder, "generator", split.digest, train, judge and judge.chosen_on)


def origin(folder: str) -> str:
    """The name by which synthetic rows call the generator run that drew them: its folder's name."""
    return Path(folder).name


def draw(
    folder: Path, counts: dict[str, int], first_seed: int, out: Path, *, device: str = "cpu", **options: Any
) -> Catalog:
    """Draw images from a finished generator folder: ``counts[c]`` of each class from consecutive seeds.

    Raises:
        RunError: the folder holds no finished generator.
        DataError: it never learned a class that is asked for.
    """
    about = runs.read_json(folder / "generator.json")
    for name in counts:
        if name not in about["classes"]:
            raise DataError(f'{folder} draws {", ".join(about["classes"])}, not "{name}".', "Ask for one of those.")
    generator = plugins.load("generators", about["plugin"]).Generator.load(folder, device=device)
    seeds = {name: np.arange(first_seed, first_seed + count) for name, count in counts.items()}
    return sampling.draw(
        generator,
        seeds,
        out,
        classes=tuple(about["all_classes"]),
        origin=about["origin"],
        split_digest=about["split_digest"],
        **options,
    )


def draw_samples(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Draw the images that the arms add."""
    out = run / task.folder
    drawn = draw(
        run / task.needs[0], task.settings["counts"], task.settings["first_seed"], out, device=device, progress=progress
    )
    witness.of_samples(out, drawn)


def embed(recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress) -> None:
    """Forward each image of one set through the frozen network, once; ``inputs.npy`` holds a row an image."""
    catalog, array = pixels_of(prepared, run, task.settings["of"], _config(recipe).size)
    module, config = plugins.load("classifiers", recipe.classifier.plugin), _config(recipe)
    embed_all(run / task.folder, catalog, array, lambda rows: module.embed(config, rows, device=device), progress)


def train_classifier(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Train one arm's classifier in one trial, and keep what it predicts for validation and test part.

    Nothing but the training part, and what the arm adds to it, is trained on; the epoch that is kept and the strength
    of the logit adjustment are chosen on the validation part. The test part is predicted at the end. Metadata are
    encoded as the training part has them; generated images borrow those of training images. Lesion masks are learned
    from the training part alone, where they are a second task.
    """
    settings, folder, catalog = task.settings, run / task.folder, prepared.catalog
    split = prepared.split(task.trial)
    module = plugins.load("classifiers", settings["plugin"])
    config = plugins.configure("classifiers", settings["plugin"], settings["config"])
    train, extra = split.part(catalog, "train"), extra_of(prepared, run, task)
    inputs = Inputs(prepared, run, task, config.size)
    encoder = encoder_of(settings, train)
    of_train, of_extra = masks_for(recipe, catalog, config.size, train, extra) if learns_masks(recipe) else (None, None)
    lent = with_metadata(settings, extra, train)
    added = examples_of(inputs, lent, encoder, of_extra) if len(extra) else None
    weights = weights_of(settings, train, extra)
    view = TrainingView(examples_of(inputs, train, encoder, of_train), added, settings["num_slots"], weights)
    treatment = treatment_of(settings, view.counts(len(catalog.classes)))
    parts = {part: split.part(catalog, part) for part in HELD_OUT}
    chosen_on = examples_of(inputs, parts["validation"], encoder)
    classifier = module.Classifier(config, catalog.classes)
    classifier.fit(
        view,
        chosen_on,
        seed=settings["seed"],
        folder=folder,
        device=device,
        progress=progress,
        treatment=treatment,
    )
    classifier.save(folder)
    if encoder is not None:
        encoder.save(folder)
    logits = predict_parts(classifier, parts, inputs, encoder, progress)
    adjusted: dict[str, Any] = {"logit_adjustment": None, "log_prior": None, "notes": []}
    if settings["adjust"]:
        seen = view.counts(len(catalog.classes))
        adjusted = adjust_logits(logits, chosen_on.labels, seen, treatment, catalog.classes)
    about = {"arm": task.name, "trial": task.trial, "split_digest": split.digest, "classes": catalog.classes}
    for part in HELD_OUT:
        rows = parts[part]
        predictions = Predictions(rows.images, rows.groups, rows.labels, logits[part], part=part, **about)
        predictions.save(folder / f"{part}.parquet")
    _write_view(folder, settings, train, extra, adjusted)
    witness.of_classifier(folder, task, split.digest, train, extra, parts)


def predict_parts(
    classifier: Any,
    parts: dict[str, Catalog],
    inputs: Inputs,
    encoder: Encoder | None,
    progress: runs.Progress = runs.no_progress,
) -> dict[str, np.ndarray]:
    """Logits float32 [N, K] of each part, some images at a time: with many views this takes minutes."""
    done, total = 0, sum(len(rows) for rows in parts.values())
    logits = {}
    for part, rows in parts.items():
        found = []
        for first in range(0, max(len(rows), 1), PREDICT_CHUNK):
            chunk = rows.take(np.arange(first, min(first + PREDICT_CHUNK, len(rows))))
            found.append(classifier.predict(inputs(chunk), **encode(encoder, chunk)))
            done += len(chunk)
            progress(done, total, f"images predicted, {part} part")
        logits[part] = np.concatenate(found)
    return logits


def weights_of(settings: dict[str, Any], train: Catalog, extra: Catalog) -> np.ndarray | None:
    """The weights of a classifier task's real images and then of what its arm adds, float64 [n]; None for all alike.

    A copy weighs what its image does, and a drawn image 1.
    """
    weights = settings.get("weights")
    names = [*train.table["data_set"], *extra.table["data_set"]]
    return np.array([weights.get(name, 1.0) for name in names], np.float64) if weights else None


def extra_of(prepared: Prepared, run: Path, task: Task) -> Catalog:
    """The rows that a classifier task's arm adds to the training part, proven to be allowed there.

    The arm that is a positive control draws from the reserve; any other from its samples.
    """
    settings, split = task.settings, prepared.split(task.trial)
    balance = plugins.load("balance", settings["balance"])
    train = split.part(prepared.catalog, "train")
    if not hasattr(balance, "extend"):
        return train.take([])
    held_back = split.part(prepared.catalog, "reserve") if is_positive(balance) else None
    samples = samples_of(run, samples_folder(task), split.digest) if held_back is None else held_back
    add = settings["add"]
    if samples is not None and selection_folder(task):
        kept = Catalog.load(run / selection_folder(task) / "catalog.parquet")
        samples = samples.only(image=kept.images)
        add = {label: min(number, samples.counts[label]) for label, number in add.items()}
    options = plugins.configure("balance", settings["balance"], settings["balance_config"])
    rng = np.random.default_rng(seed_of(settings["seed"], "balance"))
    extra = balance.extend(options, train, samples, add, rng)
    check_extra(extra, train, split.digest, held_back)
    return extra


def encoder_of(settings: dict[str, Any], train: Catalog) -> Encoder | None:
    """How a classifier task's metadata become numbers; None where its classifier reads none."""
    columns = settings.get("metadata", ())
    return Encoder.fit(train, columns) if columns else None


def with_metadata(settings: dict[str, Any], extra: Catalog, train: Catalog) -> Catalog:
    """What an arm adds, with borrowed metadata for generated images where the classifier reads any."""
    if not settings.get("metadata"):
        return extra
    return lend(extra, train, np.random.default_rng(seed_of(settings["seed"], "metadata")))


def treatment_of(settings: dict[str, Any], counts: np.ndarray) -> Treatment:
    """How an arm trains: what its balance plug-in and its treatment say, where they say anything; see ``treat``.

    Args:
        settings: of a classifier task.
        counts: images that the arm trains on, real and added, of each class, int64 [K].
    """
    named = [(settings[key], settings[f"{key}_config"]) for key in ("balance", "treatment") if settings[key]]
    return treat([(plugins.load("balance", n), plugins.configure("balance", n, given)) for n, given in named], counts)


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


def _write_view(
    folder: Path, settings: dict[str, Any], train: Catalog, extra: Catalog, adjusted: dict[str, Any]
) -> None:
    """``view.json``: what the arm was trained on and how, for the report."""
    about = {
        "num_real": len(train),
        "num_slots": settings["num_slots"],
        "extra": {name: count for name, count in extra.counts.items() if count},
        "num_distinct": len(set(extra.images)),
        "treatment": " and ".join(treatments(settings["balance"], settings["treatment"])),
        **adjusted,
    }
    runs.write_json(folder / "view.json", about)


def samples_of(run: Path, folder: str, split_digest: str) -> Catalog | None:
    """The samples in a folder (of the run, or anywhere), proven to come from this split; None for no folder."""
    if not folder:
        return None
    samples = Catalog.load(run / folder / "catalog.parquet")
    sampling.check_provenance(samples, split_digest)
    return samples


def check_extra(extra: Catalog, train: Catalog, split_digest: str, reserve: Catalog | None = None) -> None:
    """What an arm adds is either a real image of the training part or was drawn by a generator that saw only that.

    Args:
        extra: the rows that are added.
        train: the training part.
        split_digest: digest of the split.
        reserve: the images that were held back, for the one arm that may add them.

    Raises:
        LeakError: naming an image that is none of these.
    """
    sampling.check_provenance(extra.take((extra.table["origin"] != REAL).to_numpy()), split_digest)
    allowed = set(train.images) if reserve is None else set(train.images) | set(reserve.images)
    strangers = set(extra.only(origin=REAL).images) - allowed
    if strangers:
        raise LeakError(f'The arm adds the real image "{min(strangers)}", which is not in the training part.')


def _config(recipe: Recipe) -> Any:
    return plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options, "classifier.options")


DO: dict[str, Callable[[Recipe, Prepared, Path, Task, str, runs.Progress], None]] = {
    "generator": fit_generator,
    "samples": draw_samples,
    "embedding": embed,
    "classifier": train_classifier,
    "fidelity": score_generator,
    "gallery": make_gallery,
    "features": extract_features,
    "selection": select,
}
