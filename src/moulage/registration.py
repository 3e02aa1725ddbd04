"""What a study says beforehand that it will look at: written, dated and hashed before its test part is opened.

A verdict means what it says only for a question, and for data, that were fixed before the answer was seen. The
declaration is an entry of ``openings``; one that is made after anybody opened the test part says so for ever.
"""

import functools
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import moulage
from moulage import openings, runs
from moulage.openings import DECLARED, OPENED
from moulage.recipe import Recipe, differences
from moulage.recipe_tables import PATHS

ELSEWHERE: Any = {
    "study": {"name", "question", "primary", "target_classes", "smallest_effect", "family", "num_trials"},
    "data": PATHS,
    "budget_name": True,
}
"""What the digest of all other settings leaves out: it decides nothing, or is declared by name."""
DIGESTS = {
    "settings": "settings in recipe.toml",
    "labels": "labels, lesions or other facts of the images",
    "images": "pixels of the images",
    "parts": "the parts of the split",
}
"""What is declared by a digest alone, in words."""
KEYS = ("digest", "date", "before_test", "declared", "software", "note")
PACKAGES = ("moulage", "torch", "timm", "numpy", "scipy", "scikit-learn")


def declaration(recipe: Recipe, roles: Mapping[str, str], data: Mapping[str, str]) -> dict[str, Any]:
    """What decides the verdict: measure, classes, margin, family, arms, generators, trials; digests of the rest.

    ``data``: digests of the ``labels``, ``images`` and ``parts``, of ``Prepared.digests``.
    """
    study, split = recipe.study, recipe.split
    return {
        "primary": study.primary,
        "target_classes": list(study.target_classes),
        "smallest_effect": study.smallest_effect,
        "family": list(recipe.family(roles)),
        "arms": dict(roles),
        "generators": {name: generator.plugin for name, generator in recipe.generators.items()},
        "treatments": {name: arm.treatment for name, arm in recipe.arms.items() if arm.treatment},
        "num_trials": recipe.num_trials,
        "scheme": split.scheme,
        "reserve": split.reserve,
        "scarcity": recipe.scarcity,
        "settings": runs.digest(recipe.model_dump(mode="json", exclude=ELSEWHERE)),
        **data,
    }


def versions(*packages: str) -> dict[str, str]:
    """The version of each package that is installed."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@functools.cache
def software() -> dict[str, str]:
    """Versions of what decides a result, and a digest of this package's own code."""
    root = Path(moulage.__file__).parent
    return versions(*PACKAGES) | {"code": runs.digest(*(path.read_bytes() for path in sorted(root.rglob("*.py"))))}


def register(recipe: Recipe, run: Path, roles: Mapping[str, str], data: Mapping[str, str]) -> dict[str, Any]:
    """Declare a study, or find its declaration again; to be called before any task runs.

    A declaration that differs from the one that stands takes its place. If anybody has opened the test part by then,
    ``before_test`` is false and ``note`` says what was changed. Going back to a declaration that was made in time makes
    it hold again. Other software changes no question: it is told in ``note``.

    Args:
        recipe: of the study.
        run: the run folder.
        roles: of each arm, from ``arm.roles``.
        data: see ``declaration``.

    Returns:
        What ``current`` gives.

    Raises:
        LeakError: the history of the run was changed.
        RunError: it cannot be written.
    """
    declared = declaration(recipe, roles, data)
    digest, entries = runs.digest(declared), openings.history(run)
    made = [entry for entry in entries if entry["event"] == DECLARED]
    old = made[-1] if made else None
    if old is not None and (old["digest"], old["software"]) == (digest, software()):
        return current(run) or {}
    opened, note = _opened(run, entries), ""
    known = next((entry for entry in made if entry["digest"] == digest and entry["before_test"]), None)
    if old is not None and old["digest"] == digest:
        known, note = old, _software_note(old["software"]) if opened else ""
    elif known is not None and opened:
        note = "Taken back to what was registered before the test part was opened; others were tried between."
    elif old is not None:
        known = None
        note = f"Changed {'after' if opened else 'before'} the test part was opened: {_changes(old, declared)}."
        note += f" It was opened by {opened}." if opened else ""
    elif opened:
        note = f"The test part had been opened before anything was registered, by {opened}."
    date, in_time = (known["date"], known["before_test"]) if known else (openings.now(), not opened)
    facts = {"digest": digest, "date": date, "before_test": in_time, "declared": declared}
    openings.append(run, DECLARED, **facts, software=software(), note=note)
    return current(run) or {}


def current(run: Path) -> dict[str, Any] | None:
    """The declaration that stands, None where there is none.

    ``digest``, ``date``, ``before_test``, ``declared``, ``software``, ``note``; ``history`` (the same of earlier ones),
    ``opened`` (``date``, ``by`` and ``what`` of each opening), both oldest first; ``entry``, the digest of the history.

    ``LeakError``: the history was changed.
    """
    entries = openings.history(run)
    made = [{key: entry[key] for key in KEYS} for entry in entries if entry["event"] == DECLARED]
    if not made:
        return None
    opened = [
        {"date": entry["at"], "by": entry["by"], "what": entry["what"]} for entry in entries if entry["event"] == OPENED
    ]
    return {**made[-1], "history": made[:-1], "opened": opened, "entry": entries[-1]["entry"]}


def _opened(run: Path, entries: list[dict[str, Any]]) -> str:
    """Who opened the test part, and when, in words; empty where nobody did.

    Fits without a history are taken for opened ones: the history is gone, and nobody knows.
    """
    for entry in entries:
        if entry["event"] == OPENED:
            return f"`{entry['by']}` on {entry['at']}"
    if (run / "results.json").exists():
        return "an earlier study in this folder"
    if not entries and any(run.glob(f"classifiers/*/{openings.TEST}")):
        return f"somebody, since there are test predictions, and {openings.FILE} is gone"
    return ""


def _changes(old: dict[str, Any], declared: dict[str, Any]) -> str:
    lines = differences(old["declared"], declared)
    return "; ".join(DIGESTS.get(line.split(":")[0], line) for line in lines)


def _software_note(old: Mapping[str, str]) -> str:
    new = software()
    changed = [
        f"{name} {old.get(name)} -> {new[name]}" for name in new if name != "code" and old.get(name) != new[name]
    ]
    words = "; ".join(changed) or "the code of moulage"
    return f"The software changed after the test part was opened: {words}."
