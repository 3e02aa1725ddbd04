"""The recipe of a study of these data, at any size: the template's values, and what such a study finds."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moulage import arm
from moulage import recipe as recipes
from moulage.proposal import choice as choices
from moulage.proposal.choice import Choice
from moulage.proposal.cost import Clock
from moulage.proposal.holding import held_back
from moulage.proposal.ladder import BATCH, PREVIEWS, Rung
from moulage.proposal.reach import Reach, reach
from moulage.proposal.survey import Survey
from moulage.proposal.writing import written
from moulage.recipe import Recipe

ENLARGED = 160
"""Pixels a side at which the network sees the images once more where the hours pay it."""
NO_UP_OR_DOWN = ("isic2019", "ham10000")
"""Sources of dermoscopy, whose images mean the same turned around."""


@dataclass(frozen=True)
class Draft:
    """What all recipes for these data share."""

    there: Survey
    choice: Choice
    clock: Clock
    data: Path
    hours: float
    smallest_effect: float
    file: str

    def recipe(self, rung: Rung, images: int) -> Recipe:
        """The recipe of a rung, checked."""
        return recipes.parse(tomllib.loads(self.text(rung, images)), where=self.file)

    def text(self, rung: Rung, images: int, **comments: Sequence[str]) -> str:
        """Its text; comments on numbers are empty while sizes are compared."""
        return written(
            {
                "there": [],
                "costs": [],
                "finds": [],
                **comments,
                "name": self.name,
                "question": self.question,
                "file": self.file,
                "workers": self.clock.num_workers,
                "hours": self.hours,
                "choice": self.choice,
                "below": round(100 * choices.BELOW_MEAN),
                "smallest_effect": self.smallest_effect,
                "source": self.there.source,
                "path": str(self.data),
                "options": self.there.options,
                "left_out_words": ", ".join(f"{name} {number}" for name, number in self.choice.left_out.items()),
                "doses": self.choice.doses,
                "held": held_back(self.choice, self.there, self.clock, rung.num_folds),
                "rung": rung,
                "images": images,
                "batch": BATCH,
                "preview_every": max(1, images // BATCH // PREVIEWS),
                "ema": max(BATCH, images // 10),
                "size": self.size_drawn(rung),
                "num_scored": 128 if rung.features == 1 else 256,
                "num_judged": 64,
                "networks": self.networks(rung),
            }
        )

    @property
    def name(self) -> str:
        """Of the study and its run folder."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.there.catalog.name).strip("-._") or "study"
        return plain[:60]

    @property
    def question(self) -> str:
        """In one sentence."""
        listed = ", ".join(self.choice.targets)
        if self.choice.is_scarce:
            return f"Where {listed} are made scarce: what are images that a small GAN draws of them worth?"
        return f"Do images of {listed}, drawn by a small GAN, help more than copies of real ones and than cheap rivals?"

    def size_drawn(self, rung: Rung) -> int:
        """Side of the images, real and drawn: a power of two that is not above the data's own."""
        most = 128 if rung.generator == "projected_gpu" else 64
        return next(side for side in (most, 64, 32, 16) if side <= max(16, min(most, self.there.side)))

    def networks(self, rung: Rung) -> list[dict[str, Any]]:
        """The frozen networks of the classifier."""
        turned = rung.features == 3 and self.there.source in NO_UP_OR_DOWN
        why = "All stages of the network, the images as they are"
        why += ", in four quarter turns: dermoscopy has no up or down." if turned else "."
        found = [{"why": why, "input_size": self.size_drawn(rung), "symmetries": 4 if turned else 1}]
        if rung.features > 1:
            again = (
                "The same images once more, enlarged: better features at several times the time (docs/classifiers.md)."
            )
            found.append({"why": again, "input_size": ENLARGED, "symmetries": 1})
        return found

    def reach(self, recipe: Recipe) -> Reach:
        """What effect the recipe's study finds."""
        roles, split = arm.roles(recipe), recipe.split
        each = list(roles.values())
        return reach(
            self.choice.lesions,
            self.smallest_effect,
            num_folds=split.num_folds,
            num_repeats=split.num_repeats,
            num_arms=len(each),
            family=len(recipe.family(roles)),
            rivals=each.count("rival"),
            has_control="positive" in each,
        )
