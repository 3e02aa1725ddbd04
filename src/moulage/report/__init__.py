"""One HTML file that shows a whole run, opens offline and asks nothing of any network."""

from pathlib import Path

from moulage.runs import write_text


def write(run: Path) -> Path:
    """Write ``run/report.html``, ``run/figures/`` (SVG and PNG) and ``run/tables/`` (CSV, LaTeX, the methods as text).

    The same folder gives the same bytes; sections that there is nothing to show in are left out. Returns the path of
    the report. ``RunError``: there is no ``results.json`` yet, or a file is broken.
    """
    # here, so that importing the report does not load matplotlib
    from moulage.report import page, run_files

    write_text(run / "report.html", page.render(run_files.read(run)))
    return run / "report.html"
