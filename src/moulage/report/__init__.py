"""One HTML file that shows a whole run, opens offline and asks nothing of any network."""

from pathlib import Path

from moulage.runs import write_text


def write(run: Path) -> Path:
    """Write ``run/report.html`` and the figures in ``run/figures/`` (SVG and PNG) from what the run folder holds.

    The same folder gives the same bytes. Parts that the run did not record are left out.

    Args:
        run: the run folder; ``results.json`` must be there.

    Returns:
        The path of the report.

    Raises:
        RunError: there is no ``results.json`` yet, or a file is broken.
    """
    from moulage.report import figures, page, reading  # here, so that importing the report does not load matplotlib

    loaded = reading.read(run)
    write_text(run / "report.html", page.render(loaded, figures.all_plots(loaded, run / "figures")))
    return run / "report.html"
