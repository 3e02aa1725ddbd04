"""An arm of a study: what it is for, what it adds, how it trains, what it is compared with, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np

from moulage import contracts
from moulage.contracts import BalancePlugin, Role
from moulage.errors import RecipeError, nearest
from moulage.recipe import Recipe
from moulage.recipe_tables import ArmOptions
from moulage.treatment import PLAIN, Treatment, combined, drawn

NO_CLASSES = ("one", "two")
"""Stand in for the data's classes, one image each, where a treatment is only looked at."""


@dataclass(frozen=True)
class Ways:
    """How an arm answers imbalance, as plain values: all that a stage on another machine needs of it."""

    balance: str  # the plug-in that may add rows, with its options
    balance_config: dict[str, Any]
    treatment: str  # the one beside it that changes the training; empty for none
    treatment_config: dict[str, Any]
    adjust: bool  # whether the logits are adjusted after training

    @property
    def plugs(self) -> list[tuple[BalancePlugin, Any]]:
        """The plug-ins, each with its options."""
        named = [(self.balance, self.balance_config), (self.treatment, self.treatment_config)]
        found = [(contracts.balance(name), given) for name, given in named if name]
        return [(plug, plug.configure(given)) for plug, given in found]

    def treat(self, counts: np.ndarray) -> Treatment:
        """How the arm trains; ``counts``: images of each class that it trains on, real and added, int64 [K]."""
        return treat(self.plugs, counts)

    @property
    def treatments(self) -> list[str]:
        """Which of the plug-ins change the training."""
        return [plug.name for plug, _ in self.plugs if plug.treat]

    @property
    def is_positive(self) -> bool:
        """Whether held-back real images are added, which no other arm may."""
        return contracts.balance(self.balance).role == "positive"


def treat(plugs: Sequence[tuple[BalancePlugin, Any]], counts: np.ndarray) -> Treatment:
    """How balance plug-ins treat the training together; plainly where none says anything of it.

    A loss beside a sampling is told the counts as they are drawn: it answers the imbalance that is left.

    Raises:
        RecipeError: they do not go together.
    """
    treats = [(plug.treat, config) for plug, config in plugs if plug.treat]
    alone = [of(config, counts) for of, config in treats]
    sampling = reduce(combined, (each for each in alone if each.class_weights), PLAIN)
    seen = drawn(counts, sampling)
    found = [
        of(config, seen) if each.loss and not each.class_weights else each
        for (of, config), each in zip(treats, alone, strict=True)
    ]
    return reduce(combined, found, PLAIN)


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
        return Ways(options.balance, balance.model_dump(mode="json"), options.treatment, treatment, self.adjusts)

    @property
    def adjusts(self) -> bool:
        """Whether the logits of this arm are adjusted after training."""
        options = self.options
        if any(contracts.balance(each).is_posthoc for each in (options.balance, options.treatment) if each):
            return True
        return self.recipe.study.logit_adjustment if options.logit_adjustment is None else options.logit_adjustment

    @property
    def role(self) -> Role:
        """What the arm is for.

        It is the ROLE of its balance plug-in, overridden by that of the generator that it draws from. A reference that
        is trained or adjusted otherwise than the study's other arms is a rival. A plug-in without a ROLE is
        ``synthetic`` where it is given generated images, else a ``rival``.
        """
        options = self.options
        default: Role = "synthetic" if options.generator or options.samples else "rival"
        role = contracts.balance(options.balance).role or default
        if options.generator and contracts.generator(self.recipe.generators[options.generator].plugin).is_null:
            role = "null"
        differs = bool(options.treatment) or self.adjusts != self.recipe.study.logit_adjustment
        return "rival" if role == "reference" and differs else role

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

    @property
    def selects_for(self) -> str:
        """The arm whose images are selected, of which this one takes as many as it adds: that of its curve with the
        largest dose, so that doses are nested; else itself.
        """
        of = self.options
        points = [
            (each.dose, name)
            for name, each in self.recipe.arms.items()
            if of.curve and (each.curve, each.series) == (of.curve, of.series)
        ]
        return max(points)[1] if points else self.name

    def check(self) -> None:
        """Its plug-ins exist, take their options, go together, and suit the classifier.

        Raises:
            RecipeError: naming the place.
        """
        options, plugs = self.options, self.ways.plugs
        if options.treatment and not (plugs[1][0].treat or plugs[1][0].is_posthoc):
            raise RecipeError(
                f'arms.{self.name}.treatment: "{options.treatment}" adds images, and is no treatment.',
                f"Use it as arms.{self.name}.balance.",
            )
        counts = np.ones(len(NO_CLASSES), np.int64)
        for key, (plug, config) in zip(("balance", "treatment"), plugs, strict=False):
            _check_treatment(self.recipe, treat([(plug, config)], counts), f'arms.{self.name}.{key} = "{plug.name}"')
            if plug.is_posthoc and options.logit_adjustment is False:
                raise RecipeError(
                    f'arms.{self.name}: "{plug.name}" is logit adjustment, and logit_adjustment = false forbids it.',
                    "Leave logit_adjustment out.",
                )
        try:
            treat(plugs, counts)
        except RecipeError as error:
            raise RecipeError(
                f'arms.{self.name}: "{options.balance}" and "{options.treatment}": {error.message}',
                "Leave out one of them.",
            ) from None
        if self.ways.is_positive:
            self._check_positive()

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


def _check_treatment(recipe: Recipe, treatment: Treatment, where: str) -> None:
    """The recipe's classifier can do what the treatment asks for."""
    chosen = recipe.classifier
    plug = contracts.classifier(chosen.plugin)
    if treatment.needs_pixels and plug.embedding:
        raise RecipeError(
            f'{where}: it changes pixels, and the classifier "{chosen.plugin}" reads embeddings.',
            "Leave the arm out, or use a classifier that reads pixels, such as finetune.",
        )
    classifier = plug.Classifier(plug.configure(chosen.options, "classifier.options"), NO_CLASSES)
    try:
        contracts.check_treatment(classifier, treatment)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.message}", error.hint) from None


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

        Of several such duplicates that with the arm's own treatment is taken.
        """
        arms, found = self.recipe.arms, dict[str, str]()
        copies = [
            name
            for name, other in arms.items()
            if other.balance == "duplicates" and name != arm and self.additions(name) == self.additions(arm)
        ]
        copies.sort(key=lambda name: arms[name].treatment != arms[arm].treatment)
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
        return f"Adding {added} ({'; '.join(filter(None, [arm, *each, drawn_by, treated]))})"

    def point(self, arm: str) -> str:
        """The images that a point of a curve adds, in words, such as ``400 generated AK images (dcgan)``."""
        options, numbers = self.recipe.arms[arm], self._numbers(arm)
        if not options.generator:
            return self._images(numbers, "copied ")
        return f"{self._images(numbers, 'generated ')} ({options.series})"

    def _numbers(self, arm: str) -> dict[str, tuple[int, int]]:
        """Class -> fewest and most images that an arm adds over the trials."""
        kept = self.kept.get(arm, {})
        return {label: kept.get(label, (number, number)) for label, number in self.additions(arm).items()}

    @staticmethod
    def _images(numbers: Mapping[str, tuple[int, int]], kind: str) -> str:
        low, high = (sum(ends[side] for ends in numbers.values()) for side in (0, 1))
        label = f"{next(iter(numbers))} " if len(numbers) == 1 else ""
        return f"{_from_to(low, high)} {kind}{label}images"


def _from_to(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
