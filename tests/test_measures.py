"""Every measure that is found: judged by scikit-learn, lesion by lesion, under weights, and by cases worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

import moulage
from call_cli import caller
from made_up_fits import CLASSES, study
from moulage import conclusions, plugins, recipe
from moulage.errors import DataError, RecipeError
from moulage.evaluation import measures
from moulage.evaluation.compare import compare
from moulage.evaluation.measure_names import find, is_lower_better, measure, parse, resolve
from moulage.evaluation.measures import Measure, Outputs
from moulage.report import tables


def of_class(judge):
    """A judge of one class against the rest by its probability."""
    return lambda outputs, k: judge(outputs.labels == k, outputs.probabilities[:, k])


def of_prediction(judge):
    return lambda outputs, k: judge(outputs.labels == k, outputs.predicted == k)


def calibration(outputs: Outputs, k: None) -> float:
    confidence, correct = outputs.probabilities.max(axis=1), outputs.predicted == outputs.labels
    held = [(confidence > b / 15) & (confidence <= (b + 1) / 15) for b in range(15)]
    return sum(h.mean() * abs(confidence[h].mean() - correct[h].mean()) for h in held if h.any())


def of_curve(reached):
    """A judge of the ROC curve's false and true positive rates."""
    return of_class(lambda positive, score: reached(*metrics.roc_curve(positive, score, drop_intermediate=False)[:2]))


def sensitivity(level: float):
    return of_curve(lambda false, true: true[false <= 1 - level + 1e-12].max())


def specificity(level: float):
    return of_curve(lambda false, true: 1 - false[true >= level - 1e-12].min())


def area_above(sensitivity: float):
    """As ISIC 2024 scored: classes and scores turned about, and McClish's scaling of ``max_fpr`` undone."""

    def judge(positive: np.ndarray, score: np.ndarray) -> float:
        width = 1 - sensitivity
        scaled = metrics.roc_auc_score(~positive, -score, max_fpr=width)
        return width**2 / 2 + (width - width**2 / 2) * (scaled - 0.5) / 0.5

    return of_class(judge)


JUDGES = {
    "accuracy": lambda outputs, k: metrics.accuracy_score(outputs.labels, outputs.predicted),
    "auc": of_class(metrics.roc_auc_score),
    "average_precision": of_class(metrics.average_precision_score),
    "balanced_accuracy": of_prediction(metrics.recall_score),
    "expected_calibration_error": calibration,
    "f1": of_prediction(metrics.f1_score),
    "log_loss": lambda outputs, k: metrics.log_loss(outputs.labels, outputs.probabilities, labels=range(3)),
    "partial_auc": area_above(0.8),
    "partial_auc@0.55": area_above(0.55),
    "recall": of_prediction(metrics.recall_score),
    "sensitivity_at_specificity": sensitivity(0.9),
    "sensitivity_at_specificity@0.6": sensitivity(0.6),
    "specificity_at_sensitivity": specificity(0.9),
    "specificity_at_sensitivity@0.6": specificity(0.6),
}
ALL = sorted({*JUDGES, *plugins.names("evaluation.measures")})
"""A new measure needs a judge."""


def case(seed: int) -> tuple[Outputs, np.ndarray]:
    """31 lesions of three classes with up to five images; in every second case images share few rows of logits."""
    rng = np.random.default_rng(seed)
    strata = np.r_[0, 0, 1, 1, 2, 2, rng.integers(0, 3, 25)]
    lesions = np.repeat(np.arange(31), rng.integers(1, 6, 31))
    logits = rng.normal(size=(len(lesions), 3)) + np.eye(3)[strata[lesions]]
    return Outputs(strata[lesions], logits[rng.integers(0, 25, len(lesions))] if seed % 2 else logits), lesions


def some(outputs: Outputs, rows: np.ndarray) -> Outputs:
    return Outputs(outputs.labels[rows], outputs.logits[rows])


