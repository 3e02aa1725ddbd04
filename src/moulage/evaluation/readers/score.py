"""From answers to a ``ReaderStudy``: every score of a reader test, computed once."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.readers import obuchowski_rockette as over_readers
from moulage.evaluation.readers.agreement import Agreement, Level, agreement, codes_of
from moulage.evaluation.readers.answers import FIRST_GENERATED, REAL, SHOWN, Answers, of_readers
from moulage.evaluation.readers.detection import Detection, Rate, share
from moulage.evaluation.readers.estimates import (
    COVARIANCES,
    RESAMPLES,
    Covariance,
    Estimate,
    Ratings,
    auc,
    draw,
    of_counts,
)
from moulage.evaluation.readers.learning import change, mean_change, same_order
from moulage.evaluation.readers.study import (
    CHANCE,
    Answer,
    Diagnosis,
    DiagnosisOfReader,
    Difference,
    Learning,
    OfReader,
    OfSource,
    ReaderStudy,
    SelfAgreement,
)
from moulage.evaluation.verdict import holm

MARGIN = 0.1
"""An AUC so near to 0.5 counts as one that tells nothing, unless another margin was declared."""
LEVEL = 0.05
MIN_LESIONS = 2
"""Lesions of each kind from which the answers of a reader have a variance."""
MIN_DEFINED = 0.5
"""Share of the resamples in which every reader has lesions of each kind, from which the bootstrap is one."""
FEW_READERS = 5
"""With fewer readers a note says that the interval rests on few."""


def score(
    answers: Answers,
    *,
    margin: float = MARGIN,
    covariance: Covariance = "jackknife",
    checks: Sequence[str] = (),
    seed: int = 0,
) -> ReaderStudy:
    """Score a reader test.

    Args:
        answers: of ``answers.read`` or ``answers.check``.
        margin: how far from 0.5 an AUC may lie that counts as "cannot be told"; above 0, below 0.5.
        covariance: how the covariance of AUCs is estimated: ``jackknife``, ``bootstrap`` (over lesions) or ``delong``.
        checks: sources that test the test (noise, copies): scored by themselves, and left out of the correction, the
            comparisons, the agreement and the trend.
        seed: of the bootstraps.

    ``RecipeError``: an argument is wrong. ``DataError``: no reader answered two lesions of each kind, or some
    answered too few for the bootstrap.
    """
    _check(margin, covariance, checks, answers.sources)
    rng = np.random.default_rng(seed)
    ratings, notes = _ratings(answers)
    weights = _weights(answers, ratings, rng) if covariance == "bootstrap" else None
    aucs = {
        source: {reader: auc(found, covariance, weights) for reader, found in by_reader.items()}
        for source, by_reader in ratings.items()
    }
    detections = {
        source: {reader: Detection.of(found) for reader, found in by_reader.items()}
        for source, by_reader in ratings.items()
    }
    means = {source: over_readers.mean(list(of.values())).clipped() for source, of in aucs.items()}
    diagnoses, of_diagnoses, said = _diagnoses(answers)
    asked = answers.first[~answers.first["source"].isin(checks)]
    learning, learned = _learning(asked, answers.readers)
    notes += [*_few(means), *said, *learned]
    first = answers.first
    seconds = first["seconds"].median()
    return ReaderStudy(
        num_readers=first["reader"].nunique(),
        num_items=first["item"].nunique(),
        num_answers=len(first),
        median_seconds=None if np.isnan(seconds) else float(seconds),
        covariance=covariance,
        margin=margin,
        of_readers=tuple(_of_readers(ratings, aucs, detections)),
        sources=tuple(_of_sources(means, aucs, detections, margin, checks)),
        differences=tuple(_differences(aucs, [source for source in aucs if source not in checks])),
        agreements=tuple(_agreements(asked, rng)),
        self_agreements=tuple(_self_agreements(answers)),
        learning=learning,
        diagnoses=diagnoses,
        diagnoses_of_readers=of_diagnoses,
        notes=(*answers.notes, *notes),
    )


def _check(margin: float, covariance: str, checks: Sequence[str], sources: Sequence[str]) -> None:
    if not 0 < margin < CHANCE:
        raise RecipeError(f"The margin is {margin:g}.", "It lies between 0 and 0.5, such as 0.1.")
    if covariance not in COVARIANCES:
        raise RecipeError(f'There is no covariance "{covariance}".', nearest(covariance, COVARIANCES))
    for name in checks:
        if name not in sources:
            raise RecipeError(f'There is no source "{name}" to be a check.', nearest(name, sources))


def _lesion_codes(answers: Answers) -> tuple[np.ndarray, int]:
    """Code of each row's lesion [N] int64, and how many lesions there are."""
    codes, names = pd.factorize(answers.table["lesion"])
    return np.asarray(codes, np.int64), len(names)


