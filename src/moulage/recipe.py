"""The recipe of a study: a typed, strict TOML file.

A recipe says everything that decides a result. It is read whole and checked before any work: an unknown key, a wrong
type, a plug-in that does not exist, an arm that names no generator are all refused with the place and the nearest valid
name. ``[budget.NAME]`` tables hold changes that make the same study cheaper or dearer; ``--budget NAME`` applies one.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, model_validator

from moulage import recipe_tables as tables
from moulage.curves import arms_of_curves
from moulage.errors import RecipeError, nearest
from moulage.plugins import Options, validate

_SAVE = "Save it as UTF-8 text without a byte order mark."


class Recipe(Options):
    """A whole study."""

    study: tables.StudyOptions
    data: tables.DataOptions = tables.DataOptions()  # pyright: ignore[reportCallIssue]
    split: tables.SplitOptions = tables.SplitOptions()  # pyright: ignore[reportCallIssue]
    generators: dict[str, tables.GeneratorOptions] = Field(default_factory=dict)
    fidelity: tables.FidelityOptions = tables.FidelityOptions()  # pyright: ignore[reportCallIssue]
    selections: dict[str, tables.SelectionOptions] = Field(default_factory=dict)
    classifier: tables.ClassifierOptions = tables.ClassifierOptions()  # pyright: ignore[reportCallIssue]
    arms: dict[str, tables.ArmOptions] = Field(default_factory=dict)
    curves: dict[str, tables.CurveOptions] = Field(default_factory=dict)
    budget_name: str = Field("", description="The budget that was applied; set by the loader.")

    @model_validator(mode="after")
    def _curves_are_arms(self) -> "Recipe":
        found = arms_of_curves(self.curves, self.generators, self.study.target_classes)
        for name, arm in self.arms.items():
            if name in found and arm != found[name]:
                raise ValueError(f'arms.{name}: the curve "{found[name].curve}" has an arm of this name; rename yours')
            if name not in found and (arm.curve or arm.series or arm.dose):
                raise ValueError(f"arms.{name}: curve, series and dose are set by [curves.NAME] alone")
        if found and not self.split.holds_back:
            raise ValueError(
                f"curves.{next(iter(self.curves))} compares with held-back real images, and none are held back: set "
                "split.scarcity, such as { AK = 60 }, or split.reserve"
            )
        if found and not any(arm.balance == "none" and not arm.treatment for arm in self.arms.values()):
            raise ValueError('a curve starts from the arm that adds nothing: give [arms.none] with balance = "none"')
        self.arms.update(found)
        return self

    @model_validator(mode="after")
    def _names_meet(self) -> "Recipe":
        for name, arm in self.arms.items():
            if arm.generator and arm.generator not in self.generators:
                hint = nearest(arm.generator, self.generators)
                raise ValueError(f'arms.{name}: there is no generator "{arm.generator}" in this recipe. {hint}')
            if arm.selection and arm.selection not in self.selections:
                hint = nearest(arm.selection, self.selections)
                raise ValueError(f'arms.{name}: there is no selection "{arm.selection}" in this recipe. {hint}')
            if arm.like and (arm.like not in self.arms or self.arms[arm.like].like):
                hint = nearest(arm.like, [n for n, a in self.arms.items() if not a.like])
                raise ValueError(f'arms.{name}.like: "{arm.like}" is no arm with counts of its own. {hint}')
        for name, generator in self.generators.items():
            known, start = [name], generator.start
            while start in self.generators:
                if start in known:
                    raise ValueError(f"generators.{name}.start goes round in a circle: {' <- '.join([*known, start])}")
                known.append(start)
                start = self.generators[start].start
        for name in self.study.family:
            if name not in self.arms:
                raise ValueError(f'study.family: "{name}" is no arm of this recipe. {nearest(name, self.arms)}')
        for name in (*self.generators, *self.selections, *self.arms):
            if not tables.is_plain(name):
                raise ValueError(f'"{name}": names of arms, generators and selections are letters, digits, - and _')
        return self

    @model_validator(mode="after")
    def _folds_meet(self) -> "Recipe":
        if self.split.reserve and not self.study.target_classes:
            raise ValueError("split.reserve holds back images of study.target_classes, and there are none")
        for name in self.split.scarcity:
            if name not in self.study.target_classes:
                hint = nearest(name, self.study.target_classes) if self.study.target_classes else "There are none."
                raise ValueError(f'split.scarcity: "{name}" is none of study.target_classes. {hint}')
        if self.split.scheme != "folds":
            return self
        if self.study.num_trials not in (self.num_trials, tables.StudyOptions.model_fields["num_trials"].default):
            raise ValueError(
                f"study.num_trials is {self.study.num_trials}, but {self.split.num_folds} folds x "
                f"{self.split.num_repeats} are {self.num_trials} trials: leave it out, or change split.num_repeats"
            )
        for name, generator in self.generators.items():
            if generator.refit == "study":
                raise ValueError(
                    f'generators.{name}.refit = "study": fitted once it would have learned from images that another '
                    'fold tests on; use "trial", or another split.scheme'
                )
        for name, arm in self.arms.items():
            if arm.samples:
                raise ValueError(
                    f"arms.{name}.samples: given samples come from one split, and folds are several; use a generator"
                )
        return self

    @property
    def num_trials(self) -> int:
        """Fits of each arm: folds x repeats, else ``study.num_trials``."""
        folds = self.split.scheme == "folds"
        return self.split.num_folds * self.split.num_repeats if folds else self.study.num_trials

    def largest_dose(self, arm: str) -> str:
        """Of the arms of a curve's series the one with the largest dose; an arm of no curve itself."""
        of = self.arms[arm]
        series = [name for name, each in self.arms.items() if (each.curve, each.series) == (of.curve, of.series)]
        return max(series, key=lambda name: self.arms[name].dose) if of.curve else arm

    def is_decisive(self, arm: str) -> bool:
        """Whether an arm is judged: every one of no curve, and of the doses of a curve's series the largest, so that
        the others cost it no power.
        """
        return self.largest_dose(arm) == arm

    def family(self, roles: Mapping[str, str]) -> tuple[str, ...]:
        """The arms over which p-values are corrected: those that it names, else all with generated images that are
        judged. ``roles``: of each arm.
        """
        return self.study.family or tuple(
            name for name, role in roles.items() if role == "synthetic" and self.is_decisive(name)
        )

    @property
    def scarcity(self) -> dict[str, int]:
        """Lesions that stay in the training part by class, empty where nothing is made scarce.

        ``RecipeError``: the recipe has several levels of it, and each is a study of its own; see ``levels``.
        """
        levels = self.split.levels
        if len(levels) > 1:
            raise RecipeError(f"split.scarcity has {len(levels)} levels, and one study has one.", "Use `levels`.")
        return levels[0] if levels else {}

    def levels(self) -> dict[str, "Recipe"]:
        """One recipe for each level of scarcity by its name, such as ``lesions-60``; itself, nameless, without several.

        They differ in nothing but the lesions that stay. The level with the most comes first, and each holds the next
        one's: lesions or held-back images that are too few are told before anything is computed.
        """
        found = self.split.levels[::-1]
        if len(found) < 2:
            return {"": self}
        names = ["lesions-" + "-".join(map(str, dict.fromkeys(level.values()))) for level in found]
        if len(set(names)) < len(names):
            names = ["lesions-" + "-".join(map(str, level.values())) for level in found]
        made: dict[str, Recipe] = {}
        for name, level in zip(names, found, strict=True):
            study = self.study.model_copy(update={"name": f"{self.study.name}-{name}"})
            split = self.split.model_copy(update={"scarcity": level})
            made[name] = self.model_copy(update={"study": study, "split": split})
        return made


