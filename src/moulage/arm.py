"""An arm of a study: what it is for, what it adds, how it trains, what it is compared with, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from moulage import contracts
from moulage import use as uses
from moulage.contracts import BalancePlugin, Role
from moulage.errors import RecipeError, nearest
from moulage.recipe import Recipe
from moulage.recipe_tables import ArmOptions
from moulage.treatment import Treatment, Ways, treat
from moulage.use import ADD, Use

NO_CLASSES = ("one", "two")
"""Stand in for the data's classes, one image each, where a treatment is only looked at."""


@dataclass(frozen=True)
class Arm:
    """One arm as the recipe has it; nothing here reads data."""

    recipe: Recipe
    name: str

    @property
    def options(self) -> ArmOptions:
        """Its table in the recipe."""
        return self.recipe.arms[self.name]

    @cached_property
    def ways(self) -> Ways:
        """Its plug-ins, with their options checked."""
        options, where = self.options, f"arms.{self.name}"
        balance = contracts.balance(options.balance).configure(options.options, f"{where}.options")
        treatment: dict[str, Any] = {}
        if options.treatment:
            plug = contracts.balance(options.treatment)
            configured = plug.configure(options.treatment_options, f"{where}.treatment_options")
            treatment = configured.model_dump(mode="json")
        point = self.recipe.study.operating_point
        return Ways(options.balance, balance.model_dump(mode="json"), options.treatment, treatment, point)

    @property
    def use(self) -> Use:
        """What is done with the images that it adds."""
        return self.options.used

    @property
    def role(self) -> Role:
        """What the arm is for.

        It is the ROLE of its balance plug-in, overridden by that of the generator that it draws from. A reference that
        is treated otherwise than the study's other arms is a rival. A plug-in without a ROLE is
        ``synthetic`` where it is given generated images, else a ``rival``.
        """
        options = self.options
        default: Role = "synthetic" if options.generator or options.samples else "rival"
        role = contracts.balance(options.balance).role or default
        if options.generator and contracts.generator(self.recipe.generators[options.generator].plugin).is_null:
            role = "null"
        return "rival" if role == "reference" and options.treatment else role

    @property
    def wanted(self) -> tuple[str, ...]:
        """The classes that it adds images of, its own or those of the arm that it is ``like``."""
        counted = self.recipe.arms[self.options.like or self.name]
        return (*counted.add, *counted.ratio)

    def additions(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How many images it adds to each class; ``counts``: images of each class in the training part, for ratios.

        Raises:
            RecipeError: a class is none of the data's.
        """
        counted = self.recipe.arms[self.options.like or self.name]
        for name in self.wanted:
            if name not in counts:
                raise RecipeError(f'arms.{self.name}: "{name}" is no class of the data.', nearest(name, counts))
        if counted.ratio:
            return {name: round(ratio * counts[name]) for name, ratio in counted.ratio.items()}
        return dict(counted.add)

    def leaving(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Real images of each class that leave the training for those that it adds; ``counts`` as of ``additions``.

        Raises:
            RecipeError: copies are to replace all that they could be copies of; a class is none of the data's.
        """
        if self.use.way != "replace":
            return {}
        found = {name: min(number, counts[name]) for name, number in self.additions(counts).items()}
        bare = [name for name, number in found.items() if number == counts[name]]
        if bare and self.options.balance == "duplicates":
            raise RecipeError(
                f'arms.{self.name}: copies are to take the place of all {counts[bare[0]]} real images of "{bare[0]}", '
                "and none is left to be copied.",
                "Add fewer than there are (in a curve: smaller doses), or use another way than replace.",
            )
        return found

    def num_slots(self, counts: Mapping[str, int]) -> int:
        """Images that an epoch of it holds beyond as many as there are real ones; ``counts`` as of ``additions``."""
        if self.use.way == "batch_share":
            return 0
        return sum(self.additions(counts).values()) - sum(self.leaving(counts).values())

    @property
    def selects_for(self) -> str:
        """The arm whose images are selected, of which this one takes as many as it adds: that of its curve with the
        largest dose, so that doses are nested; else itself.
        """
        return self.recipe.largest_dose(self.name)

    def check(self) -> None:
        """Its plug-ins exist, take their options, go together, and suit the classifier.

        Raises:
            RecipeError: naming the place.
        """
        options, plugs = self.options, self.ways.plugs
        if options.treatment and not (plugs[1][0].treat or plugs[1][0].strength):
            raise RecipeError(
                f'arms.{self.name}.treatment: "{options.treatment}" adds images, and is no treatment.',
                f"Use it as arms.{self.name}.balance.",
            )
        counts = np.ones(len(NO_CLASSES), np.int64)
        for key, (plug, config) in zip(("balance", "treatment"), plugs, strict=False):
            _check_treatment(self.recipe, treat([(plug, config)], counts), f'arms.{self.name}.{key} = "{plug.name}"')
        try:
            _check_point(plugs, treat(plugs, counts))
        except RecipeError as error:
            raise RecipeError(
                f'arms.{self.name}: "{options.balance}" and "{options.treatment}": {error.message}',
                "Leave out one of them.",
            ) from None
        if self.ways.is_positive:
            self._check_positive()
        self._check_use(treat(plugs, counts))

    def _check_use(self, treatment: Treatment) -> None:
        """It adds images, its treatment leaves them where its use puts them, and the classifier knows this use."""
        where = f'arms.{self.name}.use = "{self.use.way}"'
        if self.use.way != "add" and (self.ways.plugs[0][0].extend is None or self.options.balance == "none"):
            raise RecipeError(f'{where}: balance = "{self.options.balance}" adds no image.', "Leave use out.")
        if self.use.way == "batch_share" and (treatment.class_weights or treatment.retrain_head):
            raise RecipeError(
                f"{where} fixes what a batch holds, and {' and '.join(self.ways.treatments)} draws classes by weights.",
                "Leave one of them out.",
            )
        try:
            uses.check(_classifier(self.recipe), self.use)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error.message}", error.hint) from None

    def _check_positive(self) -> None:
        """An arm that gets the reserve has one to draw from, and draws from nothing else."""
        targets = self.recipe.study.target_classes
        if self.options.generator or self.options.samples:
            raise RecipeError(
                f"arms.{self.name} adds held-back real images, and is given generated ones.", "Leave them out."
            )
        split = self.recipe.split
        if not split.holds_back:
            raise RecipeError(
                f'arms.{self.name}: "{self.options.balance}" adds images that were held back, and split.reserve is 0.',
                "Set split.reserve, such as 0.2: that share of the target classes' training lesions is held back. Or "
                "set split.scarcity: so many of a class's lesions stay.",
            )
        where, known = (
            ("split.scarcity", tuple(split.scarcity)) if split.scarcity else ("study.target_classes", targets)
        )
        for wanted in self.wanted:
            if wanted not in known:
                raise RecipeError(
                    f'arms.{self.name} adds "{wanted}", of which nothing is held back: it is none of {where}.',
                    nearest(wanted, known),
                )


