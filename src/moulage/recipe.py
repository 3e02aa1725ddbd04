"""The recipe of a study: a typed, strict TOML file.

A recipe says everything that decides a result. It is read whole and checked before any work: an unknown key, a wrong
type, a plug-in that does not exist, an arm that names no generator are all refused with the place and the nearest valid
name. ``[budget.NAME]`` tables hold changes that make the same study cheaper or dearer; ``--budget NAME`` applies one.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from moulage.errors import RecipeError, nearest
from moulage.plugins import Options, validate
from moulage.runs import digest


class StudyOptions(Options):
    """What the study asks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the study and of its run folder.")
    question: str = Field("", description="The question in one sentence; the report opens with it.")
    seed: int = Field(0, ge=0, description="Every random number of the study derives from it.")
    num_trials: int = Field(
        3, ge=1, le=100, description="Independent fits of every arm; three are needed for intervals."
    )
    target_classes: tuple[str, ...] = Field((), description="The rare classes that the study is about.")
    primary: str = Field(
        "mean_average_precision",
        description="The measure that the answer is about, over the target classes where it takes any.",
    )
    smallest_effect: float = Field(
        0.02, gt=0, lt=1, description="Smallest difference of the primary measure that would matter (0.02 = 2 points)."
    )


class DataOptions(Options):
    """Which data set, and how it is cut into squares."""

    source: str = Field("phantom", description="A source plug-in; `moulage list sources` names them.")
    path: Path | None = Field(
        None, description="Folder or file of the data; `--data` on the command line overrides it."
    )
    fit: Literal["squash", "crop", "pad"] = Field("squash", description="How images that are not square become square.")
    sizes: tuple[int, ...] = Field((), description="Sides in pixels to keep beside those that the plug-ins ask for.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the source plug-in.")


class SplitOptions(Options):
    """How images become training, validation and test part; groups (lesions) never cross."""

    scheme: Literal["holdout", "official"] = Field(
        "holdout", description="`holdout` draws the parts; `official` keeps the data set's own."
    )
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the images for validation.")
    test: float = Field(0.2, gt=0, lt=0.9, description="Share of the images for the test; unused by `official`.")
    seed: int = Field(0, ge=0, description="Draws the parts; every trial uses the same parts.")


class GeneratorOptions(Options):
    """A generator to fit on the training part."""

    plugin: str = Field(description="A generator plug-in; `moulage list generators` names them.")
    classes: tuple[str, ...] = Field(min_length=1, description="Classes to train on and to draw.")
    size: int = Field(64, ge=8, le=1024, description="Side of the images in pixels.")
    refit: Literal["trial", "study"] = Field(
        "trial",
        description="`trial` fits anew for each trial, so that intervals hold the generator's luck; `study` fits once.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the generator plug-in.")


class ClassifierOptions(Options):
    """The classifier that every arm trains."""

    plugin: str = Field("probe", description="A classifier plug-in; `moulage list classifiers` names them.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the classifier plug-in.")


class ArmOptions(Options):
    """One way to treat the training part."""

    balance: str = Field(description="A balance plug-in; `moulage list balance` names them.")
    add: dict[str, int] = Field(default_factory=dict, description="Images to add, by class.")
    ratio: dict[str, float] = Field(
        default_factory=dict, description="Images to add as a multiple of the class's training images, by class."
    )
    like: str = Field("", description="Add the same counts as this arm.")
    generator: str = Field("", description="For arms that add generated images: a name from [generators].")
    samples: Path | None = Field(None, description="Instead of a generator: a folder that `moulage sample` wrote.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the balance plug-in.")

    @model_validator(mode="after")
    def _one_way_to_count(self) -> "ArmOptions":
        if sum(map(bool, (self.add, self.ratio, self.like))) > 1:
            raise ValueError("give one of add, ratio, like")
        if self.generator and self.samples:
            raise ValueError("give generator or samples, not both")
        if any(n < 0 for n in (*self.add.values(), *self.ratio.values())):
            raise ValueError("counts and ratios are not negative")
        return self


