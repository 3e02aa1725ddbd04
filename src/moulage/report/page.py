"""Fills the page's templates. Jinja escapes every value; only the style sheet and our own SVG go in as they are."""

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moulage.evaluation.measure_names import is_lower_better
from moulage.report import evidence, explanations, fidelity, pictures, roles, selections, tables
from moulage.report.figures import Plots
from moulage.report.reading import Run

MOST_NAMES = 60
"""Names of quarantined images in the page; the audit file has all."""

TABLES = "tables"
"""Folder beside the page in which the tables are written as files."""


def render(run: Run, plots: Plots, files: list[tuple[str, list[str]]], methods: str) -> str:
    """The whole page as one HTML text.

    Args:
        run: what is shown.
        plots: its figures.
        files: what each exported table holds, and the names of its files in ``TABLES``.
        methods: the methods paragraph; empty where there is nothing to describe.
    """
    results, part = run.results, tables.scored_part(run.results)
    values = {
        "results": results,
        "study": results.study,
        "part": part,
        "plots": plots,
        "overview": tables.overview(results, part),
        "reports": tables.class_reports(results, part),
        "galleries": pictures.galleries(run),
        "previews": pictures.previews(run),
        "selections": selections.shown(run),
        "fidelity": fidelity.shown(run),
        "explanations": explanations.shown(run),
        "audit": run.audit,
        "pairs": run.pairs,
        "pair_sheet": pictures.sheet(run.pair_sheet) if run.pair_sheet else "",
        "costs": tables.costs(results.cost),
        "environment": run.environment,
        "recipe": run.recipe,
        "methods": methods,
        "tables": files,
        **_arms(run),
        **_evidence(run),
    }
    template = _environment().get_template("page.html.j2")
    return template.render(values, sections=_sections(values), style=Markup(_style()))


def _arms(run: Run) -> dict:
    """What the page says of the arms."""
    results = run.results
    order = {name: k for k, name in enumerate(roles.by_importance(results))}
    rows = [(row.arm, tables.estimate(row.error, "expected_calibration_error")) for row in results.reliability]
    return {
        "generated": roles.with_role(results, "synthetic"),
        "arms_by_role": roles.by_role(results),
        "same_seen": len({arm.images_seen for arm in results.arms}) == 1,
        "adjusted": any(arm.logit_adjustment for arm in results.arms),
        "calibration": sorted(rows, key=lambda row: order.get(row[0], len(order))),
    }


def _evidence(run: Run) -> dict:
    """What the page says of verdicts and of what they stand on."""
    results = run.results
    columns = evidence.slice_columns(results)
    shown, folded = evidence.warnings(results)
    return {
        "cards": evidence.cards(results),
        "details": evidence.details(results),
        "registered": evidence.registered(results.registration) if results.registration else "",
        "comparisons": tables.comparisons_by_measure(results),
        "cautious": any(row.cautious_low is not None for row in results.comparisons),
        "notes": list(dict.fromkeys(note for row in results.comparisons for note in row.notes)),
        "ways": list(dict.fromkeys(row.method for row in results.comparisons if row.method)),
        "rival_choice": evidence.rival_choice(results),
        "controls": evidence.controls(results),
        "controls_missing": evidence.missing_controls(results),
        "power_rows": evidence.power_rows(results),
        "warnings": shown,
        "more_warnings": folded,
        "slice_columns": columns,
        "num_slice_columns": 3 + sum(1 + len(references) for _, references in columns),
        "slice_tables": evidence.slice_tables(results) if columns else [],
    }


def _sections(values: dict) -> dict[str, str]:
    """Id and title of the sections that there is something to show in, in the order of the page."""
    results, plots = values["results"], values["plots"]
    titles = {
        "comparison": ("Comparison", values["comparisons"]),
        "controls": ("Controls", values["controls"] or values["controls_missing"]),
        "effects": ("Effects on each class", plots.class_effects),
        "slices": ("Slices", values["slice_tables"] or values["warnings"]),
        "power": ("Power", values["power_rows"]),
        "arms": ("Arms", results.arms),
        "curves": ("Learning curves", plots.curves),
        "classes": ("Classes", values["reports"]),
        "calibration": ("Calibration", plots.reliability),
        "confusion": ("Confusion matrices", plots.confusions),
        "explanations": ("What the classifiers looked at", values["explanations"]),
        "images": ("Real and generated images", values["galleries"]),
        "fidelity": ("How true the generated images are", values["fidelity"]),
        "generators": ("Generator training", plots.losses or values["previews"]),
        "selection": ("Selection of generated images", values["selections"]),
        "audit": ("Audit of the data", values["audit"]),
        "split": ("Split", results.split),
        "methods": ("Methods, to paste", values["methods"]),
        "tables": ("Tables as files", values["tables"]),
        "cost": ("Cost", values["costs"]),
        "repeat": ("Repeat it", results.command or values["environment"] or values["recipe"]),
        "data": ("Data and attribution", results.study.data.note or results.study.data.source),
    }
    return {name: title for name, (title, content) in titles.items() if content}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("moulage.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        MOST_NAMES=MOST_NAMES,
        MOST_SHOWN=roles.MOST_SHOWN,
        FIDELITY=fidelity.COLUMNS,
        MEASURES=tables.MEASURES,
        NONE=tables.NONE,
        ROLES=roles.TITLES,
        TABLES=TABLES,
    )
    environment.filters.update(
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


def _style() -> str:
    return resources.files("moulage.report").joinpath("style.css").read_text(encoding="utf-8")
