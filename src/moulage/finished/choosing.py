"""Chooses test images of a finished study that are worth a look: mistakes, what an arm changed most, some at random."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage.evaluation.predictions import Predictions, log_softmax


@dataclass(frozen=True)
class Group:
    """Test images that were chosen for one reason; ``how`` says it in a sentence.

    ``beside``: they are shown beside the generated training images that are most like them.
    """

    title: str
    how: str
    images: list[str]
    beside: bool = False


def tabulate(
    run: Path, folders: dict[tuple[str, int], str], names: list[str], trial: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The test images of a trial by name, with what the arms said of each; and how many changed which way.

    Columns: ``group``, ``label``, and for each arm ``predicted:<arm>`` (the class that it says),
    ``of_predicted:<arm>`` and ``of_true:<arm>`` (probabilities); ``change``: the arm's log-probability of the true
    class minus the reference's, the mean over all trials in which both were tested on the image.
    """
    said = {name: Predictions.load(run / folders[name, trial] / "test.parquet") for name in names}
    first = said[names[0]]
    classes = np.array(first.classes, object)
    table = pd.DataFrame({"group": first.groups, "label": classes[first.labels]}, index=first.images)
    rows = np.arange(len(first))
    for name, own in said.items():
        table[f"predicted:{name}"] = classes[own.predicted]
        table[f"of_predicted:{name}"] = own.probabilities[rows, own.predicted]
        table[f"of_true:{name}"] = own.probabilities[rows, own.labels]
    if len(names) == 1:
        return table, {"num_fits": 0, "raised": 0, "lowered": 0}
    trials = sorted({t for of, t in folders if of == names[0]} & {t for of, t in folders if of == names[1]})
    changes = pd.concat([_change(*(run / folders[name, t] for name in names)) for t in trials], axis=1)
    changes = changes.reindex(table.index)
    table["change"] = changes.mean(axis=1)
    counts = {"raised": int((table["change"] > 0).sum()), "lowered": int((table["change"] < 0).sum())}
    return table, {"num_fits": int(changes.notna().sum(axis=1).max()), **counts}


def _change(arm: Path, reference: Path) -> pd.Series:
    """Log-probability of the true class with an arm minus that with another, nats, by image."""
    both = [Predictions.load(folder / "test.parquet") for folder in (arm, reference)]
    ours, theirs = (pd.Series(log_softmax(p.logits)[np.arange(len(p)), p.labels], index=p.images) for p in both)
    return ours - theirs.reindex(ours.index)


def choose(
    table: pd.DataFrame, arm: str, against: str, num_fits: int, targets: Iterable[str], number: int, seed: int
) -> list[Group]:
    """Mistakes of each target class and of all, the most improved and worsened images, and some at random."""
    wrong = table[table[f"predicted:{arm}"] != table["label"]].sort_values(f"of_predicted:{arm}", ascending=False)
    surest = f"The {arm} classifier said a wrong class and gave it the highest probability; one image of a lesion."
    kinds = {**{label: wrong[wrong["label"] == label] for label in targets}, "all classes": wrong}
    found = [Group(f"Most confident mistakes: {of}", surest, _first(rows, number)) for of, rows in kinds.items()]
    if against:
        mean = f", mean of {num_fits} fits of each" if num_fits > 1 else ""
        order = table.sort_values("change", ascending=False)
        for verb, rows in (("raised", order[order["change"] > 0]), ("lowered", order[order["change"] < 0][::-1])):
            title = f"Most {'improved' if verb == 'raised' else 'worsened'} by {arm}"
            how = (
                f"{arm} {verb} the log-probability of the true class most, compared with {against}{mean}; one image of "
                f"a lesion, the extremes of {len(table):,} images."
            )
            found.append(Group(title, how, _first(rows, number), beside=True))
    drawn = _first(table.iloc[np.random.default_rng(seed).permutation(len(table))], number)
    found.append(Group("At random", "Drawn from all test images; one image of a lesion.", drawn))
    return [group for group in found if group.images]


def _first(rows: pd.DataFrame, number: int) -> list[str]:
    return rows.drop_duplicates("group").index[:number].tolist()
