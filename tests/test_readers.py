"""Reader tests: every number against a published example, another library, or a case worked by hand."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from pydantic import TypeAdapter
from scipy import stats
from sklearn.metrics import roc_auc_score

from call_cli import Result, caller
from moulage import runs
from moulage.errors import DataError, RecipeError
from moulage.evaluation import pairs
from moulage.evaluation.readers import answers as tables
from moulage.evaluation.readers.agreement import agreement, alpha, codes_of
from moulage.evaluation.readers.answers import Answers
from moulage.evaluation.readers.detection import Detection, Rate
from moulage.evaluation.readers.estimates import Ratings, auc, covariance_matrix, draw
from moulage.evaluation.readers.learning import change, mean_change, same_order
from moulage.evaluation.readers.obuchowski_rockette import Inferred, difference, infer, mean, of_difference, of_mean
from moulage.evaluation.readers.score import score
from moulage.evaluation.readers.study import ReaderStudy


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    return caller(capsys, monkeypatch, tmp_path)


def ratings(seed: int = 0, gain: float = 0.8, images: int = 2, shared: bool = True) -> Ratings:
    """25 generated images and 20 real lesions of ``images`` photographs each, some of a generated image's lesion."""
    rng = np.random.default_rng(seed)
    of_real = np.repeat(np.arange(20), images)
    of_generated = np.arange(25) + (17 if shared else 20)
    rate = [np.clip(np.round(rng.normal(3.5 + at, 1.4, n)), 1, 6) for at, n in ((gain, 25), (0.0, len(of_real)))]
    return Ratings(rate[0], rate[1], of_generated, of_real, 45)


def made(
    num_readers: int = 4,
    gains: dict[str, float] | None = None,
    *,
    items: int = 24,
    seed: int = 0,
    drift: float = 0.0,
    one_order: bool = False,
) -> pd.DataFrame:
    """Answers of readers to real images and those of generators that look so much more generated."""
    rng = np.random.default_rng(seed)
    gains = gains or {"gan": 1.0, "diffusion": 0.0}
    sources = ["real", *gains]
    items_of = pd.DataFrame(
        [
            (f"{source}-{i}", source, f"L{source}{i}", "MEL" if i % 2 else "NV")
            for source in sources
            for i in range(items)
        ],
        columns=["item", "source", "lesion", "class"],
    )
    ease = rng.normal(0, 0.6, len(items_of))
    frames = []
    for reader in range(num_readers):
        order = np.argsort(np.random.default_rng(seed if one_order else [seed, reader]).permutation(len(items_of)))
        place = order / (len(items_of) - 1)
        generated = (items_of["source"] != "real").to_numpy()
        seen = items_of["source"].map({"real": 0.0, **gains}).to_numpy() + ease + rng.normal(0, 0.8, len(items_of))
        seen = seen + drift * (place - 0.5) * np.where(generated, 1, -1) + rng.normal(0, 0.2)
        right = rng.random(len(items_of)) < np.where(generated, 0.6, 0.8)
        other = items_of["class"].map({"MEL": "NV", "NV": "MEL"})
        frames.append(
            items_of.assign(
                reader=f"r{reader}",
                confidence=np.clip(np.round(3.5 + 1.3 * seen), 1, 6).astype(int),
                diagnosis=items_of["class"].where(right, other),
                position=order + 1,
                repeat_of="",
                seconds=rng.uniform(3, 20, len(items_of)).round(1),
            )
        )
        again = frames[-1].iloc[:5].copy()
        again = again.assign(
            repeat_of=again["item"], item=again["item"] + "-again", position=len(items_of) + 1 + np.arange(5)
        )
        frames.append(again)
    return pd.concat(frames, ignore_index=True)


# Obuchowski and Rockette: Van Dyke et al. (1993), 5 readers, 69 normal and 45 abnormal cases, two kinds of imaging, as
# OR-DBM MRMC 2.51 (Schartz, Hillis, Pesce and Berbaum) prints them: trapezoidal AUC, jackknifed covariances.
FIRST = np.array([0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066])
SECOND = np.array([0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169])


