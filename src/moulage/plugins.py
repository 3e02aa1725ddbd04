"""Finds a plug-in by its file name.

``generators/dcgan.py`` is the generator ``dcgan``: nothing is registered, nothing is imported until it is asked for.
A package of somebody else's adds one with an entry point in the group ``moulage.generators`` (``moulage.sources`` ...)
whose name is the plug-in's name and whose value is the module.
"""

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from moulage.errors import RecipeError, nearest

KINDS = ("sources", "preprocessing", "generators", "balance", "classifiers", "selection")


class Options(BaseModel):
    """Base of every plug-in's ``Config``: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """The first line of a plug-in's docstring."""
    return (load(kind, name).__doc__ or "").strip().split("\n")[0]


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
            lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r}).")
    return "\n".join(lines), hint


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
