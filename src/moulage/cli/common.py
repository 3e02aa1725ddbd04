"""What verbs share: how options become settings, and how results are printed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moulage.errors import RecipeError
from moulage.screen import show_table


def data_values(
    verb: str, source: str, data: Path | None, fit: str, seed: int, source_settings: list[str] | None
) -> dict[str, Any]:
    """The part of a recipe that says which data, for the verbs that take no recipe."""
    options = {"source": source, "fit": fit, "options": options_of(source_settings)}
    if data:
        options["path"] = str(data.absolute())
    return {"study": {"name": verb, "seed": seed}, "data": options, "split": {"seed": seed}}


def options_of(settings: list[str] | None) -> dict[str, Any]:
    """``["steps=200", "optimizer.lr=0.1"]`` as nested values; each value is TOML, else text."""
    import tomllib

    from moulage.recipe import merge

    found: dict[str, Any] = {}
    for setting in settings or []:
        key, separator, text = setting.partition("=")
        if not separator:
            raise RecipeError(f'--set takes key=value, not "{setting}".')
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


def names_of(text: str, known: Sequence[str] = ()) -> list[str]:
    """``"AK, DF"`` as names; one that holds a comma stands in double quotes, or is one of those that are ``known``."""
    import csv

    pieces = next(csv.reader([text], skipinitialspace=True), [])
    pieces, names = [piece.strip() for piece in pieces if piece.strip()], list[str]()
    while pieces:
        ends = range(len(pieces), 1, -1)
        taken = next((end for end in ends if ", ".join(pieces[:end]) in known), 1)
        names.append(", ".join(pieces[:taken]))
        pieces = pieces[taken:]
    return names


def folder_name(*words: str) -> str:
    """The words, joined by ``-``, as the name of a folder: letters, digits, ``_``, ``.`` and ``-``, no more than 80.

    Where that loses something, a digest of the words stands at the end.
    """
    from moulage.runs import digest

    plain = "-".join(words)
    name = re.sub(r"[^\w.-]+", "_", plain)[:80]
    return name if name == plain else f"{name[:67].rstrip('-_.')}-{digest(plain)}"


def pairs_of(option: str, text: str) -> dict[str, str]:
    """``"akiec=AK,bcc=BCC"`` as pairs; nothing may stand behind an ``=``."""
    found: dict[str, str] = {}
    for part in names_of(text):
        key, separator, value = part.partition("=")
        if not separator or not key.strip():
            raise RecipeError(f'{option} takes NAME=VALUE,NAME=VALUE, not "{part}".')
        if key.strip() in found:
            raise RecipeError(f"{option} names {key.strip()} twice.")
        found[key.strip()] = value.strip()
    return found


def difference(measure: str, value: float | None) -> str:
    """A signed difference in the unit of a measure; ``-`` for None."""
    from moulage.evaluation.measure_names import parse

    return "-" if value is None else parse(measure).measure.number(value, signed=True)


def interval(measure: str, low: float | None, high: float | None) -> str:
    """``-0.4 to +2.8``; ``-`` where there is none."""
    return "-" if low is None else f"{difference(measure, low)} to {difference(measure, high)}"


def p_value(value: float | None) -> str:
    """``0.012``; ``-`` where there is none."""
    from moulage.evaluation import verdict

    return "-" if value is None else verdict.p_value(value)


def print_json(value: Any) -> None:
    """A result as standard JSON on stdout; see ``runs.to_json``."""
    from moulage import runs

    print(runs.to_json(value))


def print_scores(values: dict[str, Any], where: str, as_json: bool) -> None:
    """What ``scores`` gives, as JSON or tables."""
    if as_json:
        print_json({"predictions": where, **values})
        return
    rows = [{"class": name, **numbers} for name, numbers in values["classes"].items()]
    show_table("By class", rows)
    show_table(where, [{"measure": k, "value": v} for k, v in plain(values).items()])


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of ``scores``, without tables and lists."""
    return {k: v for k, v in values.items() if not isinstance(v, dict | list)}


def fail(text: str, code: int = 1) -> None:
    """One message on stderr, and the end."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("error: ", style="bold red", end="", markup=False, highlight=False)
    console.print(text, markup=False, highlight=False)
    raise SystemExit(code)