def called(name: str) -> tuple[Measure, int | None]:
    kind, _, level = name.partition("@")
    found = find(kind).at(float(level)) if level else find(kind)
    return found, 0 if found.by_class else None


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(6))
def test_values_with_all_lesions_without_each_and_under_weights_are_those_of_scikit_learn(name, seed):
    (found, k), (outputs, lesions), judge = called(name), case(seed), JUDGES[name]
    assert found.value(outputs, k) == pytest.approx(judge(outputs, k), abs=1e-12)
    value, without = found.without_each(outputs, k, lesions)
    assert value == pytest.approx(judge(outputs, k), abs=1e-6 if name == "log_loss" else 1e-12)
    each = [judge(some(outputs, lesions != lesion), k) for lesion in range(31)]
    assert without == pytest.approx(np.array(each), abs=1e-6 if name == "log_loss" else 1e-12)
    weights = np.random.default_rng(seed).integers(0, 4, (31, 7)).astype(np.float32)
    weights[[0, 2, 4]] = 1  # of each class there is an image
    drawn = [np.repeat(np.arange(len(lesions)), column[lesions].astype(int)) for column in weights.T]
    judged = [judge(some(outputs, rows), k) for rows in drawn]
    assert found.weighted(outputs, k, lesions)(weights) == pytest.approx(np.array(judged), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if called(name)[0].by_class])
def test_without_the_only_lesion_of_a_class_or_of_the_others_nothing_is_said(name):
    """Nor with a warning. Of what needs images of the class alone, the others' lesion can go."""
    found, _ = called(name)
    logits = np.eye(2)[[0, 1, 1, 0, 1]] + np.arange(5)[:, None] * [0.1, 0.2]
    outputs, lesions = Outputs(np.array([0, 0, 1, 1, 1]), logits), np.array([0, 0, 1, 1, 1])
    alone = found.without_each(outputs, 0, lesions)[1]
    assert alone[0] == 0 if name == "f1" else np.isnan(alone[0])
    assert np.isnan(alone[1]) == found.needs_others


def test_cases_worked_by_hand():
    labels = np.array([1, 1, 0, 0, 1, 0, 1, 0, 1, 0])  # from the top; the last two tie
    p = np.array([0.95, 0.9, 0.85, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.1])
    found = Outputs(labels, np.log(np.stack([1 - p, p], axis=1)))

    def of(name: str) -> float:
        return measure(f"{name}:B", found.labels, found.logits, ("A", "B"))

    assert of("sensitivity_at_specificity") == pytest.approx(2 / 5)  # no other may be called positive
    assert of("sensitivity_at_specificity@0.8") == pytest.approx(2 / 5)  # one of five may: 0.85, which finds no more
    assert of("sensitivity_at_specificity@0.6") == pytest.approx(3 / 5)
    assert of("sensitivity_at_specificity@0.2") == pytest.approx(4 / 5)  # the last comes with the fifth other alone
    assert of("specificity_at_sensitivity") == pytest.approx(0)  # all five must be found, and the last ties
    assert of("specificity_at_sensitivity@0.8") == pytest.approx(2 / 5)  # others at 0.2 and 0.1 lie below 0.3
    assert of("specificity_at_sensitivity@0.4") == pytest.approx(1)
    # From the end of the curve: the fifth of the class has no other below and one beside it, the fourth two below it.
    assert of("partial_auc") == pytest.approx(1 / 5 * (0 + 1 / 2) / 5)
    assert of("partial_auc@0.7") == pytest.approx(1 / 5 * (1 / 2) / 5 + 1 / 10 * 2 / 5)
    assert of("partial_auc@0.9") == pytest.approx(1 / 10 * (1 / 4) / 5)  # half of a tie: straight lines join its ends