def _check_point(plugs: Sequence[tuple[BalancePlugin, Any]], together: Treatment) -> None:
    """An operating point of a plug-in's own is the only answer to the imbalance."""
    if sum(plug.strength is not None for plug, _ in plugs) > 1:
        raise RecipeError("Two that both set the operating point do not go together.")
    if any(plug.strength for plug, _ in plugs) and (together.loss or together.class_weights or together.retrain_head):
        raise RecipeError("The operating point and the training would both answer the imbalance.")


def _check_treatment(recipe: Recipe, treatment: Treatment, where: str) -> None:
    """The recipe's classifier can do what the treatment asks for."""
    chosen = recipe.classifier
    plug = contracts.classifier(chosen.plugin)
    if treatment.needs_pixels and plug.embedding:
        raise RecipeError(
            f'{where}: it changes pixels, and the classifier "{chosen.plugin}" reads embeddings.',
            "Leave the arm out, or use a classifier that reads pixels, such as finetune.",
        )
    try:
        contracts.check_treatment(_classifier(recipe), treatment)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.message}", error.hint) from None


def _classifier(recipe: Recipe) -> contracts.Classifier:
    """The recipe's classifier, for a question; nothing is loaded."""
    plug = contracts.classifier(recipe.classifier.plugin)
    return plug.Classifier(plug.configure(recipe.classifier.options, "classifier.options"), NO_CLASSES)


def arms_of(recipe: Recipe) -> dict[str, Arm]:
    """All arms of a study by name, in the order of the recipe."""
    return {name: Arm(recipe, name) for name in recipe.arms}


def roles(recipe: Recipe) -> dict[str, Role]:
    """What each arm is for."""
    return {name: arm.role for name, arm in arms_of(recipe).items()}


