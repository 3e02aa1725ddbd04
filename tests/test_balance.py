"""Arms: catalog in, extra rows out."""

import numpy as np
import pandas as pd
import pytest

from moulage import plugins
from moulage.data.catalog import Catalog
from moulage.errors import DataError, LeakError

CLASSES = ("AK", "NV")


def catalog(labels, origin="real", prefix="r"):
    names = [f"{prefix}{i}" for i in range(len(labels))]
    table = pd.DataFrame(
        {"image": names, "label": labels, "location": names, "origin": origin, "seed": range(len(labels))}
    )
    return Catalog.build(table, CLASSES, prefix)


TRAIN = catalog(["AK"] * 3 + ["NV"] * 10)
SAMPLES = catalog(["AK"] * 8, origin="dcgan-0-abc", prefix="s").take([5, 3, 0, 1, 2, 4, 6, 7])


def extend(name, add, samples=None, seed=0):
    module = plugins.load("balance", name)
    return module.extend(module.Config(), TRAIN, samples, add, np.random.default_rng(seed))


@pytest.mark.parametrize("name", plugins.names("balance"))
def test_contract(name):
    samples = SAMPLES if name == "synthesize" else None
    one, two = (extend(name, {"AK": 7}, samples) for _ in range(2))
    assert one.classes == CLASSES
    assert one.images.tolist() == two.images.tolist()
    assert one.counts in ({"AK": 7, "NV": 0}, {"AK": 0, "NV": 0})
    assert len(extend(name, {}, samples)) == 0


def test_none_adds_nothing():
    assert len(extend("none", {"AK": 7})) == 0


def test_duplicates_are_even_real_and_seeded():
    found = extend("duplicates", {"AK": 7, "NV": 2})
    assert found.counts == {"AK": 7, "NV": 2}
    times = pd.Series(found.only(label="AK").images).value_counts()
    assert set(times) == {2, 3}
    assert set(found.images) <= set(TRAIN.images)
    assert extend("duplicates", {"NV": 5}, seed=1).images.tolist() != extend("duplicates", {"NV": 5}).images.tolist()


def test_duplicates_of_an_absent_class():
    module = plugins.load("balance", "duplicates")
    with pytest.raises(DataError, match='"AK" has no training image'):
        module.extend(module.Config(), TRAIN.only(label="NV"), None, {"AK": 1}, np.random.default_rng(0))


def test_synthesize_takes_the_first_seeds():
    assert extend("synthesize", {"AK": 3}, SAMPLES).images.tolist() == ["s0", "s1", "s2"]


def test_synthesize_refuses_too_few_none_and_real():
    with pytest.raises(DataError, match="only 8 were drawn"):
        extend("synthesize", {"AK": 9}, SAMPLES)
    with pytest.raises(DataError, match="no samples"):
        extend("synthesize", {"AK": 1})
    with pytest.raises(LeakError, match="real images among its samples"):
        extend("synthesize", {"AK": 1}, TRAIN)
