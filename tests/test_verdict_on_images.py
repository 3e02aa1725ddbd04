"""The conclusion, from images: a planted benefit is found, and a generator that draws no lesion does not pass for one.

The classes, numbers and sizes were chosen so that the study can see the effect: 66 test lesions of the target class,
9 to train on, and a phantom in which more examples are worth as much as can be planted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from moulage import plugins, recipe
from moulage.data import samples
from moulage.evaluation.compare import Comparison
from moulage.finished.external import evaluate_on
from moulage.results import Verdict
from moulage.sources import phantom
from moulage.stages import data
from moulage.study import Outcome, run_study

TARGET = "VASC"
DATA = {"num_images": 2750, "size": 48, "min_lesions": 150, "planted_benefit": 1}
NUM_ADDED = 72
ADD = {TARGET: NUM_ADDED}
RECIPE: dict[str, Any] = {
    "study": {"name": "planted", "target_classes": [TARGET], "num_trials": 4, "smallest_effect": 0.02},
    "data": {"source": "phantom", "options": DATA},
    "split": {"validation": 0.12, "test": 0.6, "reserve": 0.85},
    "generators": {"noise": {"plugin": "noise", "classes": [TARGET], "size": 48}},
    "classifier": {"plugin": "probe", "options": {"size": 48}},
    "arms": {
        "none": {"balance": "none"},
        "duplicates": {"balance": "duplicates", "add": ADD},
        "class_weights": {"balance": "class_weights"},
        "permuted": {"balance": "permuted", "add": ADD},
        "noise": {"balance": "synthesize", "generator": "noise", "add": ADD},
        "oracle": {"balance": "oracle", "add": ADD},
    },
}

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]
"""The study takes two minutes of an idle core."""


@dataclass
class Truth:
    """A generator that knows how lesions are drawn: each seed is a new lesion, in the sources' usual shares."""

    classes: tuple[str, ...] = (TARGET,)

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        config, name = phantom.Config(**DATA), self.classes[label]
        cameras, shares = list(phantom.CAMERAS), phantom.DISEASES[name].sources
        drawn = [
            phantom.draw_image(config, name, 10**9 + int(seed), int(seed), str(rng.choice(cameras, p=shares)))[0]
            for seed, rng in ((seed, np.random.default_rng([1, int(seed)])) for seed in seeds)
        ]
        return np.stack(drawn)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One study of both: the arm ``truth`` adds true lesions, the arm ``fake`` noise that is not known to be noise."""
    base = tmp_path_factory.mktemp("planted")
    first = data.prepare(recipe.parse(RECIPE), base / "first")
    split = first.split(0)
    about = {"split_digest": split.digest, "classes": first.catalog.classes}
    train = split.part(first.catalog, "train").only(label=TARGET)
    noise = plugins.load("generators", "noise")
    null = noise.Generator(noise.Config(), (TARGET,), 48)
    pixels = first.pixels.array(48)[first.pixels.rows(train.images)]
    null.fit(pixels, np.zeros(len(train), np.int64), seed=1, folder=base / "noise")
    seeds = {TARGET: np.arange(NUM_ADDED)}
    samples.draw(Truth(), seeds, base / "truth", origin="truth", **about)
    samples.draw(null, seeds, base / "fake", origin="fake", **about)
    given = {name: {"balance": "synthesize", "samples": str(base / name), "add": ADD} for name in ("truth", "fake")}
    whole = recipe.parse({**RECIPE, "arms": {**RECIPE["arms"], **given}})
    return run_study(whole, base / "run", workers=1, device="cpu")


def verdict_on(outcome: Outcome, arm: str) -> Verdict:
    return next(found for found in outcome.results.verdicts if found.arm == arm)


def comparison(outcome: Outcome, arm: str, reference: str) -> Comparison:
    wanted = (arm, reference, "mean_average_precision")
    return next(c for c in outcome.results.comparisons if (c.arm, c.reference, c.measure) == wanted)


def test_the_planted_benefit_is_found(outcome: Outcome):
    found = verdict_on(outcome, "truth")
    assert found.outcome == "helps", found
    assert found.refused == ""
    assert set(found.references.values()) == {"none", "duplicates", "class_weights"}
    assert found.p_adjusted < 0.05
    for reference in found.references.values():
        assert comparison(outcome, "truth", reference).low > 0


def test_noise_that_passes_for_a_generator_does_not_help(outcome: Outcome):
    found = verdict_on(outcome, "fake")
    assert found.outcome != "helps", found
    assert comparison(outcome, "fake", "duplicates").low < 0


def test_the_controls_behave(outcome: Outcome):
    states = {found.arm: (found.role, found.state) for found in outcome.results.controls}
    assert states == {
        "noise": ("null", "behaves"),
        "permuted": ("null", "behaves"),
        "oracle": ("positive", "behaves"),
    }
    assert outcome.results.controls_missing == []
    assert comparison(outcome, "oracle", "duplicates").low > 0


def test_slices_of_the_study(outcome: Outcome):
    found = outcome.results.slices
    assert {block.column for block in found} == {"source", "sex", "age", "site", "lesion seen"}
    rows = [row for block in found for row in block.rows if block.measure == "mean_average_precision"]
    assert {row.arm for row in rows} == {"truth", "fake"}


def test_the_benefit_is_seen_on_other_data(outcome: Outcome):
    """Another phantom: the study's classifiers, the same sign."""
    other = {"num_images": 700, "size": 48, "min_lesions": 40, "seed": 3, "planted_benefit": 1}
    found = evaluate_on(outcome.run, "phantom", None, other, {}, device="cpu")
    assert found["num_images"] == 700
    assert len(found["fits"]) == 8 * 4
    [against] = [c for c in found["comparisons"] if (c["arm"], c["reference"]) == ("truth", "duplicates")]
    assert against["low"] > 0
