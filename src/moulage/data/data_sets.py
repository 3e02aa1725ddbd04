"""The data sets of a recipe: the main one, on which everything is tested, and further ones to train on as well."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from moulage import plugins, runs
from moulage.data import joined_sets
from moulage.data.catalog import Catalog
from moulage.data.class_map import map_classes
from moulage.data.split import Split
from moulage.errors import DataError, RecipeError
from moulage.recipe import Recipe

FILE = "data_sets.json"
"""In a run of several data sets: what was read of each, what was set aside, and where the rest went."""


def check(recipe: Recipe) -> None:
    """The source plug-ins of a recipe exist and take their options; nothing is read."""
    further = {f"data.also.{name}": options for name, options in recipe.data.also.items()}
    for place, options in {"data": recipe.data, **further}.items():
        plugins.configure("sources", options.source, options.options, f"{place}.options")


def read_main(recipe: Recipe) -> Catalog:
    """The main data set, with all its classes."""
    return _read("data", recipe.data)


def join(recipe: Recipe, main: Catalog) -> Catalog:
    """The main data set with the further ones of the recipe, each with its classes mapped to the main one's.

    ``RecipeError``: a class map names a class that does not exist. ``DataError``: a further data set cannot be read, or
    none of its classes is one of the main one's.
    """
    further = {name: _mapped(name, recipe, main.classes) for name in recipe.data.also}
    train_only = [name for name, options in recipe.data.also.items() if options.parts == "train"]
    return joined_sets.join(main, further, train_only)


def summarise(recipe: Recipe, found: Catalog, kept: Catalog, splits: Sequence[Split]) -> list[dict[str, Any]]:
    """What became of each data set, the main one first, as rows of ``results.DataSet``; empty where there is one alone.

    ``found`` is all that was read, ``kept`` what the audit kept of it; of the run's splits the first one counts.
    """
    if not recipe.data.also:
        return []
    part = splits[0].table.set_index("image")["part"]
    rows = []
    for name in ("", *recipe.data.also):
        options = recipe.data.also[name] if name else recipe.data
        own, read = kept.only(data_set=name), len(found.only(data_set=name))
        where = part.loc[own.images].value_counts() if len(own) else pd.Series(dtype=int)
        about = {"name": name or joined_sets.MAIN, "source": options.source}
        sizes = {"weight": recipe.data.weights.get(name, 1.0), "num_read": read, "num_set_aside": read - len(own)}
        parts = {str(key): int(number) for key, number in where.items()}
        rows.append({**about, **sizes, "counts": own.counts, "parts": parts})
    return rows


def load(run: Path) -> list[dict[str, Any]]:
    """What ``summarise`` found, from a run folder; empty for a run of one data set."""
    path = run / FILE
    return runs.read_json(path, "data_sets")["data_sets"] if path.exists() else []


def save(rows: list[dict[str, Any]], run: Path) -> None:
    """Keep what ``summarise`` found, where there is anything; what an earlier recipe left is removed."""
    if rows:
        runs.write_json(run / FILE, {"data_sets": rows})
    else:
        (run / FILE).unlink(missing_ok=True)


def _read(place: str, options: Any) -> Catalog:
    config = plugins.configure("sources", options.source, options.options, f"{place}.options")
    try:
        return plugins.load("sources", options.source).read(options.path, config)
    except DataError as error:
        if place == "data":
            raise
        raise DataError(f"{place}: {error.message}", f"{error.hint} Its folder is {place}.path.".strip()) from None


def _mapped(name: str, recipe: Recipe, classes: tuple[str, ...]) -> Catalog:
    """One further data set under the main one's classes; what was mapped how is added to its note."""
    place, options = f"data.also.{name}", recipe.data.also[name]
    found = _read(place, options)
    try:
        known = map_classes(found, classes, options.classes)
    except (DataError, RecipeError) as error:
        raise type(error)(f"{place}.classes: {error.message}", error.hint) from None
    return replace(known.apply(found, classes), note=" ".join([found.note, *known.notes]).strip())
