"""Test images that ``moulage explain`` drew: bare, under each classifier's map, and beside generated images."""

from pathlib import Path
from typing import Any

from moulage.report.pictures import SIDE, shrunk
from moulage.report.run_files import Run
from moulage.report.tables import NONE
from moulage.results.explanations import ExplainedBy, ExplainedImage, Explanation, load
from moulage.results.record import Number

TITLE = "What the classifiers looked at"
MOST_IMAGES = 48
"""Test images in one page, all explanations together; each has up to eight pictures of about 10 kB."""
FINE = 7
"""Cells a side, of ImageNet networks at 224 px; with fewer a lesion and the skin around it share a cell."""
TINY = (SIDE, SIDE)
PARTS = ("head", "network")
"""What is shuffled in the networks whose maps are beside."""


def show(run: Run) -> dict[str, Any] | None:
    known = {fit.folder for fit in run.results.fits}
    found = [made for made in load(run.folder) if known.issuperset(made.fits)]  # others are of an earlier recipe
    limit = max(1, MOST_IMAGES // max(1, sum(len(made.groups) for made in found)))
    return {"explanations": [_explanation(made, run.folder / made.folder, limit) for made in found]} if found else None


def _explanation(made: Explanation, folder: Path, limit: int) -> dict[str, Any]:
    """One arm in one trial; ``cells`` is how fine its maps are, ``coarse``: too coarse to point at a lesion."""
    known, sides = {each.image: each for each in made.images}, sorted(set(made.cells.values()))
    return {
        "made": made,
        "cells": " or ".join(f"{side} × {side}" for side in sides),
        "coarse": bool(sides) and sides[0] < FINE,
        "checks": [
            (arm, [correlation(parts[part].mean) for part in PARTS], min(check.num_maps for check in parts.values()))
            for arm, parts in made.checks.items()
        ],
        "groups": [
            (group, [_image(known[name], folder, beside=group.beside) for name in group.images[:limit]])
            for group in made.groups
        ],
    }


def _image(of: ExplainedImage, folder: Path, *, beside: bool) -> dict[str, Any]:
    """One test image: what each arm ``said`` of it, and pictures as (data URI, what stands below it, what it shows)."""
    pictures = [(shrunk(folder / of.file, TINY), "as it is", f"test image {of.image} of {of.label}")]
    pictures += [
        (
            shrunk(folder / drawn.file, TINY),
            f"{by.arm}: {drawn.label}" + (" (empty)" if drawn.is_empty else ""),
            f"map of {by.arm} for {drawn.label} over {of.image}",
        )
        for by in of.arms
        for drawn in by.maps
    ]
    generated = [
        (shrunk(folder / near.file, TINY), f"{near.label}, {near.distance:.1f}", f"generated image {near.image}")
        for near in (of.neighbours if beside else [])
    ]
    checks = [f"{by.arm} {' and '.join(correlation(by.checks[part]) for part in PARTS)}" for by in of.arms if by.maps]
    return {
        "of": of,
        "change": "" if of.change is None else f"{of.change:+.2f}".replace("-", "−"),
        "said": [_said(by, of.label) for by in of.arms],
        "checks": "; ".join(checks),
        "pictures": pictures,
        "generated": generated,
    }


def _said(by: ExplainedBy, label: str) -> str:
    """What a classifier said: ``dcgan: NV 0.91 (AK 0.04)``."""
    text = f"{by.arm}: {by.predicted} {_probability(by.probability)}"
    return text if by.predicted == label else f"{text} ({label} {_probability(by.probability_true)})"


def _probability(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 else "<\u00a00.01"


def correlation(value: Number) -> str:
    """A rank correlation as text."""
    return NONE if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
