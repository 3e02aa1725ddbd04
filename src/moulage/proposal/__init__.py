"""The first recipe for a data set: what is there, which question it can bear, what fits into some hours, what it finds.

``propose`` looks, chooses and times; nothing is trained, and nothing is written. What it gives is a text: a recipe with
a comment on every choice. It is planned as a study is before it is given, so it can be run as it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moulage import backbones
from moulage.errors import RecipeError
from moulage.proposal import choice as choices
from moulage.proposal import told
from moulage.proposal.choice import Choice
from moulage.proposal.cost import Clock
from moulage.proposal.draft import Draft
from moulage.proposal.holding import held_back
from moulage.proposal.ladder import CPU, GPU, Taken, take
from moulage.proposal.reach import LARGEST, Reach, reach
from moulage.proposal.survey import Survey, survey
from moulage.recipe import Recipe

__all__ = ["Proposal", "propose"]


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
        raise RecipeError(f"{hours:g} hours are no time.", "Give --hours a number above 0.")
    is_gpu = pick_device(device).type == "cuda"
    backbones.check_installed(backbones.Backbone())
    say("looking at the data")
    there = survey(data, source, options or {})
    findings = told.there(there)
    of_rare, made_scarce = choices.choose(there.classes, targets)
    clock = Clock(device, workers, there.catalog, there.seconds_an_image)
    found = _that_can_answer(of_rare, made_scarce, smallest_effect, clock, there)
    findings += told.choice(there, of_rare, made_scarce, found)
    if found is None:
        return Proposal(there, None, None, None, {}, tuple(findings))
    say("timing generators and classifiers")
    draft = Draft(there, found, clock, data.absolute(), hours, smallest_effect, file)
    taken = take(GPU if is_gpu else CPU, hours, draft.recipe, clock.cost)
    reached = draft.reach(taken.recipe)
    costs, finds = told.cost(taken, hours), told.reach(reached)
    text = draft.text(taken.rung, taken.images, there=findings, costs=costs, finds=finds)
    paces = told.paces(clock)
    return Proposal(there, found, taken, reached, paces, tuple(findings), tuple(costs), tuple(finds), text)


def _that_can_answer(
    of_rare: Choice | None, made_scarce: Choice | None, effect: float, clock: Clock, there: Survey
) -> Choice | None:
    """The study of the rare classes where it may find a gain; else that of classes made scarce; None where neither may.

    What was asked for by name is written, whatever it finds.
    """
    for each in filter(None, (of_rare, made_scarce)):
        can = each.was_asked or reach(each.lesions, effect, **LARGEST).can_answer
        if can and (not each.is_scarce or held_back(each, there, clock, CPU[0].num_folds).doses):
            return each
    return None
