"""Finds a plug-in by its file name.

``generators/dcgan.py`` is the generator ``dcgan``: nothing is registered, nothing is imported until it is asked for.
A package of somebody else's adds one with an entry point in the group ``moulage.generators`` (``moulage.sources`` ...)
whose name is the plug-in's name and whose value is the module.
"""

import ast
import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from moulage.errors import RecipeError, nearest

SHOWN = 80  # characters of a wrong value that an error quotes
KINDS = ("sources", "preprocessing", "generators", "balance", "classifiers", "selection")


class Options(BaseModel):
    """Base of every plug-in's ``Config``: frozen; an unknown key, a number that is not finite, and a truth value in
    place of a number are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and _of_numbers(field.annotation):
                raise ValueError(f"{name} is a number, not {str(value).lower()}")
        return values


class NoOptions(Options):
    """Of what has none."""


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of all plug-ins of a kind (``"generators"``, ``"sources"`` ...), sorted."""
    package = importlib.import_module(f"moulage.{kind}")
    own = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    return tuple(sorted({*own, *_entries(kind)}))


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    """What other packages offer; looked up once, since it reads the metadata of every installed package."""
    return {entry.name: entry for entry in entry_points(group=f"moulage.{kind}")}


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in module; a wrong name raises ``RecipeError`` and says which exist."""
    if name not in names(kind):
        raise RecipeError(f'There is no "{name}" in {kind}.', nearest(name, names(kind)))
    if name in (entries := _entries(kind)):
        return entries[name].load()
    return importlib.import_module(f"moulage.{kind}.{name}")


def summary(kind: str, name: str) -> str:
    """The first line of a plug-in's docstring; one of ours is read, not imported: torch takes seconds."""
    if name in names(kind) and name not in _entries(kind):
        found = find_spec(f"moulage.{kind}.{name}")
        source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
        text = ast.get_docstring(ast.parse(source))
    else:
        text = load(kind, name).__doc__
    return (text or "").strip().split("\n")[0]


def configure(kind: str, name: str, options: dict[str, Any], where: str = "") -> Any:
    """The plug-in's validated ``Config``; every wrong option is named, with the nearest valid one.

    ``options`` are as they stand in a recipe, which calls the place ``where``, such as ``generators.ak``, for messages.
    """
    return validate(load(kind, name).Config, options, where or f"{kind}.{name}")


def validate(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """``model(**values)`` whose errors are one ``RecipeError`` in the user's words."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(*explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> tuple[str, str]:
    """Message and hint for a failed validation: each wrong key, what is wrong with it, the nearest valid key."""
    lines, hint = [], ""
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        place = f"{where}.{key}" if where and key else key or where
        if problem["type"] == "extra_forbidden":
            lines.append(f'{place}: unknown key "{problem["loc"][-1]}".')
            hint = hint or nearest(str(problem["loc"][-1]), _fields(model, problem["loc"][:-1]))
        elif problem["type"] == "missing":
            lines.append(f"{place}: is required.")
        else:
            # What a check of a whole table says names the keys; the table itself would be the whole recipe.
            got = "" if isinstance(problem["input"], dict | Options) else f" (got {_short(problem['input'])})"
            lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}{got}.")
    return "\n".join(lines), hint


def _short(value: Any) -> str:
    """A value as it is written, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... of {len(text):,} characters"


def _of_numbers(annotation: Any) -> bool:
    """Whether a field takes numbers and no truth value."""
    kinds = get_args(annotation) or (annotation,)
    return bool({int, float} & set(kinds)) and bool not in kinds


def _fields(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """The valid keys of a model, or of the model that stands at ``path`` inside it."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part) if isinstance(part, str) else None
        if field is not None:
            model = field.annotation
        arguments = [a for a in getattr(model, "__args__", ()) if hasattr(a, "model_fields")]
        if not hasattr(model, "model_fields") and arguments:
            model = arguments[0]
    return list(getattr(model, "model_fields", {}))