def test_to_first_order_a_threshold_moves_along_the_slope_of_the_curve():
    """Normal scores: var = TPR (1 - TPR) / P + slope^2 FPR (1 - FPR) / N, the slope the ratio of the densities."""
    rng, parts, lesions = np.random.default_rng(0), [], np.arange(12_000)
    labels, found = np.repeat([0, 1], [8000, 4000]), find("sensitivity_at_specificity")
    for _ in range(40):
        outputs = Outputs(labels, np.stack([np.zeros(12_000), rng.normal(labels, 1)], axis=1))
        value, without = found.linearised(outputs, 1, lesions)
        assert value == found.value(outputs, 1)
        assert without.mean() == pytest.approx(value, abs=1e-6)
        parts.append([without[labels == k].var() * (labels == k).sum() for k in (1, 0)])
    threshold = stats.norm.ppf(0.9)
    reached, slope = stats.norm.sf(threshold - 1), stats.norm.pdf(threshold - 1) / stats.norm.pdf(threshold)
    expected = [reached * (1 - reached) / 4000, slope**2 * 0.09 / 8000]
    assert np.mean(parts, axis=0) == pytest.approx(expected, rel=0.1)  # slope squared is known to 26 % from one draw


def test_a_score_by_chance_has_a_partial_area_of_0_02_and_all_of_one_score_too():
    labels = np.random.default_rng(0).integers(0, 2, 40_000)
    logits = np.random.default_rng(1).normal(size=(40_000, 2))
    assert find("partial_auc").value(Outputs(labels, logits), 1) == pytest.approx(0.02, abs=1e-3)
    assert find("partial_auc").value(Outputs(labels, 0 * logits), 1) == pytest.approx(0.02)


@pytest.mark.parametrize("kind", ["sensitivity_at_specificity", "specificity_at_sensitivity", "partial_auc"])
def test_means_levels_and_variances_reach_a_comparison(kind):
    arms = study(num_trials=3)
    p = arms["none"][0]
    each = [measure(f"{kind}@0.7:{name}", p.labels, p.logits, CLASSES) for name in ("AK", "DF")]
    assert measure(f"mean_{kind}@0.7", p.labels, p.logits, CLASSES, ("AK", "DF")) == pytest.approx(np.mean(each))
    found = compare(arms, "arm1", "none", f"mean_{kind}@0.7", ("AK", "DF"))
    assert found.method == ("lesion bootstrap" if find(kind).resamples else "lesion jackknife")
    assert found.low < found.difference < found.high
    assert found == compare(arms, "arm1", "none", f"mean_{kind}@0.7", ("AK", "DF"))
    other = {"lesion bootstrap": 0, "lesion jackknife": 500}[found.method]
    assert compare(arms, "arm1", "none", f"{kind}:AK", num_resamples=other).method != found.method


@pytest.mark.parametrize(
    ("name", "targets", "error", "words"),
    [
        ("accurracy", (), RecipeError, 'Did you mean "accuracy"'),
        ("recal:AK", (), RecipeError, 'Did you mean "recall:AK"'),
        ("recall:AKK", (), RecipeError, 'Did you mean "AK"'),
        ("accuracy:AK", (), RecipeError, 'no measure "accuracy:AK"'),
        ("recall", (), RecipeError, 'no measure "recall"'),
        ("recall@0.9:AK", (), RecipeError, 'no measure "recall@0.9:AK"'),
        ("partial_auc@1.5:AK", (), RecipeError, 'the level "1.5"'),
        ("partial_auc@:AK", (), RecipeError, "number between 0 and 1"),
        ("mean_recall", (), RecipeError, "needs target classes"),
        ("mean_recall", ("AX",), RecipeError, 'the class "AX"'),
        ("recall:DF", (), DataError, "no image of DF"),
        ("mean_partial_auc", ("MEL", "DF"), DataError, "no image of DF"),
        ("sensitivity_at_specificity:DF", (), DataError, "no image of DF"),
    ],
)
def test_wrong_names_are_refused(name, targets, error, words):
    with pytest.raises(error) as caught:
        measure(name, np.array([0, 1, 2]), np.zeros((3, 4)), CLASSES, targets)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["auc", *(f"{kind}:NV" for kind in ALL if find(kind.partition("@")[0]).needs_others)])
