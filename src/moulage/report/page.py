"""Fills the page's templates. Jinja escapes every value; only the style sheet and our own SVG go in as they are."""

import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moulage.evaluation.measure_names import is_lower_better
from moulage.report import answer, plot, roles, tables
from moulage.report.run_files import Run
from moulage.report.sections import SECTIONS, load


def render(run: Run, names: Sequence[str] = SECTIONS) -> str:
    """The whole page as one HTML text; figures and tables are written into the run folder.

    ``names`` says which sections, in order; those without anything to show are left out.
    """
    templates, shown = _environment(), []
    common = {"results": run.results, "study": run.results.study}
    with plot.style():
        for name in names:
            section = load(name)
            if (values := section.show(run)) is not None:
                body = templates.get_template(f"sections/{name}.html.j2").render(**common, **values)
                shown.append({"name": name, "title": section.TITLE, "body": Markup(body)})
        under = answer.show(run)
    style = resources.files("moulage.report").joinpath("style.css").read_text(encoding="utf-8")
    version = run.environment.get("moulage", "")
    values = {**common, **under, "sections": shown, "style": Markup(style), "version": version}
    return templates.get_template("page.html.j2").render(values)


def typeset(text: str) -> str:
    """A recorded sentence with the minus sign that the tables have, and no line break before a percent sign."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", text).replace(" %", "\u00a0%")


def _environment() -> Environment:
    loader = PackageLoader("moulage.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(MOST_SHOWN=roles.MOST_SHOWN, NONE=tables.NONE, ROLES=roles.TITLES)
    environment.filters.update(
        typeset=typeset,
        word=tables.word,
        signed=tables.signed,
        units=tables.units,
        is_lower_better=is_lower_better,
        bounds=tables.bounds,
        estimate=tables.estimate,
        amount=tables.amount,
        p_value=tables.p_value,
        strength=tables.strength,
        spread=lambda spread: spread.text() if spread else tables.NONE,
        thousands=lambda number: tables.NONE if number is None else f"{number:,}",
        minutes=lambda number: tables.NONE if number is None else f"{number:,.1f}",
    )
    return environment
