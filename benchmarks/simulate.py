"""Simulated studies: how often does the inference of ``moulage.evaluation.compare`` keep its promises?

    python benchmarks/simulate.py --design holdout-5 --studies 1000          null studies: coverage, false "helps"
    python benchmarks/simulate.py --design holdout-5-planted --studies 300   power and equality, after the line above
    python benchmarks/simulate.py --measures partial_auc:AK,partial_auc:DF --resamples 0 --out FILE.json    others

Designs: ``holdout-S`` (5,000 images, S fits), ``small-S`` (2,800 images: 13 and 14 lesions of DF and VASC), ``folds-R``
(25,000 images, five folds, R repeats); with ``-noisy`` the first arm has twice the trial effects of the others, with
``-planted`` arms have gains of 1.3 and 2 times the mean minimal detectable effect that the null studies showed, and of
2.5 standard errors (half a margin of five). ``simulated.py`` says what is drawn. Every study depends on --seed and its
number alone; they are appended to FILE.jsonl, so that the same command goes on where it stopped. Delete that file
where the inference has changed.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import stats

from moulage.evaluation.compare import Comparison, compare_fits
from moulage.evaluation.measure_names import measure as score
from simulated import CLASSES, SHARES, TARGETS, Design, draw

MEASURES = (
    "balanced_accuracy",
    "mean_average_precision",
    "average_precision:AK",
    "average_precision:DF",
    "recall:AK",
    "recall:DF",
)
KEPT = ("difference", "standard_error", "degrees_of_freedom", "low", "high", "p_value", "variance_lesions")
KEPT += ("variance_trials", "cautious_low", "cautious_high")
LEVELS = {"half": 0.0, "1.3": 1.3, "2": 2.0}
"""Planted gains in minimal detectable effects; ``half`` is 2.5 standard errors."""
MARGIN = 5.0
"""Margin of equality in standard errors: a standard error of 0.2 margin."""
CHUNK = 5
FEWEST_PILOTS = 20


def parse(name: str) -> tuple[str, int, bool, bool]:
    """Scheme, sets of predictions, noisy, planted."""
    found = re.fullmatch(r"(holdout|small|folds)-(\d+)(-noisy|-planted)?", name)
    if not found:
        raise SystemExit(f'No design "{name}": holdout-S, small-S or folds-R, and -noisy or -planted after it.')
    return found[1], int(found[2]), found[3] == "-noisy", found[3] == "-planted"


def design_of(name: str, num_arms: int = 11) -> Design:
    """A null design by name."""
    scheme, num_sets, noisy, _ = parse(name)
    num_images, num_folds = {"holdout": (5000, 1), "small": (2800, 1), "folds": (25_000, 5)}[scheme]
    return Design(num_images, num_sets, num_folds, num_arms, {"arm1": 2.0} if noisy else {})


def generator(seed: int, study: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, study]))


def run_study(
    design: Design, wanted: dict[str, list[str]], seed: int, study: int, num_resamples: int | None = None
) -> dict[str, Any]:
    """One study: for each measure the comparisons of its arms with the reference, as rows of ``KEPT``.

    Args:
        design: what to draw.
        wanted: measure -> arms. Where it lacks arms of the design, as many are pooled as a null study has.
        seed, study: of the random numbers.
        num_resamples: as in ``compare_fits``.
    """
    fits, rows, levels = draw(design, generator(seed, study)), {}, {}
    for measure, arms in wanted.items():
        others = [name for name in fits.logits if name not in arms and name != "reference"]
        names = ["reference", *arms, *others[: max(0, 10 - len(arms))]]
        pooled = replace(fits, logits={name: fits.logits[name] for name in names})
        pairs = [(arm, "reference") for arm in arms]
        found = compare_fits(pooled, pairs, measure, TARGETS, num_resamples=num_resamples)
        rows[measure] = [row_of(one) for one in found]
        levels[measure] = round(found[0].estimate_reference, 6)
    return {"seed": seed, "study": study, "reference": levels, "rows": rows}


def row_of(comparison: Comparison) -> list[float | None]:
    values = (getattr(comparison, name) for name in KEPT)
    return [None if value is None else float(f"{value:.7g}") for value in values]


Job = tuple[Design, dict[str, list[str]], int, list[int], int | None]


def run_chunk(job: Job) -> tuple[list[dict[str, Any]], float]:
    design, wanted, seed, studies, num_resamples = job
    start = time.process_time()
    found = [run_study(design, wanted, seed, study, num_resamples) for study in studies]
    return found, time.process_time() - start


def run(
    design: Design,
    wanted: dict[str, list[str]],
    *,
    studies: int,
    seed: int,
    workers: int,
    file: Path,
    resamples: int | None = None,
) -> list[dict[str, Any]]:
    """The studies of a file, after those that it lacks have been appended."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {study["study"]: study for study in read(file) if study["seed"] == seed}
    missing = [number for number in range(studies) if number not in found]
    chunks = [missing[first : first + CHUNK] for first in range(0, len(missing), CHUNK)]
    jobs: list[Job] = [(design, wanted, seed, chunk, resamples) for chunk in chunks]
    start, spent, done = time.monotonic(), 0.0, 0
    with contextlib.ExitStack() as stack:
        several = workers > 1 and len(jobs) > 1
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers)) if several else None
        for new, seconds in pool.imap(run_chunk, jobs) if pool else map(run_chunk, jobs):
            with file.open("a") as stream:
                stream.writelines(json.dumps(study) + "\n" for study in new)
            found |= {study["study"]: study for study in new}
            spent, done = spent + seconds, done + len(new)
            left = (time.monotonic() - start) / done * (len(missing) - done)
            note = f"{done} of {len(missing)} studies, {spent / done:.2f} s of CPU time each, {left / 60:.1f} min left"
            print(f"\r{file.stem}: {note}   ", end="", file=sys.stderr, flush=True)
    if jobs:
        print(file=sys.stderr)
    return [found[number] for number in range(studies)]