def load(path: Path, budget: str = "", changes: dict[str, Any] | None = None) -> Recipe:
    """Read and check a recipe, a TOML file.

    ``budget`` names one of its ``[budget.NAME]`` tables, applied over the rest; ``changes`` are dotted keys and values
    applied last, such as ``{"study.num_trials": 5}``. ``RecipeError`` names the file, the key, and the nearest valid
    one.
    """
    return parse(read(path), budget, changes, where=path.name)


def read(path: Path) -> dict[str, Any]:
    """The values of a recipe file as they stand there, budgets among them; ``parse`` checks them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(f"There is no recipe at {path}.", "Recipes are TOML files; see studies/.") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder, not a recipe.", "Name a TOML file.") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.", _SAVE) from None
    try:
        return tomllib.loads(text)
    except ValueError as error:  # beside errors of syntax, a number of more digits than Python reads
        hint = _SAVE if text.startswith("\ufeff") else "Mend that line."
        raise RecipeError(f"{path} is not valid TOML: {error}.", hint) from None


def parse(values: dict[str, Any], budget: str = "", changes: dict[str, Any] | None = None, where: str = "") -> Recipe:
    """A checked recipe from nested values; see ``load``."""
    known = budgets(values, where)
    values = {key: value for key, value in values.items() if key != "budget"}
    if budget and budget not in known:
        raise RecipeError(f'{where}: there is no budget "{budget}".', nearest(budget, known))
    if budget:
        values = merge(_without_foreign(values, known[budget]), known[budget]) | {"budget_name": budget}
    for key, value in (changes or {}).items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merge(values, value)
    for place, number in _not_finite(values):
        raise RecipeError(f"{where}: {place} is {number}, no finite number.", "Give a finite number.")
    return validate(Recipe, values, where)


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Numbers that are NaN or infinite, of which no setting makes sense, with their places."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, each in pairs:
        yield from _not_finite(each, f"{place}.{key}" if place else str(key))


def budgets(values: dict[str, Any], where: str = "") -> dict[str, dict[str, Any]]:
    """The changes that each budget of these values makes, by its name."""
    return validate(_Budgets, {"budget": values.get("budget", {})}, where).budget


class _Budgets(Options):
    budget: dict[str, dict[str, Any]]


def _without_foreign(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values without the options of plug-ins that the changes replace: another one has options of its own."""
    kept = {}
    for key, value in values.items():
        change = changes.get(key)
        if isinstance(value, dict) and isinstance(change, dict):
            value = _without_foreign(value, change)
            if change.get("plugin", value.get("plugin")) != value.get("plugin"):
                value = {name: each for name, each in value.items() if name not in ("options", "drawing")}
        kept[key] = value
    return kept


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``, table by table."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> Iterator[str]:
    """The settings in which two recipes differ, one line each: ``arms.none.balance: 'none' -> 'duplicates'``."""
    for key in sorted({*old, *new}):
        place = f"{where}.{key}" if where else key
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, place)
        elif a != b:
            yield f"{place}: {a!r} -> {b!r}"


def to_toml(recipe: Recipe) -> str:
    """A recipe with all its settings as TOML that ``parse`` makes the same recipe of; empty values are left out.

    So are the arms that its curves make.
    """
    own = {name: arm for name, arm in recipe.arms.items() if not arm.curve}
    return tomli_w.dumps(_written(recipe.model_copy(update={"arms": own})))


def _written(value: Any) -> Any:
    """Values that TOML can say. What is empty in a table of ours is so by default; in free tables, of options of
    plug-ins, an empty table may differ from none."""
    match value:
        case Options():
            return {key: _written(each) for key, each in value if each is not None and each not in ({}, ())}
        case dict():
            return {key: _written(each) for key, each in value.items() if each is not None}
        case list() | tuple():
            return [_written(each) for each in value]
        case Path():
            return str(value)
    return value