def _ratings(answers: Answers) -> tuple[dict[str, dict[str, Ratings]], list[str]]:
    """By source and reader, and who was left out of what, or has not answered all."""
    codes, num_lesions = _lesion_codes(answers)
    first = answers.first[answers.first["confidence"].notna()]
    number = first.groupby("source")["item"].nunique()
    found, left_out, partly = dict[str, dict[str, Ratings]](), dict[str, list[str]](), dict[str, list[str]]()
    for reader, rows in of_readers(first, answers.readers).items():
        of_source = {str(source): part for source, part in rows.groupby("source", sort=False)}
        empty = rows.iloc[:0]
        real = of_source.get(REAL, empty)
        for source in answers.sources:
            generated = of_source.get(source, empty)
            ours, theirs = (part["confidence"].to_numpy(np.float64) for part in (generated, real))
            one = Ratings(ours, theirs, codes[generated.index], codes[real.index], num_lesions)
            if min(one.sizes) < MIN_LESIONS:
                left_out.setdefault(source, []).append(f"{reader} ({one.sizes[0]}, {one.sizes[1]})")
                continue
            found.setdefault(source, {})[reader] = one
            if len(generated) < number[source] or len(real) < number[REAL]:
                said = f"{reader} ({len(generated)} of {number[source]}, {len(real)} of {number[REAL]})"
                partly.setdefault(source, []).append(said)
    if not found:
        raise DataError(
            "No reader answered enough items to be scored.",
            f"It takes a confidence for {MIN_LESIONS} real lesions and {MIN_LESIONS} generated images of one source.",
        )
    notes = [
        f"Readers left out of {source}: {_listed(who)}. It takes answers to {MIN_LESIONS} generated and {MIN_LESIONS} "
        "real lesions."
        for source, who in left_out.items()
    ]
    notes += [
        f"Not all items of {source} and real ones were answered by {_listed(who)}; the mean counts all readers alike."
        for source, who in partly.items()
    ]
    return {source: found[source] for source in answers.sources if source in found}, notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _weights(answers: Answers, ratings: Mapping[str, Mapping[str, Ratings]], rng: np.random.Generator) -> np.ndarray:
    """Resamples of the lesions, stratified by the sources of their items, [L, B].

    Those in which a reader who has not answered all is left without a lesion of one kind are none: no AUC is defined.
    """
    codes, num_lesions = _lesion_codes(answers)
    sources = (
        pd.Series(answers.table["source"].to_numpy()).groupby(codes).agg(lambda each: "\n".join(sorted(set(each))))
    )
    strata = np.unique(sources.to_numpy(str), return_inverse=True)[1]
    assert len(strata) == num_lesions
    weights = draw(strata, RESAMPLES, rng)
    kinds = [rows for of in ratings.values() for one in of.values() for rows in (one.of_generated, one.of_real)]
    defined = np.all([weights[rows].any(axis=0) for rows in kinds], axis=0)
    if defined.mean() < MIN_DEFINED:
        raise DataError("Some readers answered too few lesions for a bootstrap.", "Take the jackknife.")
    return weights[:, defined]


def _of_readers(
    ratings: Mapping[str, Mapping[str, Ratings]],
    aucs: Mapping[str, Mapping[str, Estimate]],
    detections: Mapping[str, Mapping[str, Detection]],
) -> list[OfReader]:
    return [
        OfReader(
            reader=reader,
            source=source,
            num_generated=len(one.generated),
            num_real=len(one.real),
            auc=over_readers.mean([aucs[source][reader]]).clipped(),
            d_prime=over_readers.mean([detections[source][reader].d_prime]),
            criterion=over_readers.mean([detections[source][reader].criterion]),
            real_called_generated=Rate.of(one.real >= FIRST_GENERATED),
            generated_called_real=Rate.of(one.generated < FIRST_GENERATED),
        )
        for source, by_reader in ratings.items()
        for reader, one in by_reader.items()
    ]