def read(file: Path) -> list[dict[str, Any]]:
    """The studies of a file; a line that was cut off is left out."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def table_of(studies: list[dict[str, Any]], measure: str) -> dict[str, np.ndarray]:
    """Name in ``KEPT`` -> [studies, arms]; NaN where there is no interval."""
    values = np.array([study["rows"][measure] for study in studies], float)
    return {name: values[:, :, column] for column, name in enumerate(KEPT)}


def rate(hits: np.ndarray) -> list[float]:
    """Share of [studies, arms], and its Monte-Carlo error: the arms of a study are not independent."""
    each = hits.reshape(len(hits), -1).mean(axis=1)
    return [float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))]


def detectable(found: dict[str, np.ndarray]) -> np.ndarray:
    """Difference that a two-sided test at 5 % finds with 80 % power."""
    freedom = found["degrees_of_freedom"]
    return (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * found["standard_error"]


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm 1979, adjusted p-values over the last axis."""
    count, order = p_values.shape[-1], np.argsort(p_values, axis=-1)
    ranked = np.take_along_axis(p_values, order, -1) * np.arange(count, 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(ranked, axis=-1), 1)
    return np.take_along_axis(adjusted, np.argsort(order, axis=-1), -1)


def equal(found: dict[str, np.ndarray], margin: float, shift: float = 0.0) -> np.ndarray:
    """Two one-sided tests at 5 % each, Schuirmann 1987, of differences that have been moved by ``shift``."""
    half = stats.t.ppf(0.95, found["degrees_of_freedom"]) * found["standard_error"]
    return np.abs(found["difference"] + shift) + half < margin