def test_what_needs_other_images_is_refused_without_them(name):
    with pytest.raises(DataError, match=r"all images are of one class|every image is of NV"):
        measure(name, np.zeros(3, int), np.zeros((3, 4)), CLASSES)


def test_overall_measures_pass_over_absent_classes():
    labels, logits = np.array([0, 0, 1]), np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]])
    assert resolve("balanced_accuracy", labels, CLASSES).indices == (0, 1)
    assert measure("balanced_accuracy", labels, logits, CLASSES) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("name", "words", "heading", "amount", "lower"),
    [
        ("balanced_accuracy", "balanced accuracy", "balanced accuracy", "+1.2 points", False),
        ("mean_average_precision", "mean average precision of AK and DF", "mean average precision", None, False),
        ("recall:a_b", "recall of a_b", "recall of a_b", None, False),
        ("auc", "AUC", "AUC", None, False),
        ("expected_calibration_error", "expected calibration error", "calibration error", "+1.2 points", True),
        ("log_loss", "log-loss", "log-loss", "+0.012 nats", True),
        ("sensitivity_at_specificity:AK", "sensitivity at 90 % specificity of AK", None, "+1.2 points", False),
        (
            "mean_specificity_at_sensitivity@0.95",
            "mean specificity at 95 % sensitivity of AK and DF",
            None,
            None,
            False,
        ),
        (
            "partial_auc@0.8:AK",
            "partial AUC above 80 % sensitivity of AK",
            "partial AUC above 80 % of AK",
            "+0.0123",
            False,
        ),
    ],
)
def test_words_units_and_directions(name, words, heading, amount, lower):
    found = parse(name)
    assert found.words(("AK", "DF") if found.form == "targets" else ()) == words
    assert heading is None or tables.word(name) == heading
    assert amount is None or found.measure.amount(0.0123, signed=True) == amount
    assert is_lower_better(name) is lower


PLAIN = '''
"""Share of a class's images among the two most probable classes."""
import numpy as np
from moulage.evaluation.measures import ImageMean

class TopTwo(ImageMean):
    words = "top-two recall"

    def image_values(self, outputs):
        best = np.argsort(-outputs.logits, axis=1, kind="stable")[:, :2]
        return (best == outputs.labels[:, None]).any(axis=1)

MEASURE = TopTwo()
'''


def test_a_measure_is_one_file(tmp_path, monkeypatch, capsys):
    """A file that is dropped in is compared, put in words and shown; and no other file knows of the newest measures."""
    (tmp_path / "top_two.py").write_text(PLAIN)
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    plugins.names.cache_clear()
    try:
        run, files = caller(capsys, monkeypatch, tmp_path), []
        for p in (p for fits in study(num_trials=3, num_arms=2).values() for p in fits):
            files.append(f"{p.arm}-{p.trial}.parquet")
            p.save(Path(files[-1]))
        asked = ["--measure", "top_two:AK", "--measure", "mean_top_two", "--targets", "AK,DF", "--json"]
        found = json.loads(run("compare", *files, *asked).out)
        assert found["sentences"][0].startswith('Taking "arm1" changed the top-two recall of AK by ')
        assert [c["method"] for c in found["comparisons"]] == ["closed form"] * 2
        values = {"study": {"name": "x", "primary": "top_two:AK", "measures": ["top_two:DF"]}}
        compared = conclusions.measures(recipe.parse(values))
        assert (compared[0], compared[-1]) == ("top_two:AK", "top_two:DF")
        assert tables.amount(0.02, "top_two:AK") == "2.0 points"
    finally:
        plugins.names.cache_clear()
    package = Path(moulage.__file__).parent
    sources = [path for path in package.rglob("*") if path.suffix in (".py", ".j2")]
    for name in ("sensitivity_at_specificity", "specificity_at_sensitivity", "partial_auc"):
        knows = {path.stem for path in sources if name in path.read_text(encoding="utf-8")}
        assert name in plugins.names("evaluation.measures")
        assert knows <= {name, "specificity_at_sensitivity"}  # which is the first one turned about
