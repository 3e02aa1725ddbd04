"""What added images are worth in real photographs: the curve, the interval, the answers, and where they are shown."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import moulage
from call_cli import Result, caller
from fake_run import comparison, filled, make_results, make_run
from made_up_fits import CLASSES, fit, saying
from moulage import conclusions
from moulage import recipe as recipes
from moulage.arm import Design
from moulage.cli import studies
from moulage.errors import DataError, RecipeError
from moulage.evaluation.alignment import align
from moulage.evaluation.compare import compare
from moulage.evaluation.lesion_variance import Lesions, by_stratum, pair
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.trial_variance import Trials
from moulage.evaluation.worth import RealCurve, Worth, of_largest_doses, worth
from moulage.report import page, run_files
from moulage.results import Arm, Results, load
from recipes import phantom_recipe

TARGETS = ("AK", "DF")
DOSES = {"none": 0, "real-20": 20, "real-50": 50, "real-200": 200}
NUM_REAL = 50
MEASURE = "mean_average_precision"
Fitted = dict[str, list[Predictions]]


def study(
    signals: dict[str, float],
    *,
    num_trials: int = 3,
    num_folds: int = 1,
    lesions: tuple[int, ...] = (60, 40, 40, 30),
    own: float = 0.35,
    seed: int = 0,
    rng: np.random.Generator | None = None,
) -> Fitted:
    """Arms whose logits of the true class are so much higher; ``own``: how differently arms see an image."""
    rng = rng or np.random.default_rng(seed)
    strata = np.repeat(np.arange(len(CLASSES)), lesions)
    of = np.repeat(np.arange(len(strata)), rng.choice([1, 2, 3], len(strata), p=[0.6, 0.3, 0.1]))
    labels, count, truth = strata[of], len(of), np.eye(len(CLASSES))[strata[of]]
    common = rng.normal(size=(len(strata), len(CLASSES)))[of] + 0.5 * rng.normal(size=(count, len(CLASSES)))
    seen = {name: common + own * rng.normal(size=common.shape) + signal * truth for name, signal in signals.items()}
    found: Fitted = {name: [] for name in signals}
    names, groups = np.array([f"i{i}" for i in range(count)], object), np.array([f"l{j}" for j in of], object)
    for trial in range(num_trials):
        if trial % num_folds == 0:
            dealt = rng.permutation(np.arange(len(strata)) % num_folds)[of]
        rows = np.flatnonzero(dealt == trial % num_folds)
        shared = 0.1 * rng.normal(size=len(CLASSES))
        for name in signals:
            logits = seen[name][rows] + shared + 0.2 * rng.normal(size=(len(rows), len(CLASSES)))
            logits = logits + 0.1 * rng.normal(size=len(CLASSES))
            about = {"images": names[rows], "split_digest": f"split{trial}"}
            found[name].append(fit(labels[rows], logits, groups[rows], arm=name, trial=trial, **about))
    return found


SIGNALS = {"none": 0.6, "real-20": 1.0, "real-50": 1.4, "real-200": 2.2, "copies": 0.6, "generated": 1.2}


def curve_of(arms: Fitted, measure: str = MEASURE) -> RealCurve:
    return RealCurve.of(align(arms), measure, TARGETS, DOSES, NUM_REAL)


@pytest.fixture(scope="module")
def curve() -> RealCurve:
    return curve_of(study(SIGNALS))


def worth_of(curve: RealCurve, arm: str = "generated", num_images: int = 400) -> Worth:
    return worth(curve, arm, curve="c", series=arm, dose=4, num_images=num_images, subject=f"{num_images} images")


def test_the_curve_is_isotonic_and_straight_in_the_log_of_all_images(curve: RealCurve) -> None:
    """Worked by hand: 3, 1, 2, 6 rise after 3, 1 and 2 are joined: 2, 2, 2, 6."""
    values = dict(zip(DOSES, (3.0, 1, 2, 6), strict=True)) | {"low": 2.0, "middle": 4.0, "top": 6.0, "above": 6.1}
    trials = replace(curve.trials, lesions=Lesions("", {name: np.full(3, v) for name, v in values.items()}, {}, {}))
    by_hand = replace(curve, trials=trials)
    assert by_hand.heights.tolist() == [2, 2, 2, 6]
    assert by_hand.weights(0) == pytest.approx(dict.fromkeys(("none", "real-20", "real-50"), 1 / 3))
    middle = np.sqrt(100 * 250) - 50  # half way between 50 and 200 more than the 50 that are there, in the log
    assert by_hand.weights(middle) == pytest.approx(
        dict.fromkeys(("none", "real-20", "real-50"), 1 / 6) | {"real-200": 0.5}
    )
    assert by_hand.weights(900) == by_hand.weights(200) == {"real-200": 1.0}
    assert [by_hand.estimate(name) for name in ("low", "middle", "top", "above")] == [
        0.0,
        pytest.approx(middle),
        pytest.approx(200),
        None,
    ]


def test_its_uncertainty_is_that_of_a_comparison() -> None:
    """At a dose of the curve the arm is told from it where ``compare`` tells the two arms apart, folds or not."""
    for arms in (study(SIGNALS), study(SIGNALS, num_trials=8, num_folds=4), study(SIGNALS, seed=3)):
        curve = curve_of(arms)
        assert curve.heights.tolist() == [curve.score(name) for name in DOSES], "made so that it rises by itself"
        for name, number in DOSES.items():
            found = compare(arms, "generated", name, MEASURE, TARGETS)
            half = (found.high - found.low) / 2
            assert curve.distance("generated", number) == pytest.approx(found.difference / half)


def test_a_contrast_of_three_arms_has_the_variance_of_its_influences_and_of_the_pool(curve: RealCurve) -> None:
    contrast = {"generated": 1.0, "real-20": -0.25, "real-50": -0.75}
    trials, fits = curve.trials, curve.trials.fits
    u = sum(weight * trials.lesions.influences[name] for name, weight in contrast.items())
    by_class, interaction = trials.lesions.variances(fits, contrast)
    assert by_class == pytest.approx(by_stratum(fits, u.mean(axis=1) ** 2))
    values = np.array([trials.lesions.values[name] for name in trials.pool])
    centred = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (len(values) - 1) * (values.shape[1] - 1)
    part = trials.part(contrast, interaction)
    assert part.raw == pytest.approx((1 + 0.25**2 + 0.75**2) * (centred**2).sum() / freedom / 3)
    assert (part.freedom, part.noise) == (freedom, interaction)
    twice = {name: 2 * weight for name, weight in contrast.items()}
    assert trials.part(twice, interaction).raw == pytest.approx(4 * part.raw)
    split = {"real-20": -0.5, "none": 0.5, "copies": 0.5}  # two arms that predict the same are one arm
    same = Trials(replace(fits, logits=fits.logits | {"copies": fits.logits["none"]}, memo={}), trials.lesions)
    assert same.part(split | {"copies": 0.0}, 0.0) == same.part({"real-20": -0.5, "copies": 0.5}, 0.0)
    assert same.part(pair("none", "copies"), 0.0).raw == 0


def test_an_arm_that_never_varies_is_told_from_a_mean_of_two_that_do() -> None:
    arms = study(SIGNALS)
    arms["none"] = [saying(p, arms["none"][0].logits) for p in arms["none"]]
    trials = curve_of(arms).trials
    values = np.array([trials.lesions.values[name] for name in trials.pool])
    assert "none" not in trials.pool
    part = trials.part({"none": -1.0, "real-20": 0.5, "real-50": 0.5}, 0.0)
    own = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    alone, mean = (own**2).sum() / (2 * (len(values) - 1)), values.mean(axis=0).var(ddof=1)
    assert part.raw == pytest.approx(((0.5 - 1 / len(values)) * alone + mean) / 3)


def test_outside_of_the_interval_the_curve_is_told_from_the_arm(curve: RealCurve) -> None:
    low, high = curve.interval("generated")
    assert high is not None
    assert 0 < low < curve.estimate("generated") < high < 200
    assert curve.distance("generated", low) == pytest.approx(1, abs=1e-3)
    assert curve.distance("generated", high) == pytest.approx(-1, abs=1e-3)
    for number in np.linspace(0, 200, 101):
        assert (abs(curve.distance("generated", number)) <= 1) == (low <= number <= high)


def test_a_lower_end_above_nothing_is_an_arm_shown_to_be_better_than_nothing() -> None:
    seen = set()
    for seed in range(12):
        arms = study(SIGNALS | {"generated": 0.6 + 0.04 * seed}, seed=seed)
        found = compare(arms, "generated", "none", MEASURE, TARGETS)
        helps = found.low > 0
        curve = curve_of(arms)
        if (curve.heights[:2] == [curve.score("none"), curve.score("real-20")]).all():
            assert (curve.interval("generated")[0] > 0) == helps
            seen.add(helps)
    assert seen == {True, False}


def test_a_twin_of_a_real_arm_is_worth_its_dose() -> None:
    arms = study(SIGNALS)
    arms["generated"] = [replace(p, arm="generated") for p in arms["real-50"]]
    found = worth_of(curve_of(arms))
    assert (found.estimate, found.low, found.high) == pytest.approx((50, 50, 50), abs=1e-3)


@pytest.mark.parametrize(
    ("signals", "answer", "said"),
    [
        ({}, "interval", r"400 images are worth \d+ photographs of new lesions \[\d+, \d+\]\."),
        ({"generated": -0.4}, "none", r"400 images are worth no photograph of a new lesion: .* worse than nothing"),
        (
            {"generated": 2.2},
            "more than the study can see",
            r"400 images are worth .* photographs of new lesions \[\d+, more than 200\]\.",
        ),
        (
            {"generated": 4.0},
            "more than the study can see",
            r"400 images are worth more than the study can see: more than 200 photographs .*, its largest dose\.",
        ),
        (
            dict.fromkeys(SIGNALS, 0.6),
            "real images not shown to help",
            "What 400 images are worth cannot be said: 200 photographs of new lesions are not shown to help.",
        ),
    ],
)
def test_answers(signals: dict[str, float], answer: str, said: str) -> None:
    found = worth_of(curve_of(study(SIGNALS | signals)))
    assert found.answer == answer
    assert re.fullmatch(said + ".*", found.statement)
    told = answer not in ("real images not shown to help", "no interval")
    assert (found.low is not None) == told
    assert (found.high is None) == (answer in ("more than the study can see", "real images not shown to help"))
    assert found.largest == 200


def test_a_study_that_can_tell_nothing_says_so() -> None:
    """As noisy arms as these leave everything open, from nothing to beyond the largest dose."""
    for seed in range(30):
        found = worth_of(curve_of(study(SIGNALS | {"real-200": 1.7}, own=1.2, lesions=(40, 30, 20, 16), seed=seed)))
        if (found.low, found.high) == (0.0, None):
            assert found.statement.endswith(
                "[0, more than 200]: neither nothing nor more than the study can see is excluded."
            )
            return
    raise AssertionError("no such study")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_trials": 2}, "2 fits an arm: an interval needs at least 3"),
        ({"lesions": (60, 40, 40, 8)}, "DF has only 8 lesions in this part, fewer than 10."),
    ],
)
def test_without_an_interval_there_is_no_worth(change: dict, said: str) -> None:
    found = worth_of(curve_of(study(SIGNALS, **change)))
    assert (found.answer, found.estimate, found.low, found.high) == ("no interval", None, None, None)
    assert said in found.statement


def test_less_log_loss_is_more_worth() -> None:
    arms = study(SIGNALS, seed=1)
    found, precise = worth_of(curve_of(arms, "log_loss")), worth_of(curve_of(arms))
    assert found.answer == "interval"
    assert found.low < precise.estimate < found.high


def test_folds_and_measures_that_are_drawn_have_a_worth_too() -> None:
    arms = study(SIGNALS, num_trials=5, num_folds=5)
    found = worth_of(curve_of(arms))
    assert found.answer == "interval"
    assert found.low < found.estimate < found.high
    drawn = worth_of(curve_of(study(SIGNALS), "sensitivity_at_specificity:AK"))
    assert drawn.answer in ("interval", "more than the study can see")


@pytest.mark.parametrize("doses", [{"none": 0}, {"none": 1, "real-20": 20}, {"none": 0, "real-20": 20, "real-50": 20}])
def test_doses_that_make_no_curve(doses: dict[str, int]) -> None:
    with pytest.raises(DataError, match="says nothing"):
        RealCurve.of(align(study(SIGNALS)), MEASURE, TARGETS, doses, NUM_REAL)


def test_an_unknown_arm_is_named() -> None:
    with pytest.raises(RecipeError, match='no arm "reel-20"'):
        RealCurve.of(align(study(SIGNALS)), MEASURE, TARGETS, {"none": 0, "reel-20": 20}, NUM_REAL)


@pytest.mark.slow
def test_the_interval_holds_the_true_worth() -> None:
    """150 studies of an arm that is worth 50 photographs, since it has their signal; both ends miss equally often."""
    rng, number = np.random.default_rng(8), 150
    missed = np.zeros(2, int)
    for _ in range(number):
        curve = curve_of(study(SIGNALS | {"generated": SIGNALS["real-50"]}, rng=rng))
        low, high = curve.interval("generated")
        missed += [low > 50, (high or np.inf) < 50]
    most = stats.binom.ppf(0.999, number, 0.05)
    assert missed.sum() <= most
    assert (missed <= stats.binom.ppf(0.999, number, 0.025)).all()
    assert missed.sum() >= stats.binom.ppf(0.01, number, 0.03)


def test_a_study_with_a_curve_says_what_each_dose_is_worth() -> None:
    curves = {"c": {"doses": [0.5, 1, 4], "generators": ["noise"], "classes": ["AK"]}}
    recipe = recipes.parse(
        phantom_recipe(
            study={"num_trials": 3, "target_classes": list(TARGETS)},
            split={"reserve": 0.5},
            generators={"noise": {"plugin": "noise", "classes": ["AK"], "size": 16}},
            curves=curves,
        )
    )
    signals = {"none": 0.6} | {name: 0.6 + 0.4 * of.dose * (of.series == "real") for name, of in recipe.arms.items()}
    signals |= {"c-noise-400": 1.0}
    design = Design(recipe, {"NV": 300, "MEL": 100, "AK": 40, "DF": 20}, kept={"c-noise-400": {"AK": (150, 155)}})
    found = conclusions.worths(design, align(study(signals)))
    assert [(w.series, w.dose, w.num_images) for w in found] == [
        (series, dose, round(40 * dose)) for series in ("copies", "noise") for dose in (0.5, 1, 4)
    ]
    assert {w.largest for w in found} == {160}
    assert [w.arm for w in of_largest_doses(found)] == ["c-noise-400", "c-copies-400"]
    assert found[-1].statement.startswith("150 to 155 generated AK images (noise) are worth ")
    assert found[2].statement.startswith("160 copied AK images are worth ")
    at_40 = RealCurve.of(
        align(study(signals)),
        recipe.study.primary,
        TARGETS,
        {"none": 0, "c-real-50": 20, "c-real-100": 40, "c-real-400": 160},
        40,
    )
    assert found[-1].estimate == pytest.approx(at_40.estimate("c-noise-400"))


def with_curve(results: Results) -> Results:
    """The same study with a curve of real images, copies and those of a generator."""
    trials, made, rows, arms = results.trials.num_trials, [], [], []
    for series, gain in (("real", 0.02), ("copies", 0.001), ("gan", 0.008)):
        for dose in (0.5, 2.0):
            name, number = f"c-{series}-{100 * dose:.0f}", round(50 * dose)
            point = {"curve": "c", "series": series, "dose": dose}
            arms.append(filled(Arm, name=name, role="synthetic", extra={"AK": number}, **point))
            rows.append(comparison(name, "none", results.study.primary, trials, gain * dose))
            if series != "real":
                said = f"{number} {series} are worth {round(10 * dose)} photographs of new lesions [0, 90]."
                numbers = {"estimate": 10 * dose, "low": 0.0, "high": 90.0, "largest": 100, "num_images": number}
                made.append(filled(Worth, arm=name, answer="interval", statement=said, **point, **numbers))
    changes = {"arms": [*results.arms, *arms], "comparisons": [*results.comparisons, *rows], "worths": made}
    return results.model_copy(update=changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    few = {"classes": ("AK", "NV"), "support": (20, 60), "arms": ("none", "duplicates", "dcgan"), "num_trials": 1}
    folder = tmp_path / "study"
    with_curve(make_run(folder, num_generated=4, **few)).save(folder)
    return folder


def test_a_study_ends_with_what_its_images_are_worth(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load(run)
    study = found.study.model_copy(update={"primary": "mean_average_precision"})
    studies._show(found.model_copy(update={"study": study}))
    said = capsys.readouterr().out
    assert all(row.statement in said for row in of_largest_doses(found.worths))
    assert found.worths


def test_the_report_opens_with_worths_and_their_figure(run: Path) -> None:
    shown = page.render(run_files.read(run), ("worth", "comparison", "tables"))
    head, sections = shown.split("<nav", 1)
    assert head.index("100 gan are worth 20 photographs") < head.index("100 copies are worth 20")
    assert "25 gan are worth" not in shown
    assert head.count('class="plot"') == 1
    assert head.index('class="plot"') < head.index('class="verdicts"')
    alt = re.search(r'aria-label="(Difference from nothing added, over images added: [^"]*)"', head)[1]
    assert [part for part in ("real 25 ", "real 100 ", "copies 25 ", "gan 100 +") if part not in alt] == []
    cells = re.findall(r"<tr><th scope=\"row\"[^>]*>c-gan-200</th>(.*?)</tr>", sections, re.DOTALL)
    assert re.sub(r"<[^>]+>|\s+", " ", cells[0]).split() == ["c", "100", "20", "0", "to", "90", "interval"]
    with (run / "tables" / "worths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["low"], row["high"]) for row in rows][-1] == ("c-gan-200", "0.0", "90.0")
    assert (run / "tables" / "worths.tex").exists()
    assert (run / "figures" / "worth.png").exists()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    return caller(capsys, monkeypatch, tmp_path)


def test_the_verb_prints_worths_of_runs_and_of_levels(run: Path, call: Callable[..., Result]) -> None:
    alone = call("worth", run)
    assert alone.code == 0
    assert "c-gan-200" in alone.out
    assert alone.out.splitlines()[-2:] == [
        "100 gan are worth 20 photographs of new lesions [0, 90].",
        "100 copies are worth 20 photographs of new lesions [0, 90].",
    ]
    assert "run" not in alone.out.splitlines()[2].split()
    results = moulage.load_results(run)
    for level in ("lesions-30", "lesions-60"):
        (run.parent / "levels" / level).mkdir(parents=True)
        results.save(run.parent / "levels" / level)
    both = call("worth", run.parent / "levels", run, "--json")
    found = json.loads(both.out)
    assert [Path(row["run"]).name for row in found] == [
        name for name in ("lesions-30", "lesions-60", "study") for _ in results.worths
    ]
    assert found[0].items() >= {"arm": "c-copies-50", "estimate": 5.0, "low": 0.0, "high": 90.0}.items()
    assert "levels/lesions-30: 100 gan are worth" in call("worth", run.parent / "levels").out


def test_the_verb_says_what_lacks(run: Path, tmp_path: Path, call: Callable[..., Result]) -> None:
    (tmp_path / "plain").mkdir()
    make_results().save(tmp_path / "plain")
    failed = call("worth", run, tmp_path / "plain")
    assert failed.code == 1
    assert "no curve over dose" in failed.err
    assert "[curves.NAME]" in failed.err
    assert failed.out == ""
    assert "no results.json" in call("worth", tmp_path / "nothing").err


def test_worths_are_kept(run: Path) -> None:
    assert moulage.load_results(run).worths[-1] == with_curve(make_results(num_trials=1)).worths[-1]
