"""The first recipe for a data set: what is there, which question it can bear, what fits into some hours, what it finds.

``propose`` looks, chooses and times; nothing is trained, and nothing is written. What it gives is a text: a recipe with
a comment on every choice. It is planned as a study is before it is given, so it can be run as it stands.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moulage import arm, backbones
from moulage import recipe as recipes
from moulage.errors import RecipeError
from moulage.proposal import choice as choices
from moulage.proposal import told
from moulage.proposal.choice import Choice
from moulage.proposal.cost import Clock
from moulage.proposal.holding import held_back
from moulage.proposal.ladder import BATCH, CPU, GPU, PREVIEWS, Rung, Taken, take
from moulage.proposal.reach import LARGEST, Reach, reach
from moulage.proposal.survey import Survey, survey
from moulage.proposal.writing import written
from moulage.recipe import Recipe

__all__ = ["Proposal", "propose"]

MOST_PIXELS = 160
"""Images are kept at their own size, up to so many pixels a side; the network sees them enlarged to that, too."""
LEAST_PIXELS = 32
SEEN_PIXELS = 96
"""At which the network sees larger images once, beside ``MOST_PIXELS``."""
NO_UP_OR_DOWN = ("isic2019", "ham10000")
"""Sources of dermoscopy, whose images mean the same turned around."""


@dataclass(frozen=True)
class Proposal:
    """What was found, and the recipe."""

    there: Survey
    choice: Choice | None  # None: no study of these data can answer, and there is no recipe
    taken: Taken | None
    reach: Reach | None
    paces: dict[str, float]  # what was timed, in words -> CPU-seconds
    findings: tuple[str, ...]  # sentences on what is there, and what follows
    costs: tuple[str, ...] = ()  # on what the study takes
    finds: tuple[str, ...] = ()  # on what it can find, and what not
    text: str = ""  # the recipe; empty where there is none

    @property
    def recipe(self) -> Recipe | None:
        """The recipe, parsed."""
        return self.taken.recipe if self.taken else None


def propose(
    data: Path,
    hours: float,
    *,
    source: str = "",
    options: Mapping[str, Any] | None = None,
    targets: Sequence[str] = (),
    smallest_effect: float = 0.02,
    workers: int = 2,
    device: str = "auto",
    file: str = "recipe.toml",
    say: Callable[[str], None] = lambda text: None,
) -> Proposal:
    """Look at data and write the recipe of a study of them that takes some hours on this machine.

    Args:
        data: folder or file of the data.
        hours: that the study may take, on the clock, where the machine does nothing else.
        source: layout of the data; recognised if empty.
        options: of the source.
        targets: the classes that the study is about; the rare ones if empty.
        smallest_effect: smallest gain of mean average precision that matters (0.02 = 2 points).
        workers: processes that the study will have.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        file: what the recipe will be called, for its comments.
        say: told what is done.

    ``RecipeError``: the hours are too few for anything (it says what is the least), or there are no weights of a
    network. ``DataError``: no images, wrong targets, or data that cannot be split.
    """
    from moulage.devices import pick_device

    if not hours > 0:
        raise RecipeError(f"{hours:g} hours are none.", "Give --hours a number above 0.")
    is_gpu = pick_device(device).type == "cuda"
    backbones.check_installed(backbones.Backbone())
    say("looking at the data")
    there = survey(data, source, options or {})
    findings = told.there(there)
    of_rare, made_scarce = choices.choose(there.classes, targets)
    clock = Clock(device, workers, there.catalog, there.seconds_an_image)
    found = _that_can_answer(of_rare, made_scarce, smallest_effect, clock, there, bool(targets))
    findings += told.choice(there, of_rare, made_scarce, found)
    if found is None:
        return Proposal(there, None, None, None, {}, tuple(findings))
    say("timing generators and classifiers")
    draft = _Draft(there, found, clock, data.absolute(), hours, smallest_effect, file)
    taken = take(GPU if is_gpu else CPU, hours, draft.recipe, clock.cost)
    reached = draft.reach(taken.recipe)
    costs, finds = told.cost(taken, hours), told.reach(reached)
    text = draft.text(taken.rung, taken.images, there=findings, costs=costs, finds=finds)
    paces = told.paces(clock)
    return Proposal(there, found, taken, reached, paces, tuple(findings), tuple(costs), tuple(finds), text)


def _that_can_answer(
    of_rare: Choice | None, made_scarce: Choice | None, effect: float, clock: Clock, there: Survey, was_asked: bool
) -> Choice | None:
    """The study of the rare classes where it may find a gain; else that of classes made scarce; None where neither may.

    What was asked for by name is written, whatever it finds.
    """
    for each in filter(None, (of_rare, made_scarce)):
        can = was_asked or reach(each.lesions, effect, **LARGEST).can_answer
        if can and (not each.is_scarce or held_back(each, there, clock, CPU[0].num_folds)):
            return each
    return None


@dataclass(frozen=True)
class _Draft:
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
                "real_doses": held_back(self.choice, self.there, self.clock, rung.num_folds),
                "rung": rung,
                "images": images,
                "batch": BATCH,
                "preview_every": max(1, images // BATCH // PREVIEWS),
                "ema": max(BATCH, images // 10),
                "size": self.size_drawn(rung),
                "num_scored": 128 if rung.features == 1 else 256,
                "num_judged": 64,
                "pixels": self.pixels,
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

    @property
    def pixels(self) -> int:
        """Side at which images are kept for the classifier."""
        return min(MOST_PIXELS, max(LEAST_PIXELS, self.there.side // 4 * 4))

    def size_drawn(self, rung: Rung) -> int:
        """Side of drawn images: a power of two that is not above the images' own."""
        most = 128 if rung.generator == "projected_gpu" else 64
        return next(side for side in (most, 64, 32, 16) if side <= max(16, min(most, self.there.side)))

    def networks(self, rung: Rung) -> list[dict[str, Any]]:
        """The frozen networks of the classifier."""
        own = min(self.pixels, SEEN_PIXELS)
        turned = rung.features == 3 and self.there.source in NO_UP_OR_DOWN
        why = "All stages of the network, the images as they are"
        why += ", in four quarter turns: dermoscopy has no up or down." if turned else "."
        found: list[dict[str, Any]] = [{"why": why, "input_size": own, "symmetries": 4 if turned else 1}]
        if rung.features > 1 and own != MOST_PIXELS:
            again = (
                "The same images once more, enlarged: better features at three times the time (docs/classifiers.md)."
            )
            found.append({"why": again, "input_size": MOST_PIXELS, "symmetries": 1})
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