def _of_sources(
    means: Mapping[str, over_readers.Inferred],
    aucs: Mapping[str, Mapping[str, Estimate]],
    detections: Mapping[str, Mapping[str, Detection]],
    margin: float,
    checks: Sequence[str],
) -> list[OfSource]:
    p_values = {source: found.p_value(CHANCE) for source, found in means.items()}
    p_equivalence = {source: found.p_equivalence(CHANCE, margin) for source, found in means.items()}
    adjusted, adjusted_equivalence = (_adjusted(found, checks) for found in (p_values, p_equivalence))
    rows = []
    for source, found in means.items():
        each = list(detections[source].values())
        ends = found.interval(1 - 2 * LEVEL)
        rows.append(
            OfSource(
                source=source,
                check=source in checks,
                readers=tuple(aucs[source]),
                auc=found,
                low_90=max(ends[0], 0.0) if ends else None,
                high_90=min(ends[1], 1.0) if ends else None,
                margin=margin,
                p_value=p_values[source],
                p_adjusted=adjusted[source],
                p_equivalence=p_equivalence[source],
                p_equivalence_adjusted=adjusted_equivalence[source],
                answer=_answer(adjusted[source], adjusted_equivalence[source]),
                d_prime=over_readers.mean([one.d_prime for one in each]),
                criterion=over_readers.mean([one.criterion for one in each]),
                real_called_generated=over_readers.mean([one.real_called_generated for one in each]).clipped(),
                generated_called_real=over_readers.mean([one.generated_called_real for one in each]).clipped(),
            )
        )
    return rows


def _adjusted(p_values: Mapping[str, float | None], checks: Sequence[str]) -> dict[str, float | None]:
    """After Holm over those that are no check; what has no p-value counts as a test."""
    tested = {name: np.inf if p is None else p for name, p in p_values.items() if name not in checks}
    found = {name: p if np.isfinite(p) else None for name, p in holm(tested).items()}
    return {name: found.get(name, p) for name, p in p_values.items()}


def _answer(p_value: float | None, p_equivalence: float | None) -> Answer:
    if p_value is None or p_equivalence is None:
        return "no interval"
    if p_value < LEVEL:
        return "told, within the margin" if p_equivalence < LEVEL else "told"
    return "not told" if p_equivalence < LEVEL else "open"


def _differences(aucs: Mapping[str, Mapping[str, Estimate]], sources: Sequence[str]) -> list[Difference]:
    found = dict[str, tuple[str, str, over_readers.Inferred]]()
    for first, second in combinations(sources, 2):
        both = [reader for reader in aucs[first] if reader in aucs[second]]
        if both:
            pair = ([aucs[source][reader] for reader in both] for source in (first, second))
            found[f"{first}\n{second}"] = first, second, over_readers.difference(*pair)
    p_values = {name: one.p_value(0) for name, (_, _, one) in found.items()}
    adjusted = _adjusted(p_values, ())
    return [
        Difference(first=first, second=second, auc=one, p_value=p_values[name], p_adjusted=adjusted[name])
        for name, (first, second, one) in found.items()
    ]


def _agreements(first: pd.DataFrame, rng: np.random.Generator) -> list[Agreement]:
    """Of images of all sources together: real or generated, confidence, diagnosis; none with one reader."""
    if first["reader"].nunique() < 2:
        return []
    call = (first["confidence"] >= FIRST_GENERATED).astype(np.float64).where(first["confidence"].notna())
    asked: list[tuple[str, Level, np.ndarray]] = [
        ("real or generated", "nominal", call.to_numpy()),
        ("confidence", "ordinal", first["confidence"].to_numpy(np.float64)),
        ("diagnosis", "nominal", codes_of(first["diagnosis"].tolist())),
    ]
    items, names = pd.factorize(first["item"])
    readers = pd.factorize(first["reader"])[0]
    lesions = np.empty(len(names), object)
    lesions[items] = first["lesion"].to_numpy()
    rows = []
    for what, level, values in asked:
        table = np.full((len(names), readers.max() + 1), np.nan)
        table[items, readers] = values
        if not np.isnan(table).all():
            rows.append(agreement(table, lesions.astype(str), level, what, rng))
    return rows


