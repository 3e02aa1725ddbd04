"""Fills the page's template. Jinja escapes every value; only the style sheet and our own SVG go in as they are."""

from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from moulage.evaluation.scores import is_lower_better
from moulage.report import pictures, tables
from moulage.report.figures import Plots
from moulage.report.reading import Run

MOST_NAMES = 60
"""Names of quarantined images in the page; the audit file has all."""


def render(run: Run, plots: Plots) -> str:
    """The whole page as one HTML text."""
    results, part = run.results, tables.scored_part(run.results)
    values = {
        "results": results,
        "study": results.study,
        "part": part,
        "plots": plots,
        "comparisons": tables.comparisons_by_measure(results),
        "notes": list(dict.fromkeys(note for row in results.comparisons for note in row.notes)),
        "methods": list(dict.fromkeys(row.method for row in results.comparisons if row.method)),
        "overview": tables.overview(results, part),
        "reports": tables.class_reports(results, part),
        "galleries": pictures.galleries(run),
        "previews": pictures.previews(run),
        "audit": run.audit,
        "pairs": run.pairs,
        "pair_sheet": pictures.sheet(run.pair_sheet) if run.pair_sheet else "",
        "costs": tables.costs(results.cost),
        "environment": run.environment,
        "recipe": run.recipe,
    }
    template = _environment().from_string(_resource("template.html.j2"))
    return template.render(values, sections=_sections(values), style=Markup(_resource("style.css")))


def _sections(values: dict) -> dict[str, str]:
    """Id and title of the sections that there is something to show in, in the order of the page."""
    results, plots = values["results"], values["plots"]
    titles = {
        "comparison": ("Comparison", values["comparisons"]),
        "arms": ("Arms", results.arms),
        "curves": ("Learning curves", plots.curves),
        "classes": ("Classes", values["reports"]),
        "confusion": ("Confusion matrices", plots.confusions),
        "images": ("Real and generated images", values["galleries"]),
        "generators": ("Generator training", plots.losses or values["previews"]),
        "audit": ("Audit of the data", values["audit"]),
        "split": ("Split", results.split),
        "cost": ("Cost", values["costs"]),
        "repeat": ("Repeat it", results.command or values["environment"] or values["recipe"]),
        "data": ("Data and attribution", results.study.data.note or results.study.data.source),
    }
    return {name: title for name, (title, content) in titles.items() if content}


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(MOST_NAMES=MOST_NAMES, MEASURES=tables.MEASURES, NONE=tables.NONE)
    environment.filters.update(
        word=tables.word,
        signed=tables.signed,
        scale=tables.scale,
        is_lower_better=is_lower_better,
        interval=tables.interval,
        estimate=tables.estimate,
        p_value=tables.p_value,
        spread=lambda spread: spread.text() if spread else tables.NONE,
        thousands=lambda number: tables.NONE if number is None else f"{number:,}",
        minutes=lambda number: tables.NONE if number is None else f"{number:,.1f}",
    )
    return environment


def _resource(name: str) -> str:
    return resources.files("moulage.report").joinpath(name).read_text(encoding="utf-8")