def exchangeable(variance: float, shared: float) -> np.ndarray:
    return np.full((5, 5), shared) + (variance - shared) * np.eye(5)


def test_van_dykes_difference_is_that_of_or_dbm():
    within = [exchangeable(0.00101410, 0.00048396), exchangeable(0.00059047, 0.00020419)]
    crossed = exchangeable(0.00034661, 0.00023903)
    found = of_difference(np.stack([FIRST, SECOND]), np.block([[within[0], crossed], [crossed.T, within[1]]]))
    assert found.value == pytest.approx(-0.04380032, abs=1e-8)
    assert found.standard_error == pytest.approx(0.02075, abs=5e-6)
    assert found.degrees_of_freedom == pytest.approx(15.26, abs=5e-3)
    assert (found.low, found.high) == pytest.approx((-0.08796, 0.00036), abs=1e-5)
    assert found.p_value(0) == pytest.approx(0.0517, abs=5e-5)
    assert (found.value / found.standard_error) ** 2 == pytest.approx(4.46, abs=5e-3)


@pytest.mark.parametrize(
    ("values", "variance", "shared", "error", "degrees", "low", "high"),
    [
        (FIRST, 0.00101410, 0.00048396, 0.03317360, 12.74, 0.82522360, 0.96885048),
        (SECOND, 0.00059047, 0.00020419, 0.02156637, 12.71, 0.89413783, 0.98753689),
    ],
)
def test_van_dykes_means_are_those_of_or_dbm(values, variance, shared, error, degrees, low, high):
    found = of_mean(values, exchangeable(variance, shared))
    assert found.standard_error == pytest.approx(error, abs=2e-7)
    assert found.degrees_of_freedom == pytest.approx(degrees, abs=5e-3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_with_lesions_that_add_nothing_a_mean_is_a_t_interval_and_a_difference_a_paired_t_test():
    zeros = np.zeros((5, 5))
    found, expected = of_mean(FIRST, zeros), stats.ttest_1samp(FIRST, 0.5)
    assert found.p_value(0.5) == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    apart = of_difference(np.stack([FIRST, SECOND]), np.zeros((10, 10)))
    assert apart.p_value(0) == pytest.approx(stats.ttest_rel(FIRST, SECOND).pvalue)


def test_negative_covariance_counts_as_none():
    assert of_mean(FIRST, exchangeable(1e-3, -1e-3)) == of_mean(FIRST, np.zeros((5, 5)))


@pytest.mark.parametrize("covariance", ["jackknife", "bootstrap", "delong"])
def test_auc_is_scikit_learns(covariance):
    one = ratings()
    weights = draw(one.strata, 50, np.random.default_rng(0))
    truth = np.repeat([1, 0], [len(one.generated), len(one.real)])
    expected = roc_auc_score(truth, np.concatenate([one.generated, one.real]))
    assert auc(one, covariance, weights).value == pytest.approx(expected)


def test_the_jackknife_leaves_out_whole_lesions():
    one = ratings()
    truth = np.repeat([1, 0], [len(one.generated), len(one.real)])
    values, lesions = np.concatenate([one.generated, one.real]), np.concatenate([one.of_generated, one.of_real])
    names = np.unique(lesions)
    assert len(names) < len(values)  # photographs share lesions, and so do generated and real images
    without = [roc_auc_score(truth[lesions != lesion], values[lesions != lesion]) for lesion in names]
    expected = (len(names) - 1) / len(names) * ((without - np.mean(without)) ** 2).sum()
    assert auc(one).variance == pytest.approx(expected)


def test_delongs_covariance_is_that_of_the_two_model_test():
    first, second = ratings(0, images=1, shared=False), ratings(1, images=1, shared=False)
    positive = np.repeat([True, False], [25, 20])
    expected = pairs.delong(positive, *(np.concatenate([one.generated, one.real]) for one in (first, second)))
    deviations = auc(first, "delong").deviations - auc(second, "delong").deviations
    assert np.sqrt(deviations @ deviations) == pytest.approx(expected.standard_error)


def test_one_reader_alone_is_tested_as_brunner_and_munzel_do():
    one = ratings(3, gain=0.5, images=1, shared=False)
    found = mean([auc(one, "delong")])
    expected = stats.brunnermunzel(one.real, one.generated)
    assert found.p_value(0.5) == pytest.approx(expected.pvalue)
    assert not found.readers_random


def test_delongs_covariance_of_clusters_is_that_of_one_number_a_lesion():
    """Doubled photographs tell nothing new: the variance stays, to the factor (n - 1) / n of lesions."""
    one = ratings(2, images=1, shared=False)
    twice = Ratings(one.generated, np.repeat(one.real, 2), one.of_generated, np.repeat(one.of_real, 2), 45)
    assert auc(twice, "delong").variance == pytest.approx(auc(one, "delong").variance)
    assert auc(twice).variance == pytest.approx(auc(one).variance)


def test_the_three_covariances_agree():
    many = [ratings(seed) for seed in range(3)]
    weights = draw(many[0].strata, 4000, np.random.default_rng(0))
    found = {
        name: covariance_matrix([auc(one, name, weights) for one in many])
        for name in ("jackknife", "bootstrap", "delong")
    }
    scale = np.diag(found["jackknife"]).mean()
    assert np.abs(found["delong"] - found["jackknife"]).max() < 0.1 * scale
    assert np.abs(found["bootstrap"] - found["jackknife"]).max() < 0.15 * scale


def test_a_bootstrap_of_readers_who_share_no_image_has_an_interval():
    """Some resamples hold nothing that one of two readers answered, and no AUC of theirs."""
    table = made(2, {"gan": 0.5}, items=8)
    half = table["item"].str.extract(r"-(\d)")[0].astype(int) < 4
    answers = tables.check(table[half == (table["reader"] == "r0")].reset_index(drop=True))
    found, expected = (score(answers, covariance=name).sources[0].auc for name in ("bootstrap", "jackknife"))
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.3)


