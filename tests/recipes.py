"""Recipes of the tests: one small study of phantom images, and what a test changes in it."""

from typing import Any

import pytest

from moulage.recipe import merge
from tiny_generators import TINY

SCRATCH: dict[str, Any] = {"name": "test_resnet", "weights": "scratch"}
"""A backbone that is made at once and needs no file of weights."""
SLOW = [pytest.param("study", marks=pytest.mark.slow)]
"""Parameters of a fixture that runs a study, so that each test of it is slow."""
SMALL: dict[str, Any] = {
    "study": {"name": "small", "num_trials": 1, "target_classes": ["AK"]},
    "data": {"source": "phantom", "options": {"num_images": 260, "size": 32}},
    "split": {"validation": 0.2, "test": 0.3},
    "classifier": {"plugin": "probe", "options": {"size": 32, "backbone": SCRATCH}},
    "arms": {"none": {"balance": "none"}},
}


def phantom_recipe(**tables: dict[str, Any]) -> dict[str, Any]:
    """The values of ``SMALL`` with these tables merged into its own: ``phantom_recipe(study={"num_trials": 2})``."""
    return merge(SMALL, tables)


def tiny_gan(*classes: str, **options: Any) -> dict[str, Any]:
    """A generator that is fitted in a moment."""
    return {"plugin": "dcgan", "classes": classes, "size": 32, "options": TINY["dcgan"] | {"batch_size": 4} | options}
