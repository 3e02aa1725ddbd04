"""What a study says beforehand that it will look at: written, dated and hashed before its test part is opened.

A verdict means what it says only for a question that was fixed before the answer was seen. ``registration.json`` in the
run folder holds the declaration; one that is changed after ``results.json`` was written says so for ever.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moulage import runs
from moulage.recipe import Recipe, differences
from moulage.recipe_tables import PATHS

FILE = "registration.json"
ELSEWHERE: Any = {
    "study": {"name", "question", "primary", "target_classes", "smallest_effect", "family", "num_trials"},
    "data": PATHS,
    "budget_name": True,
}
"""What the digest of all other settings leaves out: it decides nothing, or is declared by name."""


def declaration(recipe: Recipe, roles: Mapping[str, str]) -> dict[str, Any]:
    """What decides the verdict: measure, classes, margin, family, arms, generators, trials; a digest of the rest."""
    study, split = recipe.study, recipe.split
    return {
        "primary": study.primary,
        "target_classes": list(study.target_classes),
        "smallest_effect": study.smallest_effect,
        "family": list(study.family) or [arm for arm, role in roles.items() if role == "synthetic"],
        "arms": dict(roles),
        "generators": {name: generator.plugin for name, generator in recipe.generators.items()},
        "treatments": {name: arm.treatment for name, arm in recipe.arms.items() if arm.treatment},
        "num_trials": recipe.num_trials,
        "scheme": split.scheme,
        "reserve": split.reserve,
        "settings": runs.digest(recipe.model_dump(mode="json", exclude=ELSEWHERE)),
    }


def register(recipe: Recipe, run: Path, roles: Mapping[str, str]) -> dict[str, Any]:
    """Write the declaration of a study, or find it again.

    To be called before any task runs. A declaration that differs from the one that stands replaces it and keeps it
    under ``history``; if the test part has been opened by then (``results.json`` is there), ``before_test`` is false
    and ``note`` says what was changed. Going back to a declaration that was made in time makes it hold again.

    Args:
        recipe: of the study.
        run: the run folder.
        roles: of each arm, from ``arm.roles``.

    Returns:
        ``digest``, ``date``, ``before_test``, ``declared``, ``note`` and ``history`` (earlier ones, oldest first).
    """
    path, declared = run / FILE, declaration(recipe, roles)
    digest = runs.digest(declared)
    old = runs.read_json(path, "digest", "date", "before_test", "declared", "history") if path.exists() else None
    if old is not None and old["digest"] == digest:
        return old
    opened = (run / "results.json").exists()
    history = [] if old is None else [*old["history"], {k: v for k, v in old.items() if k != "history"}]
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    record = {"digest": digest, "date": now, "before_test": not opened, "declared": declared, "note": ""}
    in_time = next((entry for entry in history if entry["digest"] == digest and entry["before_test"]), None)
    if opened and in_time is not None:
        record |= {"date": in_time["date"], "before_test": True}
        record["note"] = "Taken back to what was registered before the test part was opened; others were tried between."
    elif old is not None:
        when = "after" if opened else "before"
        lines = differences(old["declared"], declared)
        changes = "; ".join("settings in recipe.toml" if line.startswith("settings:") else line for line in lines)
        record["note"] = f"Changed {when} the test part was opened: {changes}."
    elif opened:
        record["note"] = "The test part had been opened before anything was registered."
    record["history"] = history
    runs.write_json(path, record)
    return record