class Recipe(Options):
    """A whole study."""

    study: StudyOptions
    data: DataOptions = DataOptions()  # pyright: ignore[reportCallIssue]
    split: SplitOptions = SplitOptions()  # pyright: ignore[reportCallIssue]
    generators: dict[str, GeneratorOptions] = Field(default_factory=dict)
    classifier: ClassifierOptions = ClassifierOptions()  # pyright: ignore[reportCallIssue]
    arms: dict[str, ArmOptions] = Field(default_factory=dict)
    budget_name: str = Field("", description="The budget that was applied; set by the loader.")

    @model_validator(mode="after")
    def _names_meet(self) -> "Recipe":
        for name, arm in self.arms.items():
            if arm.generator and arm.generator not in self.generators:
                hint = nearest(arm.generator, self.generators)
                raise ValueError(f'arms.{name}: there is no generator "{arm.generator}" in this recipe. {hint}')
            if arm.like and (arm.like not in self.arms or self.arms[arm.like].like):
                hint = nearest(arm.like, [n for n, a in self.arms.items() if not a.like])
                raise ValueError(f'arms.{name}.like: "{arm.like}" is no arm with counts of its own. {hint}')
        for name in (*self.generators, *self.arms):
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f'"{name}": names of arms and generators are letters, digits, - and _')
        return self

    def additions(self, arm: str, counts: dict[str, int]) -> dict[str, int]:
        """How many images this arm adds to each class.

        Args:
            arm: its name.
            counts: images of each class in the training part, for ratios.
        """
        options = self.arms[self.arms[arm].like or arm]
        for name in (*options.add, *options.ratio):
            if name not in counts:
                raise RecipeError(f'arms.{arm}: "{name}" is no class of the data.', nearest(name, counts))
        if options.ratio:
            return {name: round(ratio * counts[name]) for name, ratio in options.ratio.items()}
        return dict(options.add)

    def digest(self) -> str:
        """Digest of every setting but the data's path."""
        return digest(self.model_dump(mode="json", exclude={"data": {"path"}}))


def load(path: Path, budget: str = "", changes: dict[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the TOML file.
        budget: name of one of its ``[budget.NAME]`` tables, applied over the rest; empty for none.
        changes: dotted keys and values applied last, such as ``{"study.num_trials": 5}``.

    Raises:
        RecipeError: naming the file, the key, and the nearest valid one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.", "Recipes are TOML files; see studies/.") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder, not a recipe.", "Name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.", "Mend that line.") from None
    return parse(values, budget, changes, where=path.name)


def parse(values: dict[str, Any], budget: str = "", changes: dict[str, Any] | None = None, where: str = "") -> Recipe:
    """A checked recipe from nested values; see ``load``."""
    values = dict(values)
    budgets = values.pop("budget", {})
    if budget and budget not in budgets:
        raise RecipeError(f'{where}: there is no budget "{budget}".', nearest(budget, budgets))
    if budget:
        values = merge(values, budgets[budget])
        values["budget_name"] = budget
    for key, value in (changes or {}).items():
        for part in reversed(key.split(".")):
            value = {part: value}
        values = merge(values, value)
    return validate(Recipe, values, where)


def budgets(path: Path) -> tuple[str, ...]:
    """The names of a recipe's budgets."""
    return tuple(tomllib.loads(path.read_text(encoding="utf-8")).get("budget", {}))


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


def to_toml(values: dict[str, Any], where: str = "") -> str:
    """Nested plain values as TOML; what is None or empty is left out."""
    import json

    def plain(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(plain, value)) + "]"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int) else repr(value)

    keep = {k: v for k, v in values.items() if v is not None and v != {} and v != ""}
    lines = [f"{_key(k)} = {plain(v)}" for k, v in keep.items() if not isinstance(v, dict)]
    text = (f"[{where}]\n" if where and lines else "") + "".join(f"{line}\n" for line in lines)
    for k, v in keep.items():
        if isinstance(v, dict):
            text += "\n" + to_toml(v, f"{where}.{_key(k)}" if where else _key(k))
    return text.lstrip("\n") if not where else text


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else f'"{key}"'
