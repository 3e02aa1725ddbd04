"""How an arm answers imbalance, as plain values, and what treatment of the training follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from moulage import contracts
from moulage.contracts import BalancePlugin
from moulage.treatment import PLAIN, Treatment, combined, drawn


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
