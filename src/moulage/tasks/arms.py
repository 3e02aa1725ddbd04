"""What an arm's plug-ins are and whether they go together; known from the recipe alone, before any work."""

from collections.abc import Sequence
from functools import reduce
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import BaseModel

from moulage import plugins
from moulage.errors import RecipeError, nearest
from moulage.recipe import Recipe
from moulage.recipe_tables import METADATA
from moulage.treatment import PLAIN, Treatment, combined, drawn

NO_CLASSES = ("one", "two")
"""Stand in for the data's classes, one image each, where a treatment is only looked at."""


def check_arm(recipe: Recipe, name: str) -> None:
    """The arm's plug-ins exist, take their options, go together, and suit the classifier."""
    arm = recipe.arms[name]
    balance = plugins.load("balance", arm.balance)
    configs = {"balance": plugins.configure("balance", arm.balance, arm.options, f"arms.{name}.options")}
    modules = {"balance": balance}
    if arm.treatment:
        where = f"arms.{name}.treatment"
        treatment = plugins.load("balance", arm.treatment)
        configs["treatment"] = plugins.configure("balance", arm.treatment, arm.treatment_options, f"{where}_options")
        modules["treatment"] = treatment
        if not (hasattr(treatment, "treat") or is_posthoc(treatment)):
            raise RecipeError(
                f'{where}: "{arm.treatment}" adds images, and is no treatment.', f"Use it as arms.{name}.balance."
            )
    counts = np.ones(len(NO_CLASSES), np.int64)
    for key, module in modules.items():
        _check_treatment(recipe, treat([(module, configs[key])], counts), f'arms.{name}.{key} = "{getattr(arm, key)}"')
        if is_posthoc(module) and arm.logit_adjustment is False:
            raise RecipeError(
                f'arms.{name}: "{getattr(arm, key)}" is logit adjustment, and logit_adjustment = false forbids it.',
                "Leave logit_adjustment out.",
            )
    try:
        treat([(modules[key], configs[key]) for key in modules], counts)
    except RecipeError as error:
        raise RecipeError(
            f'arms.{name}: "{arm.balance}" and "{arm.treatment}": {error.message}', "Leave out one of them."
        ) from None
    if is_positive(balance):
        _check_positive(recipe, name)


def treat(plugs: Sequence[tuple[ModuleType, BaseModel]], counts: np.ndarray) -> Treatment:
    """How balance plug-ins treat the training together; plainly where none says anything of it.

    A loss beside a sampling is told the counts as they are drawn: it answers the imbalance that is left.

    Args:
        plugs: modules, each with its options.
        counts: images that the arm trains on, of each class, int64 [K].

    Raises:
        RecipeError: they do not go together.
    """
    treats = [(module.treat, config) for module, config in plugs if hasattr(module, "treat")]
    alone = [of(config, counts) for of, config in treats]
    sampling = reduce(combined, (each for each in alone if each.class_weights), PLAIN)
    seen = drawn(counts, sampling)
    found = [
        of(config, seen) if each.loss and not each.class_weights else each
        for (of, config), each in zip(treats, alone, strict=True)
    ]
    return reduce(combined, found, PLAIN)


def treatments(balance: str, treatment: str) -> list[str]:
    """Which of an arm's two plug-ins change the training."""
    names = [name for name in (balance, treatment) if name]
    return [name for name in names if hasattr(plugins.load("balance", name), "treat")]


def check_metadata(recipe: Recipe) -> None:
    """The classifier reads the metadata that the recipe gives it, and is given those that it cannot do without."""
    chosen = recipe.classifier
    reads = getattr(plugins.load("classifiers", chosen.plugin), "METADATA", "")
    if chosen.metadata and not reads:
        able = [n for n in plugins.names("classifiers") if getattr(plugins.load("classifiers", n), "METADATA", "")]
        raise RecipeError(
            f'classifier.metadata: the classifier "{chosen.plugin}" reads images alone.',
            f"Leave it out, or use one of {', '.join(able)}.",
        )
    if reads == "required" and not chosen.metadata:
        raise RecipeError(
            f'classifier.metadata: the classifier "{chosen.plugin}" reads nothing else, and it is empty.',
            f"Set some of {', '.join(METADATA)}.",
        )


def check_selection(recipe: Recipe, name: str) -> None:
    """The selection's rules exist and take their options, and its feature network can be had."""
    selection = recipe.selections[name]
    for number, rule in enumerate(selection.rules):
        plugins.configure("selection", rule.plugin, rule.options, f"selections.{name}.rules.{number}.options")
    feature_network(selection.features, f"selections.{name}.features")