def _self_agreements(answers: Answers) -> list[SelfAgreement]:
    """Of each reader with repeats that have a confidence both times."""
    table = answers.table
    known = {
        (reader, item): confidence
        for reader, item, confidence in answers.first[["reader", "item", "confidence"]].itertuples(index=False)
    }
    repeats = table[table["repeat_of"] != ""]
    rows = []
    for reader, found in repeats.groupby("reader", sort=False):
        again = found["confidence"].to_numpy(np.float64)
        before = np.array([known[reader, item] for item in found["repeat_of"]], np.float64)
        both = ~np.isnan(again) & ~np.isnan(before)
        again, before = again[both], before[both]
        same = Rate.of((again >= FIRST_GENERATED) == (before >= FIRST_GENERATED))
        steps = float(np.abs(again - before).mean()) if both.any() else None
        rows.append(SelfAgreement(reader=str(reader), same_call=same, mean_steps=steps))
    return rows


def _learning(first: pd.DataFrame, readers: Sequence[str]) -> tuple[tuple[Learning, ...], list[str]]:
    """The mean over readers, then each reader; and what stands against it."""
    found = {reader: change(rows) for reader, rows in of_readers(first, readers).items()}
    known = {reader: one for reader, one in found.items() if one is not None}
    if not known:
        return (), []
    rows = [Learning(reader=reader, change=one) for reader, one in known.items()]
    notes = []
    if same_order(first):
        notes.append(
            "All readers saw the items in one order: a trend over the session may be the items', not the readers'."
        )
    if len(known) < len(found):
        notes.append(f"No trend over the session for {', '.join(sorted(set(found) - set(known)))}: too few answers.")
    return (Learning(reader="", change=mean_change(list(known.values()))), *rows), notes


def _diagnoses(
    answers: Answers,
) -> tuple[tuple[Diagnosis, ...], tuple[DiagnosisOfReader, ...], list[str]]:
    """By source, real images first; readers with two lesions of a source count."""
    codes, num_lesions = _lesion_codes(answers)
    known = answers.first[(answers.first["diagnosis"] != "") & (answers.first["class"] != "")]
    right = known["diagnosis"] == known["class"]
    of, rates = dict[str, dict[str, Estimate]](), list[DiagnosisOfReader]()
    for source in (REAL, *answers.sources):
        for reader, rows in of_readers(known[known["source"] == source], answers.readers).items():
            lesions, hits = codes[rows.index], right[rows.index].to_numpy(bool)
            if len(hits):
                rates.append(DiagnosisOfReader(reader=reader, source=source, right=Rate.of(hits)))
            if len(np.unique(lesions)) >= MIN_LESIONS:
                counts = np.stack([np.bincount(lesions, mask, num_lesions) for mask in (hits, ~hits)], axis=1)
                of.setdefault(source, {})[reader] = of_counts(counts, share)
    found = []
    for source, by_reader in of.items():
        both = [reader for reader in by_reader if source != REAL and reader in of.get(REAL, {})]
        pair = ([each[reader] for reader in both] for each in (by_reader, of.get(REAL, {})))
        apart = over_readers.difference(*pair) if both else None
        about = {"minus_real": apart, "p_value": apart.p_value(0) if apart else None}
        found.append(Diagnosis(source=source, right=over_readers.mean(list(by_reader.values())).clipped(), **about))
    odd = sorted(set(known["diagnosis"]) - set(known["class"]))
    notes = [f"Diagnoses that are the class of no item count as wrong: {_listed(odd)}."] if odd else []
    return tuple(found), tuple(rates), notes


def _few(means: Mapping[str, over_readers.Inferred]) -> list[str]:
    number = max(found.num_readers for found in means.values())
    if number == 1:
        return ["There is one reader: intervals have the lesions as chance, and say nothing of other readers."]
    if number < FEW_READERS:
        return [f"There are {number} readers: what is said of readers in general rests on few."]
    return []