def test_a_bootstrap_that_leaves_a_reader_nothing_is_refused():
    table = made(8, {"gan": 0.5}, items=16)
    number, reader = table["item"].str.extract(r"-(\d+)")[0].astype(int), table["reader"].str[1:].astype(int)
    answers = tables.check(table[(number // 2 == reader) & (table["repeat_of"] == "")].reset_index(drop=True))
    with pytest.raises(DataError, match="too few lesions for a bootstrap"):
        score(answers, covariance="bootstrap")


def test_generators_share_the_real_images_so_their_difference_varies_less():
    first, second = ratings(0, shared=False), ratings(0, shared=False)
    second = Ratings(second.generated, second.real, second.of_generated + 25, second.of_real, 70)
    first = Ratings(first.generated, first.real, first.of_generated, first.of_real, 70)
    both = auc(first), auc(second)
    apart = difference([both[0]], [both[1]])
    assert apart.standard_error**2 < 0.9 * (both[0].variance + both[1].variance)
    assert difference([both[0]], [both[0]]).standard_error is None


def test_two_one_sided_tests_by_hand():
    found = infer(0.52, 0.03**2, 10.0, 5)
    assert found.p_equivalence(0.5, 0.1) == pytest.approx(stats.t(10).sf((0.6 - 0.52) / 0.03))
    low, high = found.interval(0.9)
    assert found.p_equivalence(0.5, high - 0.5) == pytest.approx(0.05)
    assert low > 0.4
    assert infer(0.5, 0.0, 3.0, 5).p_equivalence(0.5, 0.1) is None


def test_an_interval_ends_where_the_value_ends():
    found = infer(0.98, 0.03**2, 10.0, 5)
    assert found.high > 1
    assert found.clipped().high == 1
    assert found.clipped().low == found.low
    assert infer(1.0, 0.0, 10.0, 5).clipped().high is None


def test_no_degrees_of_freedom_is_the_normal_law():
    found = infer(0.0, 1.0, np.inf, 5)
    assert found.degrees_of_freedom is None
    assert found.high == pytest.approx(stats.norm.ppf(0.975))


def test_d_prime_and_criterion_by_hand():
    """20 generated images, 15 called so; 10 real ones, 2 called generated; then none and all."""
    one = Ratings(np.repeat([5.0, 2.0], [15, 5]), np.repeat([4.0, 3.0], [2, 8]), np.arange(20), np.arange(20, 30), 30)
    found, z = Detection.of(one), stats.norm.ppf
    assert found.d_prime.value == pytest.approx(z(15.5 / 21) - z(2.5 / 11))
    assert found.criterion.value == pytest.approx(-(z(15.5 / 21) + z(2.5 / 11)) / 2)
    assert found.real_called_generated.value == pytest.approx(0.2)
    assert found.generated_called_real.value == pytest.approx(0.25)
    assert found.generated_called_real.variance == pytest.approx(0.25 * 0.75 / 19)  # the jackknife of a share
    perfect = Ratings(np.full(20, 6.0), np.full(10, 1.0), one.of_generated, one.of_real, 30)
    assert Detection.of(perfect).d_prime.value == pytest.approx(z(20.5 / 21) - z(0.5 / 11))


def test_the_jackknife_of_d_prime_is_near_the_delta_method():
    """Gourevitch and Galanter (1967): the variances of the two z add up."""
    one = Ratings(
        np.repeat([5.0, 2.0], [120, 80]), np.repeat([4.0, 3.0], [60, 140]), np.arange(200), np.arange(200, 400), 400
    )
    z, density = stats.norm.ppf, stats.norm.pdf
    expected = sum(share * (1 - share) / 200 / density(z(share)) ** 2 for share in (0.6, 0.3))
    assert Detection.of(one).d_prime.variance == pytest.approx(expected, rel=0.03)


def test_wilsons_interval_is_scipys():
    found = Rate.of(np.repeat([True, False], [3, 17]))
    expected = stats.binomtest(3, 20).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert Rate.of(np.zeros(0, bool)).share is None


KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
).T
"""Krippendorff (2011), Computing Krippendorff's alpha-reliability, part C: four observers, twelve units."""


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_krippendorffs_example(level, expected):
    assert alpha(KRIPPENDORFF, level) == pytest.approx(expected, abs=5e-4)


def test_alpha_of_answers_that_never_differ_is_undefined_and_of_perfect_agreement_1():
    assert alpha(np.ones((5, 3)), "nominal") is None
    assert alpha(np.array([[1, 1], [2, 2], [6, 6.0]]), "ordinal") == 1


def test_the_interval_of_alpha_goes_by_lesions():
    rng = np.random.default_rng(0)
    base = rng.integers(1, 7, 40).astype(float)
    values = np.clip(base[:, None] + rng.integers(-1, 2, (40, 3)), 1, 6)
    each = agreement(values, np.arange(40).astype(str), "ordinal", "confidence", np.random.default_rng(1))
    assert each.low < each.alpha < each.high
    twice = agreement(
        np.repeat(values, 3, axis=0), np.repeat(np.arange(40), 3).astype(str), "ordinal", "c", np.random.default_rng(1)
    )
    assert twice.high - twice.low == pytest.approx(each.high - each.low, rel=0.15)


def test_names_become_numbers_and_nothing_stays_nothing():
    assert np.array_equal(codes_of(["NV", "", "MEL", "NV"]), [1, np.nan, 0, 1], equal_nan=True)


def test_a_trend_is_that_of_a_robust_regression():
    rows = tables.check(made(1, drift=2.0)).first
    found = change(rows)
    generated = (rows["source"] != "real").to_numpy(float)
    right = ((rows["confidence"] >= 4).to_numpy() == (generated > 0)).astype(float)
    place = (rows["position"] - 1) / (len(rows) - 1)
    fit = sm.OLS(right, sm.add_constant(np.column_stack([place, generated]))).fit(cov_type="HC3", use_t=True)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[1]))
    assert change(rows.iloc[:5]) is None