def null_summary(studies: list[dict[str, Any]], measure: str, noisy: bool) -> dict[str, Any]:
    """Null arms have a true difference of 0; the truth of a noisy arm is its mean over the studies."""
    every = table_of(studies, measure)
    error = every["standard_error"]
    null = {name: values[:, int(noisy) :] for name, values in every.items()}
    helps = (every["p_value"] < 0.05) & (every["difference"] > 0)
    margin = MARGIN * float(np.nanmean(null["standard_error"]))
    summary = {
        "value": float(np.mean([study["reference"][measure] for study in studies])),
        "mean_difference": rate(null["difference"]),
        "true_error": float(np.sqrt(np.mean(null["difference"] ** 2))),
        "standard_error": float(np.nanmean(null["standard_error"])),
        "share_trials": float(np.nanmean(null["variance_trials"] / null["standard_error"] ** 2)),
        "coverage": rate((null["low"] <= 0) & (null["high"] >= 0)),
        "coverage_fits_fixed": rate(
            np.less_equal(np.abs(null["difference"]), 1.96 * np.sqrt(null["variance_lesions"]))
        ),
        "helps": rate(helps[:, int(noisy) :]),
        "family_helps": rate(((holm(np.nan_to_num(every["p_value"], nan=1.0)) < 0.05) & helps).any(axis=1)),
        "no_interval": float(np.isnan(error).mean()),
        "detectable": float(np.nanmean(detectable(null))),
        "equal": rate(equal(null, margin)),
        "equal_at_half_margin": rate(equal(null, margin, margin / 2)),
        "equal_at_margin": rate(equal(null, margin, margin)),
    }
    if not np.isnan(null["cautious_low"]).all():
        summary["coverage_cautious"] = rate((null["cautious_low"] <= 0) & (null["cautious_high"] >= 0))
    if noisy:
        truth = float(every["difference"][:, 0].mean())
        inside = (every["low"][:, :1] <= truth) & (every["high"][:, :1] >= truth)
        summary["noisy"] = {"difference": truth, "coverage": rate(inside), "helps": rate(helps[:, :1])}
        if "coverage_cautious" in summary:
            inside = (every["cautious_low"][:, :1] <= truth) & (every["cautious_high"][:, :1] >= truth)
            summary["noisy"]["coverage_cautious"] = rate(inside)
    return summary


