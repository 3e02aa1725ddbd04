"""The sections of the page, in its order. A section is a module here and the template of the same name beside it."""

from collections.abc import Mapping
from typing import Any, Protocol

from moulage.report.run_files import Run
from moulage.report.sections import (
    arms,
    audit,
    calibration,
    classes,
    comparison,
    confusion,
    controls,
    cost,
    curves,
    data,
    effects,
    explanations,
    fidelity,
    generators,
    images,
    methods,
    power,
    repeat,
    selection,
    slices,
    split,
    tables,
)


class Section(Protocol):
    """A module; the last part of its ``__name__`` is the section's id and names its template."""

    __name__: str

    @property
    def TITLE(self) -> str:
        """Its heading."""
        ...

    @staticmethod
    def show(run: Run, /) -> Mapping[str, Any] | None:
        """What its template shows, by name; None where the run has nothing to show. It draws the section's figures.

        The template knows ``results`` and ``study`` too, and the filters and globals of ``page``.
        """
        ...


SECTIONS: tuple[Section, ...] = (
    comparison,
    controls,
    effects,
    slices,
    power,
    arms,
    curves,
    classes,
    calibration,
    confusion,
    explanations,
    images,
    generators,
    fidelity,
    selection,
    audit,
    split,
    methods,
    tables,
    cost,
    repeat,
    data,
)