def test_readers_who_learn_are_seen_to_learn():
    found = score(tables.check(made(8, {"gan": 1.0}, drift=3.0))).learning
    assert found[0].reader == ""
    assert found[0].change.low > 0
    still = score(tables.check(made(8, {"gan": 1.0}, drift=0.0))).learning
    assert still[0].change.low < 0 < still[0].change.high
    values = [row.change.value for row in found[1:]]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found[0].change.low, found[0].change.high) == pytest.approx(tuple(expected))
    assert mean_change([found[1].change]) == found[1].change


def test_one_order_for_all_is_told():
    assert same_order(tables.check(made(3, one_order=True)).first)
    assert not same_order(tables.check(made(3)).first)
    assert any("one order" in note for note in score(tables.check(made(3, {"gan": 0.0}, one_order=True))).notes)


def test_positions_that_begin_anew_in_each_block_are_put_in_line():
    table = made(1, items=4).query("repeat_of == ''")
    table = table.assign(block=(table["position"] - 1) // 4 + 1, position=(table["position"] - 1) % 4 + 1)
    found = tables.check(table.reset_index(drop=True)).table
    assert sorted(found["position"]) == list(range(1, len(table) + 1))
    assert (found["position"] == (table["block"].to_numpy() - 1) * 4 + table["position"].to_numpy()).all()


def test_a_study_says_what_it_found():
    table = made(8, {"gan": 1.5, "diffusion": 0.0}, items=60)
    found = score(tables.check(table), margin=0.15)
    told, equal = found.sources
    assert told.answer == "told"
    asked = table[(table["repeat_of"] == "") & (table["source"] != "diffusion")]
    aucs = [roc_auc_score(rows["source"] == "gan", rows["confidence"]) for _, rows in asked.groupby("reader")]
    assert told.auc.value == pytest.approx(np.mean(aucs))
    assert told.statement.startswith("Readers tell images of gan from real ones: AUC 0.")
    assert equal.answer == "not told"
    assert "cannot tell images of diffusion from real ones by more than the margin" in equal.statement
    assert equal.low_90 > 0.35
    assert equal.high_90 < 0.65
    [apart] = found.differences
    assert apart.auc.low > 0
    assert apart.auc.value == pytest.approx(told.auc.value - equal.auc.value)
    assert {row.what for row in found.agreements} == {"real or generated", "confidence", "diagnosis"}
    assert {row.same_call.total for row in found.self_agreements} == {5}
    assert {row.same_call.share for row in found.self_agreements} == {1.0}
    real, gan, _ = found.diagnoses
    assert real.source == "real"
    assert gan.minus_real.value == pytest.approx(gan.right.value - real.right.value)
    rates = [row.right.share for row in found.diagnoses_of_readers if row.source == "gan"]
    assert gan.right.value == pytest.approx(np.mean(rates))
    assert found.median_seconds is not None


def test_a_difference_that_is_seen_may_lie_within_the_margin():
    found = score(tables.check(made(8, {"gan": 0.5}, items=60)), margin=0.3).sources[0]
    assert found.answer == "told, within the margin"
    assert "real ones, but by less than the margin of 0.3: AUC" in found.statement


def test_a_small_study_never_says_that_readers_cannot_tell():
    """p > 0.05 is no evidence of equality: three readers and ten items leave the question open."""
    found = score(tables.check(made(3, {"gan": 0.0}, items=10, seed=3)))
    assert found.sources[0].p_value > 0.05
    assert found.sources[0].answer == "open"
    assert "may or may not" in found.sources[0].statement
    assert "cannot tell" not in found.sources[0].statement


def test_readers_who_are_systematically_wrong_see_a_difference():
    said = score(tables.check(made(6, {"gan": -1.5}, items=40))).sources[0]
    assert said.answer == "told"
    assert said.auc.high < 0.5
    assert "wrong way round" in said.statement


def test_one_reader_speaks_of_that_reader_only():
    found = score(tables.check(made(1)))
    assert not found.sources[0].auc.readers_random
    assert found.sources[0].statement.endswith("One reader says nothing of others.")
    assert any("one reader" in note for note in found.notes)
    assert not found.agreements
    assert found.differences[0].auc.num_readers == 1


def test_perfect_readers_have_no_interval_and_no_verdict():
    table = made(3, {"gan": 0.0})
    table["confidence"] = np.where(table["source"] == "real", 1, 6)
    found = score(tables.check(table))
    assert found.sources[0].answer == "no interval"
    assert "without any variation" in found.sources[0].statement
    json.loads(runs.to_json(asdict(found)))


def test_holm_counts_the_sources_but_not_the_checks():
    table = made(6, {"gan": 0.4, "diffusion": 0.3, "noise": 4.0})
    scored = score(tables.check(table), checks=["noise"])
    found = {row.source: row for row in scored.sources}
    p = sorted(found[name].p_value for name in ("gan", "diffusion"))
    assert min(found["gan"].p_adjusted, found["diffusion"].p_adjusted) == pytest.approx(min(1, 2 * p[0]))
    assert found["noise"].check
    assert {row.num_items for row in scored.agreements} == {72}
    assert found["noise"].p_adjusted == found["noise"].p_value
    assert [(row.first, row.second) for row in scored.differences] == [("gan", "diffusion")]


def test_repeats_count_nowhere_else():
    table = made(3, {"gan": 1.0})
    once = table[table["repeat_of"] == ""].reset_index(drop=True)
    again, without = score(tables.check(table)), score(tables.check(once))
    assert again.sources == without.sources
    assert again.learning == without.learning
    assert not without.self_agreements
    assert len(again.self_agreements) == 3


def test_a_reader_who_stopped_is_named_and_one_who_hardly_began_left_out():
    table = made(4)
    few = table[(table["reader"] != "r0") | (table.index % 2 == 0)]
    few = few[(few["reader"] != "r1") | (few["item"] == "real-0")]
    few = few[
        few["repeat_of"].isin(["", "real-0", "real-2", "real-4"]) & ((few["repeat_of"] == "") | (few["reader"] == "r2"))
    ]
    found = score(tables.check(few.reset_index(drop=True)))
    assert found.sources[0].readers == ("r0", "r2", "r3")
    assert any(
        "Not all items of gan and real ones were answered by r0 (12 of 24, 12 of 24)" in note for note in found.notes
    )
    assert any("left out of gan: r1 (0, 1)" in note for note in found.notes)


def test_the_seed_and_the_order_of_rows_do_not_change_a_score():
    table = made(3, {"gan": 1.0})
    mixed = table.sample(frac=1, random_state=0).reset_index(drop=True)
    first, second = score(tables.check(table), covariance="delong"), score(tables.check(mixed), covariance="delong")
    by_source = [{row.source: row.auc for row in found.sources} for found in (first, second)]
    for source in by_source[0]:
        assert asdict(by_source[0][source]) == pytest.approx(asdict(by_source[1][source]))
    assert score(tables.check(table), covariance="bootstrap") == score(tables.check(table), covariance="bootstrap")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_files_are_read_alike(tmp_path, suffix):
    table, path = made(2), tmp_path / f"answers{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    pd.testing.assert_frame_equal(tables.read(path).table, tables.check(table).table)


Change = Callable[[pd.DataFrame], Any]


@pytest.mark.parametrize(
    ("change_table", "says"),
    [
        (lambda t: t.drop(columns="source"), 'lacks the column "source"'),
        (lambda t: t.assign(confidence=t["confidence"].where(t.index != 3, 7)), "row 4: confidence is 7"),
        (
            lambda t: t.assign(confidence=t["confidence"].astype(object).where(t.index != 3, "sure")),
            'row 4: confidence is "sure"',
        ),
        (lambda t: t.assign(confidence=t["confidence"].where(t.index != 3), diagnosis=""), "row 4 has neither"),
        (lambda t: t.assign(reader=t["reader"].where(t.index != 2, " ")), 'row 3: "reader" is empty'),
        (lambda t: t.assign(source=t["source"].where(t.index != 30, "real")), 'the source of item "gan-6"'),
        (lambda t: t.assign(source=t["source"].replace("real", "photo")), 'no row has the source "real"'),
        (lambda t: t.assign(source=t["source"].where(t["item"] != "gan-1", "Real")), "differ in their case only"),
        (lambda t: t.assign(source="real"), 'all rows have the source "real"'),
        (lambda t: pd.concat([t, t.iloc[:1]], ignore_index=True), 'answers item "real-0" twice'),
        (lambda t: t.assign(repeat_of=t["repeat_of"].replace("real-0", "real-99")), "which is no item that was asked"),
        (
            lambda t: t.drop(index=t.index[(t["reader"] == "r1") & (t["item"] == "real-0")]).reset_index(drop=True),
            "has not answered",
        ),
        (lambda t: t.assign(position=1), "several answers at one position"),
        (lambda t: t.assign(position=-1), 'position is "-1"'),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(change_table: Change, says: str):
    with pytest.raises(DataError) as error:
        tables.check(change_table(made(2)))
    assert says in str(error.value)


def test_what_is_doubtful_is_a_note():
    table = made(2).drop(columns="lesion").assign(remark="why")
    found = tables.check(table)
    assert any("24 real items have no lesion" in note for note in found.notes)
    assert any("not read: remark" in note for note in found.notes)
    assert found.table["lesion"].nunique() == 72  # a repeat is of its item's lesion


def test_a_diagnosis_of_nothing_is_an_answer_and_a_blank_is_none():
    table = made(2)
    table.loc[0, "diagnosis"], table.loc[1, "diagnosis"] = "unknown", ""
    found = score(tables.check(table))
    real = next(row.right for row in found.diagnoses_of_readers if (row.reader, row.source) == ("r0", "real"))
    assert real.total == 23
    assert any("unknown" in note for note in found.notes)


def test_wrong_arguments_are_refused():
    answers = tables.check(made(2))
    for wrong in ({"margin": 0.5}, {"margin": 0}, {"covariance": "jacknife"}, {"checks": ["noize"]}):
        with pytest.raises(RecipeError):
            score(answers, **wrong)
    empty = answers.table[answers.table["item"].isin(["real-0", "gan-0"])]
    with pytest.raises(DataError, match="enough items"):
        score(Answers(empty.reset_index(drop=True)))


def test_what_is_found_survives_json():
    found = score(tables.check(made(3, {"gan": 1.0})))
    text = runs.to_json(asdict(found))
    assert TypeAdapter(ReaderStudy).validate_json(text, strict=False) == found


def test_the_verb_prints_tables_and_sentences(call, tmp_path):
    made(4).to_csv(tmp_path / "answers.csv", index=False)
    shown = call("reader", "score", "answers.csv", "--margin", "0.15")
    assert shown.code == 0, shown.err
    for text in (
        "Real or generated? 4 readers, 72 items, 288 answers",
        "images of gan from real ones",
        "alpha",
        "Repeats",
    ):
        assert text in shown.out
    found = json.loads(call("reader", "score", "answers.csv", "--json", "--covariance", "delong").out)
    assert found["covariance"] == "delong"
    assert [source["statement"].split(" real ones")[1][:5] for source in found["sources"]] == [": AUC", ": AUC"]
    missing = call("reader", "score", "nothing.csv")
    assert missing.code == 1
    assert "There is no file nothing.csv" in missing.err


def test_an_inferred_without_variation_has_no_p():
    still = Inferred(
        value=1, standard_error=None, degrees_of_freedom=None, low=None, high=None, num_readers=2, readers_random=True
    )
    assert still.p_value(0.5) is None
    assert still.interval(0.9) is None