@dataclass(frozen=True)
class Design:
    """Who is compared with whom."""

    recipe: Recipe  # the study
    # images of each class in the training part (of the first trial), for arms that add by ratio
    counts: Mapping[str, int]
    rival: str = ""  # the best rival on validation, for measures that are not the primary one; empty without rivals
    # arm -> class -> fewest and most images that it added over the trials, where a selection left too few
    kept: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict[str, Mapping[str, tuple[int, int]]])

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """All arms by name, in the order of the recipe."""
        return arms_of(self.recipe)

    @cached_property
    def roles(self) -> dict[str, Role]:
        """What each arm is for."""
        return roles(self.recipe)

    @property
    def none(self) -> str:
        """The arm that adds nothing and treats nothing; empty where there is none."""
        arms = self.recipe.arms
        return next((name for name, arm in arms.items() if arm.balance == "none" and not arm.treatment), "")

    @property
    def family(self) -> tuple[str, ...]:
        """The arms over which p-values are corrected."""
        return self.recipe.family(self.roles)

    @property
    def controls(self) -> tuple[str, ...]:
        """The arms that show whether the study can be believed, in the order of the recipe."""
        return tuple(name for name in self.of_role("null", "positive") if self.recipe.is_decisive(name))

    def of_role(self, *wanted: Role) -> tuple[str, ...]:
        """Arms of these roles, in the order of the recipe."""
        return tuple(name for name, role in self.roles.items() if role in wanted)

    def additions(self, arm: str) -> dict[str, int]:
        """Images that an arm adds to each class (in the first trial)."""
        return self.arms[arm].additions(self.counts)

    def references(self, arm: str) -> dict[str, str]:
        """Role -> arm that this one is judged against: ``none``, ``duplicates`` of the same counts, the best ``rival``.

        Under the primary measure every rival takes the place of the best (``rival_pairs``).

        Of several such duplicates those that are used as the arm's own images are taken, else those that are added, and
        of these one with its treatment.
        """
        arms, found, own = self.recipe.arms, dict[str, str](), self.arms[arm].use
        copies = [
            name
            for name, other in arms.items()
            if other.balance == "duplicates" and name != arm and self.additions(name) == self.additions(arm)
        ]
        copies = [name for name in copies if self.arms[name].use in (own, ADD)]
        copies.sort(key=lambda name: (self.arms[name].use != own, arms[name].treatment != arms[arm].treatment))
        if self.none and self.none != arm:
            found["none"] = self.none
        if copies and arms[arm].balance != "duplicates":
            found["duplicates"] = copies[0]
        if self.rival and self.roles[arm] == "synthetic":
            found["rival"] = self.rival
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Every pair that the report shows: all arms with ``none``, those that add images with their copies, too."""
        found: list[tuple[str, str]] = []
        for arm in self.recipe.arms:
            against = self.references(arm)
            if self.roles[arm] in ("rival", "reference"):
                against = {role: name for role, name in against.items() if role == "none"}
            found += [(arm, name) for name in against.values()]
        return list(dict.fromkeys(found))

    def rival_pairs(self) -> list[tuple[str, str]]:
        """Every arm with generated images, with every rival: to help, it has to be better than each."""
        return [(arm, rival) for arm in self.of_role("synthetic") for rival in self.of_role("rival")]

    def change(self, arm: str) -> str:
        """What an arm did, in words."""
        options, numbers = self.recipe.arms[arm], self._numbers(arm)
        added = self._images(numbers, "generated " * (self.roles[arm] == "synthetic"))
        each = [", ".join(f"{_from_to(*ends)} {label}" for label, ends in numbers.items())] if len(numbers) != 1 else []
        how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.drawing.items())
        drawn_by = f"drawn by {options.generator}" if options.generator not in ("", arm) else ""
        drawn_by = " ".join(filter(None, [drawn_by, how and f"with {how}"]))
        treated = f"with {options.treatment}" if options.treatment else ""
        about = "; ".join(filter(None, [arm, *each, drawn_by, treated]))
        if self.arms[arm].use.way == "replace":
            return f"Putting {added} in place of {self._replaced(numbers)} real ones ({about})"
        return f"{' '.join(filter(None, ['Adding', added, self.arms[arm].use.words]))} ({about})"

    def _replaced(self, numbers: Mapping[str, tuple[int, int]]) -> str:
        """How many real images left for fewest and most images of each class that came."""
        leave = [sum(min(ends[side], self.counts[label]) for label, ends in numbers.items()) for side in (0, 1)]
        come = [sum(ends[side] for ends in numbers.values()) for side in (0, 1)]
        return "as many" if come == leave else _from_to(*leave)

    def point(self, arm: str) -> str:
        """The images that a point of a curve adds, in words, such as ``400 generated AK images (dcgan)``."""
        options, numbers = self.recipe.arms[arm], self._numbers(arm)
        if not options.generator:
            return self._images(numbers, "copied ")
        return f"{self._images(numbers, 'generated ')} ({options.series})"

    def _numbers(self, arm: str) -> dict[str, tuple[int, int]]:
        """Class -> fewest and most images that an arm adds over the trials."""
        kept = self.kept.get(arm, {})  # for its curve's largest dose, of which this arm may take a part
        found: dict[str, tuple[int, int]] = {}
        for label, number in self.additions(arm).items():
            low, high = kept.get(label, (number, number))
            found[label] = min(low, number), min(high, number)
        return found

    @staticmethod
    def _images(numbers: Mapping[str, tuple[int, int]], kind: str) -> str:
        low, high = (sum(ends[side] for ends in numbers.values()) for side in (0, 1))
        label = f"{next(iter(numbers))} " if len(numbers) == 1 else ""
        return f"{_from_to(low, high)} {kind}{label}images"


def _from_to(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
