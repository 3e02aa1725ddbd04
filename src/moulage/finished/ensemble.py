"""Ensembles of the fits of finished studies, from their saved predictions: read, combined, kept, compared."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from moulage import runs
from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.ensembles import METHODS, Average, Ensemble, Member, best_single, combine
from moulage.evaluation.model_comparison import compare_models
from moulage.evaluation.predictions import PARTS, Predictions
from moulage.evaluation.scores import scores_of
from moulage.finished.run import proven
from moulage.stages.data import RECIPE, Prepared

SINGLE = "best_single"
"""Name of the model that the ensembles are compared with: in each group the member that validates best."""


def ensemble_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    arms: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    by: Literal["trial", "split"] = "trial",
    average: Average = "probabilities",
    balanced: bool = True,
    measures: Sequence[str] = (),
    targets: Sequence[str] = (),
    smallest_effect: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """Combine the classifiers of runs, keep what the ensembles predict, and compare them with the best single one.

    Weights are fitted, and the best single classifier is chosen, on the validation part; the test part is scored.
    Folds are safe: only fits of one split are combined, so no member has learned from what another is tested on.

    Args:
        folders: run folders, or folders of one classifier each (with ``validation.parquet`` and ``test.parquet``).
        out: predictions go to ``<out>/<method>-<number>/``, in the form of a classifier's; nothing there is replaced
            but what an earlier call of this function wrote.
        arms: members are the fits of these arms; all arms if empty.
        by: ``"trial"``: one ensemble of the arms in each trial, so that there are as many fits to compare; ``"split"``:
            one ensemble of all fits on a split, arms and trials together.
        average, balanced, seed: see ``combine``.
        measures, targets, smallest_effect: see ``compare_models``.

    Returns:
        ``num_members``, ``ensembles`` (``method``, ``trial``, ``weights``, ``notes``, ``folder``, ``scores`` by part),
        ``comparison`` (of ``compare_models``), ``out``.

    ``LeakError``: what is called validation shows test images, or a file is not what its fit wrote.
    ``DataError``: there are no fits, they do not belong together, or a group has fewer than two. ``RecipeError``: an
    arm or a method is unknown.
    """
    groups = _groups(folders, arms, by)
    runs.claim(out)
    found: list[dict[str, Any]] = []
    models: dict[str, list[Predictions]] = {SINGLE: [], **{method: [] for method in methods}}
    for number, group in enumerate(groups):
        named = group if by == "split" else [replace(m, name=m.name.rpartition("-")[0]) for m in group]
        single = best_single(named)
        models[SINGLE].append(replace(single.test, arm=SINGLE, trial=number))
        found.append(_kept(out, SINGLE, number, Ensemble(SINGLE, {single.name: 1.0}, single.validation, single.test)))
        for method in methods:
            made = combine(named, method, average=average, balanced=balanced, seed=seed)
            models[method].append(replace(made.test, trial=number))
            found.append(_kept(out, method, number, made))
    options: dict[str, Any] = {"measures": measures, "targets": targets, "smallest_effect": smallest_effect}
    compared = compare_models(models, reference=SINGLE, **options)
    result = {"num_members": [len(group) for group in groups], "ensembles": found, "comparison": compared}
    runs.write_json(out / "ensemble.json", result)
    return {**result, "out": str(out)}


def _groups(folders: Sequence[Path], arms: Sequence[str], by: str) -> list[list[Member]]:
    """Fits of these arms of one split, and of one trial if they go by it."""
    members = [member for folder in folders for member in _members(folder, prefix=len(folders) > 1)]
    known = list(dict.fromkeys(member.test.arm for member in members))
    for arm in arms:
        if arm not in known:
            raise RecipeError(f'There is no arm "{arm}" in {", ".join(map(str, folders))}.', nearest(arm, known))
    groups: dict[tuple[str, int], list[Member]] = {}
    for member in members:
        if not arms or member.test.arm in arms:
            key = (member.test.split_digest, member.test.trial if by == "trial" else 0)
            groups.setdefault(key, []).append(member)
    return list(groups.values())


def _members(folder: Path, prefix: bool) -> list[Member]:
    """The finished fits in a folder, each called ``arm-trial``, with the folder's name before it where wanted.

    Those of a run are proven to be of its split (``proven``).
    """
    single = (folder / "test.parquet").exists()
    own = [folder] if single else sorted((folder / "classifiers").glob("*"))
    run = folder.resolve().parents[1] if single else folder
    prepared = Prepared.load(run) if (run / RECIPE).exists() else None  # what is not in a run has no split to ask
    found = []
    for path in own:
        if all((path / f"{part}.parquet").exists() for part in PARTS) and (prepared is None or runs.is_done(path)):
            if prepared is not None:
                proven(run, prepared, path.resolve().relative_to(run.resolve()).as_posix())
            parts = {part: Predictions.load(path / f"{part}.parquet") for part in PARTS}
            name = f"{parts['test'].arm}-{parts['test'].trial}"
            found.append(Member(f"{folder.resolve().name}/{name}" if prefix else name, **parts))
    if not found:
        raise DataError(
            f"{folder} holds no fits with predictions of a validation and a test part.",
            "Name a folder that `moulage study` wrote, or that of one of its classifiers.",
        )
    return found


def _kept(out: Path, method: str, number: int, made: Ensemble) -> dict[str, Any]:
    """Write one ensemble's predictions; what it is, for the result."""
    folder = out / f"{method}-{number}"
    found: dict[str, Any] = {}
    for part in PARTS:
        predictions = replace(getattr(made, part), arm=method, trial=number)
        predictions.save(folder / f"{part}.parquet")
        found[part] = scores_of(predictions)
    about = {"method": method, "trial": number, "weights": made.weights, "notes": list(made.notes)}
    return {**about, "folder": str(folder), "scores": found}
