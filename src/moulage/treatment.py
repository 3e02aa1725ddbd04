"""How an arm trains otherwise than plainly: the loss, the sampling, the mixing, what is trained. Data, not a trainer.

A way to treat imbalance makes one; every classifier honours every field, or refuses the treatment with a
``RecipeError`` before it starts. How many images are seen is the same under all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from moulage import contracts, runs
from moulage.contracts import BalancePlugin
from moulage.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor as Tensor
else:
    Tensor = Any  # for annotations: listing the plug-ins loads no torch

Loss = Callable[[Tensor, Tensor, float], Tensor]
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Augment = Callable[[Tensor], Tensor]

FIELDS = ("loss", "class_weights", "mix", "augment", "retrain_head", "freeze_backbone")  # what a treatment can set


@dataclass(frozen=True)
class Treatment:
    """What differs from plain training. The default of every field is: nothing.

    The functions draw random numbers from PyTorch's own generator, which the classifier seeds for each epoch.
    ``RecipeError`` where fields contradict each other, are out of bounds, or have no ``key``.
    """

    # ``(logits [n, K], targets [n, K], progress) -> [n]``: the loss of each image, float32 or float64 as the logits.
    # Targets are soft (rows sum to 1); ``progress`` is the share of the training that lies behind, 0..1, and 1 where
    # a classifier goes to the optimum. None: cross-entropy.
    loss: Loss | None = None
    # relative chance, for each class, that an epoch draws an image of it; all equal is class-balanced. None: every
    # image once.
    class_weights: tuple[float, ...] | None = None
    # ``(inputs [n, ...] float32, targets [n, K]) -> (inputs, targets)`` on a batch, after augmentation; inputs are
    # images [n, 3, S, S] in 0..1 or embeddings [n, D]. Targets are mixed linearly, whatever their number of columns: a
    # classifier that reads metadata appends these to them.
    mix: Mix | None = None
    # ``uint8 [n, 3, S, S] -> uint8 [n, 3, S, S]``, before the classifier's own augmentation
    augment: Augment | None = None
    # share of the epochs, the last ones, in which a fresh head is trained class-balanced on the frozen backbone (cRT);
    # 0: none
    retrain_head: float = 0.0
    freeze_backbone: bool = False  # only the head is trained
    needs_pixels: bool = False  # not for classifiers that are given embeddings
    # names everything that the functions above depend on but the counts (``identity(config)``); checkpoints of another
    # key are refused. Needed as soon as any other field is set.
    key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.retrain_head < 1:
            raise RecipeError(f"A treatment retrains the head for a share of {self.retrain_head:g} of the training.")
        if self.retrain_head and self.freeze_backbone:
            raise RecipeError("A treatment freezes the backbone from the start and retrains the head as well.")
        if self.augment is not None and not self.needs_pixels:
            raise RecipeError("A treatment augments images, but does not say that it needs pixels.")
        if not self.is_plain and not self.key:
            raise RecipeError("A treatment has no key.", "Set key=treatment.identity(config).")

    @property
    def is_plain(self) -> bool:
        """Whether nothing differs from plain training."""
        return not any(getattr(self, name) for name in FIELDS)


PLAIN = Treatment()  # cross-entropy, every image once, nothing mixed, everything trained


def combined(first: Treatment, second: Treatment) -> Treatment:
    """Both at once, such as a loss and a mixing; the order does not matter but for the key.

    ``RecipeError``: both change the same, or one retrains a balanced head under a loss that may be for unbalanced ones.
    """
    if first.is_plain or second.is_plain:
        return second if first.is_plain else first
    theirs = [{name for name in FIELDS if getattr(each, name) != getattr(PLAIN, name)} for each in (first, second)]
    if both := theirs[0] & theirs[1]:
        raise RecipeError(f"Two treatments that both set {' and '.join(sorted(both))} do not go together.")
    if {"loss", "retrain_head"} <= theirs[0] | theirs[1]:
        raise RecipeError("A head that is retrained with balanced classes does not go together with another loss.")
    found = {name: getattr(each, name) for each, names in zip((first, second), theirs, strict=True) for name in names}
    pixels = first.needs_pixels or second.needs_pixels
    return Treatment(**found, needs_pixels=pixels, key=runs.digest(first.key, second.key))


def drawn(counts: np.ndarray, treatment: Treatment) -> np.ndarray:
    """Images of each class in an epoch of ``counts`` [K] under the treatment's sampling, float64 [K]."""
    if treatment.class_weights is None:
        return np.asarray(counts, np.float64)
    shares = np.asarray(treatment.class_weights, np.float64)
    return np.maximum(np.sum(counts) * shares / shares.sum(), 1)  # at least 1 each: a loss takes its logarithm


def identity(config: BaseModel) -> str:
    """The ``key`` of a treatment: a digest of the plug-in (the module of its ``Config``) and of its options."""
    return runs.digest(type(config).__module__, config.model_dump(mode="json"))


def check_counts(counts: np.ndarray) -> np.ndarray:
    """The counts as float64 [K]; ``DataError`` where a class has no image, or there is no class."""
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1:
        raise DataError(
            f"A treatment of imbalance needs an image of every class and got the counts {counts.tolist()}.",
            "Leave the class out of the recipe, or split so that the training part holds some of its groups.",
        )
    return counts


@dataclass(frozen=True)
class Ways:
    """How an arm answers imbalance, as plain values: all that a stage on another machine needs of it."""

    balance: str  # the plug-in that may add rows, with its options
    balance_config: dict[str, Any]
    treatment: str  # the one beside it that changes the training; empty for none
    treatment_config: dict[str, Any]
    operating_point: str  # how it is set where no plug-in does: on the "validation" part, or "argmax"

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
    def strength(self) -> float | None:
        """Of the operating point; None: it is chosen on the validation part."""
        given = [plug.strength(config) for plug, config in self.plugs if plug.strength]
        return given[0] if given else 0.0 if self.operating_point == "argmax" else None

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
