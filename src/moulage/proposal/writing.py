"""The text of a recipe, with a comment on every choice: ``recipe.toml.j2``, filled in."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined

WIDTH = 118


def written(values: Mapping[str, Any]) -> str:
    """The recipe's text; ``values`` are the names that the template uses."""
    return _environment().get_template("recipe.toml.j2").render(values)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("moulage.proposal", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"value": value, "key": key, "each": each, "comment": comment}
    return environment


def value(of: Any) -> str:
    """A value as TOML, on one line."""
    if isinstance(of, list | tuple):
        return f"[{', '.join(map(value, of))}]"
    return tomli_w.dumps({"k": of}).removeprefix("k = ").strip()


def key(name: str) -> str:
    """A key as TOML: bare where it can be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)


def each(names: Sequence[str] | Mapping[str, Any], of: Any = None) -> str:
    """An inline table: names with their values, or all with the same."""
    pairs = names.items() if isinstance(names, Mapping) else ((name, of) for name in names)
    return f"{{ {', '.join(f'{key(name)} = {value(number)}' for name, number in pairs)} }}"


def comment(text: str, indent: str = "") -> str:
    """Text as lines of a comment; ``indent`` stands before every line but the first."""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - 2, subsequent_indent=indent, break_long_words=False)
    return "\n".join(f"# {line}" for line in lines)
