"""Generated images, drawn by a generator that was fitted on the same training part."""

import numpy as np

from moulage.data.catalog import REAL, Catalog, concatenate
from moulage.errors import DataError, LeakError
from moulage.plugins import Options

ROLE = "synthetic"


class Config(Options):
    """No options."""


def extend(
    config: Config, train: Catalog, samples: Catalog | None, add: dict[str, int], rng: np.random.Generator
) -> Catalog:
    """The first ``add[c]`` samples of each class ``c``, in the order of their seeds; ``LeakError`` for a real image."""
    if samples is None:
        raise DataError(
            "The arm synthesizes, but there are no samples.", "Give the arm a generator or a samples folder."
        )
    if (samples.table["origin"] == REAL).any():
        raise LeakError(f"{samples.name} holds real images among its samples.", "Draw samples with `moulage sample`.")
    chosen: list[Catalog] = []
    for name, count in add.items():
        drawn = samples.only(label=name)
        if len(drawn) < count:
            raise DataError(
                f'The arm adds {count} images of "{name}", but only {len(drawn)} were drawn.',
                f"Draw more: moulage sample ... --class {name} --count {count}.",
            )
        chosen.append(drawn.take(np.argsort(drawn.table["seed"].to_numpy(), kind="stable")[:count]))
    return concatenate(train.take([]), *chosen)
