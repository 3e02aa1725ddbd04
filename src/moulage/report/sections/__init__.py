"""The sections of the page: each is a module here and the template of the same name beside it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from moulage.report.run_files import Run

SECTIONS = (
    *("worth", "comparison", "controls", "effects", "slices", "power"),
    *("arms", "curves", "classes", "calibration", "confusion", "explanations"),
    *("images", "generators", "fidelity", "selection"),
    *("audit", "split", "methods", "tables", "cost", "repeat", "data"),
)
"""Their names, which are their ids on the page, in its order."""


class Section(Protocol):
    """What a section's module has."""

    TITLE: str
    """Its heading."""

    @staticmethod
    def show(run: Run) -> Mapping[str, Any] | None:
        """What its template shows, by name; None where the run has nothing to show. It draws the section's figures.

        The template knows ``results`` and ``study`` too, and the filters and globals of ``page``.
        """
        ...


def load(name: str) -> Section:
    """The module of a section."""
    return cast(Section, import_module(f"{__name__}.{name}"))