def check_fidelity(recipe: Recipe) -> None:
    """The feature network that generators are judged and scored in can be had, where any are."""
    if recipe.generators and (recipe.fidelity.num_images or recipe.fidelity.judge_images):
        try:
            feature_network(recipe.fidelity.features, "fidelity.features")
        except RecipeError as error:
            away = "Or score no generator: num_images = 0 and judge_images = 0 in [fidelity]."
            raise RecipeError(f"Generators cannot be scored. {error.message}", f"{error.hint} {away}".strip()) from None


def feature_network(features: dict[str, Any], where: str) -> dict[str, Any]:
    """A feature network that can be had: all its options (``features``), and its name (``network``), its alone.

    Raises:
        RecipeError: a wrong option, or its weights are not installed.
    """
    from moulage.features import FeatureOptions, check_installed, features_name

    network = plugins.validate(FeatureOptions, features, where)
    check_installed(network)
    return {"features": network.model_dump(mode="json"), "network": features_name(network)}


def _check_treatment(recipe: Recipe, treatment: Treatment, where: str) -> None:
    """The recipe's classifier can do what the treatment asks for."""
    chosen = recipe.classifier
    module = plugins.load("classifiers", chosen.plugin)
    if treatment.needs_pixels and hasattr(module, "embed"):
        raise RecipeError(
            f'{where}: it changes pixels, and the classifier "{chosen.plugin}" reads embeddings.',
            "Leave the arm out, or use a classifier that reads pixels, such as finetune.",
        )
    config = plugins.configure("classifiers", chosen.plugin, chosen.options, "classifier.options")
    classifier = module.Classifier(config, NO_CLASSES)
    if hasattr(classifier, "check_treatment"):
        try:
            classifier.check_treatment(treatment)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error.message}", error.hint) from None


def _check_positive(recipe: Recipe, name: str) -> None:
    """An arm that gets the reserve has one to draw from, and draws from nothing else."""
    arm, targets = recipe.arms[name], recipe.study.target_classes
    if arm.generator or arm.samples:
        raise RecipeError(f"arms.{name} adds held-back real images, and is given generated ones.", "Leave them out.")
    if not recipe.split.reserve:
        raise RecipeError(
            f'arms.{name}: "{arm.balance}" adds images that were held back, and split.reserve is 0.',
            "Set split.reserve, such as 0.2: that share of the target classes' training lesions is held back.",
        )
    for wanted in recipe.wanted(name):
        if wanted not in targets:
            raise RecipeError(
                f'arms.{name} adds "{wanted}", of which nothing is held back: it is none of study.target_classes.',
                nearest(wanted, targets),
            )


def is_positive(balance: ModuleType) -> bool:
    """Whether this balance plug-in adds images of the reserve, and no other may."""
    return getattr(balance, "ROLE", "") == "positive"


def is_posthoc(balance: ModuleType) -> bool:
    """Whether this balance plug-in stands for logit adjustment after training."""
    return bool(getattr(balance, "POSTHOC", False))


def adjusts(recipe: Recipe, name: str) -> bool:
    """Whether the logits of this arm are adjusted after training."""
    arm = recipe.arms[name]
    if any(is_posthoc(plugins.load("balance", each)) for each in (arm.balance, arm.treatment) if each):
        return True
    return recipe.study.logit_adjustment if arm.logit_adjustment is None else arm.logit_adjustment


def role_of(recipe: Recipe, name: str) -> str:
    """What the arm is for: ``reference``, ``rival``, ``null``, ``positive`` or ``synthetic``.

    It is the ROLE of its balance plug-in, overridden by that of the generator that it draws from. A reference that is
    trained or adjusted otherwise than the study's other arms is a rival. A plug-in without a ROLE is ``synthetic``
    where it is given generated images, else a ``rival``.
    """
    arm = recipe.arms[name]
    default = "synthetic" if arm.generator or arm.samples else "rival"
    role = getattr(plugins.load("balance", arm.balance), "ROLE", default)
    if arm.generator:
        role = getattr(plugins.load("generators", recipe.generators[arm.generator].plugin), "ROLE", role)
    differs = bool(arm.treatment) or adjusts(recipe, name) != recipe.study.logit_adjustment
    return "rival" if role == "reference" and differs else role