def plan(design: Design, pilot: dict[str, Any], seed: int) -> tuple[Design, dict[str, list[str]]]:
    """Planted arms for each measure: the signal that gives the gain wanted, found on studies of the same size."""
    signals = np.r_[np.arange(0, 2, 0.1), np.arange(2, 6.1, 0.4)]
    repeats = max(8, 300_000 // design.num_images)
    gains = {measure: np.zeros(len(signals)) for measure in MEASURES}
    for study in range(repeats):
        fits = draw(replace(design, num_arms=1, num_sets=1, num_folds=1), generator(seed + 1_000_003, study))
        logits, is_target = fits.logits["reference"][0], np.isin(CLASSES, TARGETS)[fits.labels]
        added = np.eye(len(CLASSES), dtype=np.float32)[fits.labels] * is_target[:, None]
        for column, signal in enumerate(signals):
            for measure in MEASURES:
                gains[measure][column] += score(measure, fits.labels, logits + signal * added, CLASSES, TARGETS)
    planted, wanted = {}, {measure: [] for measure in MEASURES}
    for measure in MEASURES:
        gain = (gains[measure] - gains[measure][0]) / repeats
        for factor in LEVELS.values():
            goal = factor * pilot[measure]["detectable"] or MARGIN / 2 * pilot[measure]["standard_error"]
            arm = f"arm{len(planted) + 1}"
            planted[arm] = float(np.interp(goal, np.maximum.accumulate(gain), signals))
            wanted[measure].append(arm)
    return replace(design, num_arms=1 + len(planted), planted=planted), wanted


def planted_summary(studies: list[dict[str, Any]], measure: str, pilot: dict[str, Any]) -> dict[str, Any]:
    """Power at the gains of ``LEVELS``; the true gain is the mean over the studies."""
    found, summary = table_of(studies, measure), {}
    for column, level in enumerate(LEVELS):
        arm = {name: values[:, column : column + 1] for name, values in found.items()}
        truth = float(arm["difference"].mean())
        summary[level] = {
            "gain": truth,
            "in_detectable": truth / pilot[measure]["detectable"],
            "found": rate((arm["p_value"] < 0.05) & (arm["difference"] > 0)),
            "coverage": rate((arm["low"] <= truth) & (arm["high"] >= truth)),
            "error_in_margin": float(arm["standard_error"].mean() / (2 * truth)),
            "equal_at_half_margin": rate(equal(arm, 2 * truth)),
        }
    return summary


def percent(value: list[float] | float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value[0]:.1f} ({100 * value[1]:.1f})" if isinstance(value, list) else f"{100 * value:.2f}"


def show_null(summary: dict[str, Any]) -> list[list[str]]:
    head = "measure|value|true error|std. error|trial share|coverage|lesions only|Nadeau-Bengio|helps|family helps"
    rows = [[*head.split("|"), "detectable", "equal", "at half margin", "at margin"]]
    keys = ("value", "true_error", "standard_error", "share_trials", "coverage", "coverage_fits_fixed")
    keys += ("coverage_cautious", "helps", "family_helps", "detectable", "equal", "equal_at_half_margin")
    for measure, found in summary.items():
        rows.append([measure, *(percent(found.get(key)) for key in (*keys, "equal_at_margin"))])
        if noisy := found.get("noisy"):
            cells = {"value": f"{100 * noisy['difference']:+.2f}", "coverage": percent(noisy["coverage"])}
            cells |= {key: percent(noisy.get(key)) for key in ("coverage_cautious", "helps")}
            rows.append(["  its noisy arm", *(cells.get(key, "") for key in (*keys, "equal_at_margin"))])
    return rows


def show_planted(summary: dict[str, Any]) -> list[list[str]]:
    rows = [["measure", "planted", "gain", "in detectable", "found", "coverage", "error in margin", "equal"]]
    for measure, levels in summary.items():
        for level, found in levels.items():
            cells = [percent(found["gain"]), f"{found['in_detectable']:.2f}", percent(found["found"])]
            cells += [percent(found["coverage"]), f"{found['error_in_margin']:.2f}"]
            rows.append([measure, level, *cells, percent(found["equal_at_half_margin"]) if level == "half" else ""])
    return rows


def show(rows: list[list[str]]) -> str:
    """A Markdown table in columns of even width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def describe(design: Design, seed: int, studies: int = 10) -> str:
    """How real the studies look: recall and average precision, their spread between fits, agreement of two arms."""
    design, agreement, sizes = replace(design, num_arms=4), [], np.zeros(len(CLASSES), int)
    values = np.empty((studies, 2, 4, design.num_sets, len(CLASSES)))
    for study in range(studies):
        fits = draw(design, generator(seed, study))
        sizes = fits.sizes
        correct = [fits.logits[arm][0].argmax(axis=1) == fits.labels for arm in design.arms]
        agreement.append(np.corrcoef(correct)[np.triu_indices(4, 1)].mean())
        for a, arm in enumerate(design.arms):
            for s, logits in enumerate(fits.logits[arm]):
                for k, name in enumerate(CLASSES):
                    for row, kind in enumerate(("recall", "average_precision")):
                        values[study, row, a, s, k] = score(f"{kind}:{name}", fits.labels, logits, CLASSES)
    means, spread = values.mean(axis=(0, 2, 3)), values.std(axis=3, ddof=1).mean(axis=(0, 2))
    rows = [["class", "share", "lesions", "recall", "SD of fits", "average precision", "SD of fits"]]
    for k, name in enumerate(CLASSES):
        cells = (means[0, k], spread[0, k], means[1, k], spread[1, k])
        rows.append([name, percent(SHARES[k]), str(sizes[k]), *(percent(float(cell)) for cell in cells)])
    return f"{show(rows)}\nTwo arms' correctness on an image correlates {np.mean(agreement):.2f}."


def overview(folder: Path) -> list[list[str]]:
    """A row for each finished design: lowest and highest over the measures, false claims in 1,000."""
    rows = [["design", "studies", "coverage", "noisy arm", "false helps", "in a family of 10", "of its standard error"]]
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())
        if "measures" not in found or "-planted" in file.stem:
            continue
        measures = found["measures"].values()
        covered = [100 * one["coverage"][0] for one in measures]
        noisy = [100 * one["noisy"]["coverage"][0] for one in measures if "noisy" in one]
        ratios = [one["true_error"] / one["standard_error"] for one in measures]
        claims = [[1000 * one[name][0] for one in measures] for name in ("helps", "family_helps")]
        rows.append(
            [
                file.stem,
                str(found["studies"]),
                f"{min(covered):.1f} to {max(covered):.1f}",
                f"{min(noisy):.1f} to {max(noisy):.1f}" if noisy else "-",
                *(f"{min(found):.0f} to {max(found):.0f}" for found in claims),
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", default="holdout-5")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--arms", type=int, default=11, help="reference and null arms")
    parser.add_argument("--measures", default=",".join(MEASURES), help="of null studies, separated by commas")
    parser.add_argument(
        "--resamples", type=int, help="lesion bootstrap; 0: lesion jackknife; else as suits the measure"
    )
    parser.add_argument("--out", type=Path, help="JSON; default runs/simulation/DESIGN.json, studies beside it")
    parser.add_argument("--overview", action="store_true", help="only a row for each finished null design")
    parser.add_argument("--describe", action="store_true", help="only say what such studies look like")
    options = parser.parse_args()
    if options.overview:
        print(show(overview((options.out or Path("runs/simulation/x")).parent)))
        return
    *_, noisy, planted = parse(options.design)
    design, measures = design_of(options.design, options.arms), options.measures.split(",")
    if options.describe:
        print(describe(replace(design, num_sets=max(design.num_sets, 3)), options.seed))
        return
    out = options.out or Path("runs/simulation") / f"{options.design}.json"
    many = {name: getattr(options, name) for name in ("studies", "seed", "workers", "resamples")}
    if not planted:
        studies = run(
            design, {name: list(design.arms[1:]) for name in measures}, file=out.with_suffix(".jsonl"), **many
        )
        summary = {measure: null_summary(studies, measure, noisy) for measure in measures}
        rows = show_null(summary)
    else:
        pilots = read(out.with_name(f"{options.design.removesuffix('-planted')}.jsonl"))
        if len(pilots) < FEWEST_PILOTS:
            raise SystemExit(
                f"Run {FEWEST_PILOTS} null studies first: --design {options.design.removesuffix('-planted')}"
            )
        pilot = {measure: null_summary(pilots, measure, False) for measure in MEASURES}
        kept = out.with_suffix(".plan.json")
        if not kept.exists():
            print("The planted signal is being found ...", file=sys.stderr)
            planned, wanted = plan(design, pilot, options.seed)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"planted": planned.planted, "wanted": wanted, "pilot": pilot}, indent=1))
        held = json.loads(kept.read_text())
        design = replace(design, num_arms=1 + len(held["planted"]), planted=held["planted"])
        studies = run(design, held["wanted"], file=out.with_suffix(".jsonl"), **many)
        summary = {measure: planted_summary(studies, measure, held["pilot"]) for measure in MEASURES}
        rows = show_planted(summary)
    out.write_text(json.dumps({"design": options.design, **many, "measures": summary}, indent=1) + "\n")
    print(f"{options.design}, {len(studies)} studies; percent (Monte-Carlo error)\n{show(rows)}")


if __name__ == "__main__":
    main()
