"""The demo's own recipe, without its GAN: where benefit is planted it is found, and where none is it is not.

Its classes, sizes and budget were chosen so that the answer is decisive; here the sides are taken apart.
"""

from typing import Any

import pytest

from moulage import recipe as recipes
from moulage.backbones import PIP_PACKAGE
from moulage.cli.studies import DEMO
from moulage.evaluation.compare import Comparison
from moulage.results import Results
from moulage.study import run_study

CURVE = "worth"
VALUES = recipes.read(DEMO)
LARGEST = max(VALUES["curves"][CURVE]["doses"])
MOST = {series: f"{CURVE}-{series}-{100 * LARGEST:g}" for series in ("real", "copies")}


def without_gan(benefit: float) -> recipes.Recipe:
    """The demo at another planted benefit; the arms that drew from its GAN, or were like those, are like the copies."""
    values = recipes.merge(recipes.read(DEMO), {"data": {"options": {"planted_benefit": benefit}}})
    values["generators"].pop("dcgan")
    values["curves"][CURVE]["generators"] = []
    for arm in values["arms"].values():
        if "like" in arm:
            arm["like"] = MOST["copies"]
    return recipes.parse(values)


@pytest.fixture(scope="module", params=[1, 0], ids=["planted", "nothing planted"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Results]:
    pytest.importorskip(PIP_PACKAGE)
    outcome = run_study(without_gan(request.param), tmp_path_factory.mktemp("demo") / "run", workers=1, device="cpu")
    assert outcome.results is not None
    return request.param, outcome.results


def gain(found: Results, arm: str, reference: str) -> Comparison:
    wanted = (arm, reference, found.study.primary)
    return next(c for c in found.comparisons if (c.arm, c.reference, c.measure) == wanted)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_real_images_help_by_what_is_planted_and_copies_do_not(study: tuple[float, Results]):
    benefit, found = study
    smallest = found.study.smallest_effect
    real, copies = (gain(found, MOST[series], "none") for series in ("real", "copies"))
    assert None not in (real.low, real.high, copies.high)
    states: dict[str, Any] = {control.arm: control.state for control in found.controls}
    assert states["noise"] == states["permuted"] == "behaves"
    assert copies.difference < smallest
    if benefit:
        assert real.low > 0
        assert real.difference > smallest
        assert states[MOST["real"]] == "behaves"
    else:
        assert real.difference < smallest
        assert states[MOST["real"]] != "behaves"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_more_real_images_help_more(study: tuple[float, Results]):
    benefit, found = study
    doses = VALUES["curves"][CURVE]["doses"]
    gains = [gain(found, f"{CURVE}-real-{100 * dose:g}", "none").difference for dose in doses]
    if benefit:
        assert gains[-1] > gains[0]
        assert gains == pytest.approx(sorted(gains), abs=found.study.smallest_effect)
    else:
        assert max(map(abs, gains)) < found.study.smallest_effect
