"""Do readers become better, or tired, over the session?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moulage.evaluation.readers.answers import FIRST_GENERATED, REAL
from moulage.evaluation.readers.obuchowski_rockette import Inferred, infer

MIN_ANSWERS = 10
"""Fewer say nothing of a trend."""


def change(answers: pd.DataFrame) -> Inferred | None:
    """Change of one reader's share of right calls from the first answer to the last, with the images as chance.

    Slope of a linear regression of right (1) or wrong (0) on the place in the session, 0 to 1, beside an indicator of
    generated images, since a reader may be right more often on one kind; heteroskedasticity-robust (HC3, MacKinnon
    and White 1985), t with N - 3 degrees of freedom. None with fewer than ``MIN_ANSWERS`` answers that have a place
    and a confidence, of one kind of image only, or where all are right or all wrong.
    """
    import statsmodels.api as sm

    known = answers[answers["confidence"].notna() & answers["position"].notna()]
    generated = (known["source"] != REAL).to_numpy(np.float64)
    right = ((known["confidence"] >= FIRST_GENERATED).to_numpy() == (generated > 0)).astype(np.float64)
    if len(known) < MIN_ANSWERS or len(np.unique(generated)) < 2 or len(np.unique(right)) < 2:
        return None
    place = known["position"].to_numpy(np.float64)
    place = (place - place.min()) / (place.max() - place.min())
    found = sm.OLS(right, np.column_stack([np.ones(len(known)), place, generated])).fit(cov_type="HC3")
    return infer(float(found.params[1]), float(found.bse[1]) ** 2, len(known) - 3, 1)


def mean_change(changes: Sequence[Inferred]) -> Inferred:
    """Mean over readers, who are random: a t interval of their changes, each a summary of its reader (Matthews 1990).

    It stands on orders that differ between readers: then the images' own difficulty is spread over the session.
    """
    if len(changes) == 1:
        return changes[0]
    values = np.array([one.value for one in changes])
    number = len(values)
    return infer(float(values.mean()), float(np.var(values, ddof=1)) / number, number - 1, number)


def same_order(answers: pd.DataFrame) -> bool:
    """Whether two or more readers saw the images that they share in one and the same order."""
    places = answers.dropna(subset=["position"]).pivot_table(index="item", columns="reader", values="position")
    if places.shape[1] < 2:
        return False
    ranks = places.dropna().rank()
    return len(ranks) > 1 and bool((ranks.nunique(axis=1) == 1).all())
