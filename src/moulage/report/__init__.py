"""One HTML file that shows a whole run, opens offline and asks nothing of any network."""

from pathlib import Path

from moulage.runs import write_text


def write(run: Path) -> Path:
    """Write ``run/report.html``, ``run/figures/`` (SVG and PNG) and ``run/tables/`` (CSV, LaTeX, the methods as text).

    The same folder gives the same bytes. Parts that the run did not record are left out.

    Args:
        run: the run folder; ``results.json`` must be there.

    Returns:
        The path of the report.

    Raises:
        RunError: there is no ``results.json`` yet, or a file is broken.
    """
    # here, so that importing the report does not load matplotlib
    from moulage.report import export_tables, exports, figures, methods, page, reading

    loaded = reading.read(run)
    described = methods.text(loaded.results, str(loaded.environment.get("moulage", ""))) if loaded.results.arms else ""
    if described:
        write_text(run / page.TABLES / "methods.txt", described)
    files = exports.write(export_tables.tables(loaded.results), run / page.TABLES)
    plots = figures.all_plots(loaded, run / "figures")
    write_text(run / "report.html", page.render(loaded, plots, files, described))
    return run / "report.html"
