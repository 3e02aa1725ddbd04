"""What an arm does with the images that it adds: adds them, puts them in place of real ones, weighs them, and so on.

Data, not a trainer. Every classifier honours every way, or refuses it with a ``RecipeError`` before it starts; how many
images are seen is the same under all of them. docs/use.md has the formulas, and who used images so.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from moulage.errors import RecipeError
from moulage.plugins import Options

Way = Literal["add", "replace", "weight", "pretrain", "batch_share"]
NUMBERS: dict[Way, tuple[Literal["weight", "share"], str]] = {
    "weight": ("weight", "0.5"),
    "pretrain": ("share", "0.5"),
    "batch_share": ("share", "0.3"),
}
"""The ways that need a number, the key that gives it, and one to try."""
IN_ORDER: tuple[Way, ...] = ("add", "replace", "batch_share")
"""Ways that are nothing but an order of images: whoever trains on ``TrainingView.batches`` honours them."""


@dataclass(frozen=True)
class Use:
    """A way, and its number. The images are the arm's extra ones, whatever they are: generated, copies, held back."""

    way: Way = "add"
    weight: float = 1.0  # ``weight``: of the loss of an extra image, for once that of a real one; above 0
    share: float = 0.0  # ``batch_share``: of each batch; ``pretrain``: of the epochs, the first ones; between 0 and 1

    def num_epochs(self, epochs: int) -> int:
        """How many of so many epochs hold the extra images, the first ones; ``RecipeError`` where none is left."""
        if self.way != "pretrain":
            return epochs
        if epochs < 2:
            raise RecipeError(
                "A training of one epoch cannot be on all images first, and then on real ones alone.",
                "Set the classifier's epochs to 2 or more.",
            )
        return min(max(1, round(self.share * epochs)), epochs - 1)

    @property
    def words(self) -> str:
        """How it is said behind ``Adding 80 images``; empty for ``add``."""
        return {
            "add": "",
            "replace": "in place of real ones",
            "weight": f"with a loss weight of {self.weight:g}",
            "pretrain": f"in the first {100 * self.share:g} % of the epochs",
            "batch_share": f"as {100 * self.share:g} % of each batch",
        }[self.way]


ADD = Use()


def check(classifier: Any, use: Use) -> None:
    """Raise ``RecipeError`` where a classifier says, by a method ``check_use``, that it cannot use an arm's images so.

    One without the method is trusted with the ways that are nothing but an order of images (``IN_ORDER``) alone.
    """
    if hasattr(classifier, "check_use"):
        classifier.check_use(use)
    elif use.way not in IN_ORDER:
        raise RecipeError(
            f"The classifier does not say that it knows {use.way}.",
            f"It knows {', '.join(IN_ORDER)}; or give its class a method check_use.",
        )


class UseOptions(Options):
    """The keys of a recipe's table that say it."""

    use: Way = Field(
        "add",
        description="What is done with the added images: they are added, put in place of real ones of their class, "
        "weighed in the loss, trained on first, or given a share of each batch; see docs/use.md.",
    )
    weight: float | None = Field(
        None, gt=0, le=100, description='`use = "weight"`: of the loss of an added image, for once that of a real one.'
    )
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description='`use = "batch_share"`: the share of each batch that added images have; `use = "pretrain"`: the '
        "share of the epochs that have them, the first ones.",
    )

    @model_validator(mode="after")
    def _use_has_its_number(self) -> "UseOptions":
        wanted, example = NUMBERS.get(self.use, ("", ""))
        for name in ("weight", "share"):
            given = getattr(self, name) is not None
            if given and name != wanted:
                ways = " or ".join(f'"{way}"' for way, (number, _) in NUMBERS.items() if number == name)
                raise ValueError(f'{name} is for use = {ways}, and use is "{self.use}"')
            if not given and name == wanted:
                raise ValueError(f'use = "{self.use}" needs {name}, such as {name} = {example}')
        return self

    @property
    def used(self) -> Use:
        """What they say."""
        return Use(self.use, 1.0 if self.weight is None else self.weight, self.share or 0.0)
