"""What the report says of a verdict: cards, registration, forest plot, controls, power, slices, methods, tables."""

import csv
import io
import math
import re
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fake_run import CLASSES, TEST_IMAGES, WIDE, filled, make_results
from moulage import report
from moulage.evaluation.verdict import Control
from moulage.report import answer, export_tables, exports, figures_scores, literature, page, plot, roles, run_files
from moulage.report.sections import SECTIONS, controls, methods, power, slices
from moulage.results import Results, Verdict

STRANGE = "A_b & 50%"
"""A class whose name means something in LaTeX, in HTML and in a CSV."""
SVG = "{http://www.w3.org/2000/svg}"
BASELINE = 3.2
"""How far below the middle of a row its text of 8.5 points begins."""


@pytest.fixture(scope="module")
def results() -> Results:
    """Of ten arms in two repeats of five folds; the last class has a strange name."""
    return make_results(arms=WIDE, classes=(*CLASSES[:-1], STRANGE), folds=(5, 2))


@pytest.fixture(scope="module")
def run(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of these results, without confusion matrices, which take long to draw."""
    folder = tmp_path_factory.mktemp("wide")
    page_of(folder, results, *(name for name in SECTIONS if name != "confusion"))
    return folder


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def page_of(folder: Path, results: Results, *sections: str, **changes: object) -> str:
    """The page of these results, changed, with some sections."""
    source = page.render(run_files.Run(folder, results.model_copy(update=changes)), sections)
    (folder / "report.html").write_text(source, encoding="utf-8")
    return source


def with_verdict(results: Results, **changes: object) -> Results:
    facts = {"arm": "dcgan", "change": "Adding 80 AK images (dcgan)", "outcome": "not enough data", **changes}
    return results.model_copy(update={"verdicts": [filled(Verdict, **facts)]})


def words(source: str) -> str:
    """A page, or a part of it, without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", source).split())


def number(value: float | None) -> float:
    assert value is not None
    return value


@dataclass
class Panel:
    """What one pair of axes of an SVG file shows, in the file's coordinates."""

    xticks: dict[str, float]  # text of a tick -> its x
    yticks: list[tuple[str, float]]  # texts of ticks and their y, that of the baseline
    marks: list[tuple[float, float, bool]]  # x, y and whether it is filled, in the order of drawing
    lines: list[list[tuple[float, float]]]  # points of a line
    bands: list[tuple[float, float, float, float]]  # x and width, y and height of filled areas
    texts: list[str]  # all other words

    @classmethod
    def of(cls, group: ElementTree.Element) -> "Panel":
        panel = cls({}, [], [], [], [], [])
        for part in group:
            name = part.get("id", "")
            if name.startswith("matplotlib.axis"):
                panel._axis(part)
            for use in part.iter(f"{SVG}use"):
                if name.startswith("line2d"):
                    solid = "fill-opacity: 0" not in use.attrib["style"] and "fill: none" not in use.attrib["style"]
                    panel.marks.append((float(use.attrib["x"]), float(use.attrib["y"]), solid))
            for path in part.findall("{*}path"):
                points = [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])]
                if name.startswith("line2d"):
                    panel.lines.append(points)
                elif f"fill: {plot.BAND}" in path.attrib["style"]:
                    (x0, *_, x1), (y0, *_, y1) = (sorted({round(p[k], 3) for p in points}) for k in (0, 1))
                    panel.bands.append((x0, x1 - x0, y0, y1 - y0))
            panel.texts += [text.text or "" for text in part.iter(f"{SVG}text")] if name.startswith("text") else []
        return panel

    def _axis(self, part: ElementTree.Element) -> None:
        for tick in part:
            texts = [text for text in tick.iter(f"{SVG}text") if text.text]
            if tick.get("id", "").startswith("xtick") and texts:
                self.xticks[texts[0].text or ""] = float(next(tick.iter(f"{SVG}use")).attrib["x"])
            if tick.get("id", "").startswith("ytick") and texts:
                self.yticks.append((texts[0].text or "", float(texts[0].attrib["y"])))

    def label_at(self, y: float) -> str:
        """The label of the row that a mark at ``y`` belongs to: the nearest one."""
        return min(self.yticks, key=lambda tick: abs(tick[1] - BASELINE - y))[0]


def panels(path: Path) -> list[Panel]:
    root = ElementTree.parse(path).getroot()
    return [Panel.of(group) for group in root.iter(f"{SVG}g") if group.get("id", "").startswith("axes")]


def value_at(ticks: dict[str, float], place: float) -> float:
    """The value that stands at a place between or beside the ticks of a linear axis."""
    known = sorted((x, float(text.replace("−", "-"))) for text, x in ticks.items())
    (x0, v0), (x1, v1) = known[0], known[-1]
    return v0 + (place - x0) / (x1 - x0) * (v1 - v0)


@pytest.mark.parametrize("outcome", answer.SIGNS)
def test_a_card_for_each_outcome(results: Results, tmp_path: Path, outcome: str) -> None:
    changed = with_verdict(
        results,
        outcome=outcome,
        statement=f"Adding 80 AK images (dcgan): {outcome} (p = 0.012 after Holm over 2 arms).",
        comparisons=["It changed by -0.3."],
        missing="Without a rival no arm can be said to help.",
        notes=["All trials share one fit."],
        p_adjusted=0.012,
        equivalence_p_adjusted=0.0004,
        detectable=0.054,
        needed="Wait.",
        references={"none": "none", "rival": "focal"},
    )
    shown = page_of(tmp_path, changed)
    [(kind, card)] = re.findall(r'<article class="verdict ([a-z-]+)">(.*?)</article>', shown, re.DOTALL)
    assert kind == outcome.replace(" ", "-")
    assert words(card) == (  # the outcome is the heading
        f"{answer.SIGNS[outcome]} {outcome} Adding 80 AK images (dcgan) It changed by −0.3. Without a rival no arm can "
        "be said to help. All trials share one fit. What the study could see: Wait. smallest effect that matters 2.0 "
        "points gain that 80 % of such studies would call “helps” 5.4 points p of a difference, corrected for the "
        "family 0.012 p of equality, corrected for the family &lt; 0.001 compared with none, focal (hardest rival)"
    )


def test_what_a_verdict_does_not_know_is_left_out(results: Results, tmp_path: Path) -> None:
    changed = with_verdict(results)
    [card] = answer.show(run_files.Run(tmp_path, changed))["cards"]
    assert [name for name, _ in card["facts"]] == ["smallest effect that matters"]
    assert "What the study could see" not in page_of(tmp_path, changed)


def test_signs_tell_outcomes_apart_without_colour() -> None:
    assert len(set(answer.SIGNS.values())) == 4
    assert len(set(controls.SIGNS.values())) == 4


def test_a_refusal_is_shown_once_and_in_words(source: str) -> None:
    assert source.count("The null control noise helps: +9.9 points. It must not.") == 1
    assert source.count("A word is refused:") == 1


@pytest.mark.parametrize(
    ("text", "typeset"),
    [
        ("-0.6 points (-1.5 to +0.4)", "−0.6 points (−1.5 to +0.4)"),
        ("age 60-75 of ISIC-0024, r3-1", "age 60-75 of ISIC-0024, r3-1"),
        ("a 95 % interval", "a 95\u00a0% interval"),
    ],
)
def test_recorded_sentences_get_a_minus_sign_and_keep_their_hyphens(text: str, typeset: str) -> None:
    assert page.typeset(text) == typeset


def test_registration_stands_under_the_verdicts(source: str, results: Results, tmp_path: Path) -> None:
    said = words(source)
    assert "Registered (2026-11-20 08:15 UTC, digest 5be1c0ffee42): measure" in said
    assert "Two arms were added on 2026-11-21, before the test part was opened." in said
    assert "family of arms that p is corrected over dcgan, r3gan" in said
    assert "controls that must not help noise, permuted" in said
    assert 'class="registration"' in source

    note = "Changed after the test part was opened: smallest_effect: 0.01 is now 0.02."
    assert results.registration is not None
    late = results.registration.model_copy(update={"before_test": False, "note": note})
    changed = page_of(tmp_path, results, "methods", registration=late)
    assert 'class="registration exploratory"' in changed
    assert "Exploratory (2026-11-20 08:15 UTC, digest 5be1c0ffee42): measure" in words(changed)
    assert note in changed
    assert "were fixed before any prediction" not in changed
    assert "so that the study is exploratory" in changed  # in the methods, too


def test_the_forest_has_a_mark_where_each_difference_is(run: Path, results: Results) -> None:
    """Against the reference every arm, below it generated images against other references; read from the SVG file."""
    first, second = panels(run / "figures" / "differences.svg")
    compared = {(c.arm, c.reference): c for c in results.comparisons if c.measure == "average_precision"}
    assert [first.label_at(y).removesuffix(" (best rival)") for _, y, _ in first.marks] == [
        *("dcgan", "r3gan", "duplicates", "balanced-softmax", "focal", "mixup", "oracle", "noise", "permuted")
    ]
    assert {name for name, _ in first.yticks} >= {*roles.TITLES.values(), "balanced-softmax (best rival)"}
    assert first.texts[-1] == "against none"
    pairs = [(first.label_at(y).removesuffix(" (best rival)"), "none") for _, y, _ in first.marks]
    pairs += [(arm, other) for arm in ("dcgan", "r3gan") for other in ("duplicates", "balanced-softmax")]
    assert [second.label_at(y).removesuffix(" (best rival)") for _, y, _ in second.marks] == [b for _, b in pairs[9:]]
    for (x, y, solid), pair in zip([*first.marks, *second.marks], pairs, strict=True):
        row = compared[pair]
        assert value_at(second.xticks, x) == pytest.approx(100 * number(row.difference), abs=1e-3)
        assert solid
        ends = [
            [value_at(second.xticks, end) for end, _ in line]
            for line in (first if pair in pairs[:9] else second).lines
            if [place for _, place in line] == [y, y]
        ]
        wanted = [(row.cautious_low, row.cautious_high), (row.low, row.high)]
        assert ends == [pytest.approx([100 * number(low), 100 * number(high)], abs=1e-3) for low, high in wanted]


def test_the_forest_has_the_band_of_equivalence(run: Path, source: str) -> None:
    drawn = panels(run / "figures" / "differences.svg")
    assert len(drawn) == 2
    for panel in drawn:
        [(x, width, y, height)] = panel.bands
        ends = [value_at(drawn[1].xticks, place) for place in (x, x + width)]
        assert ends == pytest.approx([-2, 2], abs=1e-3)  # the smallest effect that matters, in points
        assert all(y < place < y + height for _, place, _ in panel.marks)
    assert "The band is the smallest effect that matters, ±2.0 points." in source
    assert "The thin line is the cautious interval of Nadeau and Bengio." in source


def test_effects_on_each_class_are_drawn_where_they_are(run: Path, results: Results, source: str) -> None:
    precision, recall = panels(run / "figures" / "class-effects-r3gan.svg")
    names = [name for name, _ in precision.yticks]
    assert names == list(results.study.classes)
    found = {(c.measure, c.reference): c for c in results.class_effects if c.arm == "r3gan"}
    for panel, measure in ((precision, "average_precision"), (recall, "recall")):
        assert len(panel.marks) == 2 * len(names)
        for (x, y, _), (reference, name) in zip(
            panel.marks, [(r, n) for r in ("none", "duplicates") for n in names], strict=True
        ):
            assert precision.label_at(y) == name
            difference = number(found[f"{measure}:{name}", reference].difference)
            assert value_at(panel.xticks, x) == pytest.approx(100 * difference, abs=1e-3)
        [(_, _, top, height)] = panel.bands  # the target class
        assert precision.label_at(top + height / 2) == "AK"
        assert panel.texts[-1].replace(" ", "_") == measure
    row = found["recall:AK", "none"]
    assert f"AK recall {100 * number(row.difference):+.1f} [" in source
    assert "r3gan: difference in each class, with 95\u00a0% intervals. Target classes stand on a band" in source


def test_controls_that_misbehave_come_first(results: Results, tmp_path: Path) -> None:
    states = (("good", "null", "behaves"), ("weak", "positive", "not shown"), ("bad", "null", "misbehaves"))
    rows = [filled(Control, arm=name, role=role, state=state, text=f"{name} by -0.4.") for name, role, state in states]
    shown = page_of(tmp_path, results, "controls", controls=rows, controls_missing=["permuted", "oracle"])
    panel = shown[shown.index('id="controls"') :]
    assert re.findall(r'class="short state ([a-z-]+)"', panel) == ["misbehaves", "not-shown", "behaves"]
    said = words(panel)
    assert "bad must not help ✗ misbehaves bad by −0.4. weak must help ? not shown weak by −0.4. good" in said
    assert (
        "Not in this study: permuted (real images under labels of other classes, which must not help); oracle "
        "(held-back real images, which must help). What they would have shown is unknown."
    ) in said


def test_a_study_without_controls_says_what_it_lacks(results: Results, tmp_path: Path) -> None:
    said = words(page_of(tmp_path, results, "controls", controls=[], controls_missing=["oracle"]))
    assert "did it behave?" not in said
    assert "Not in this study: oracle (held-back real images, which must help). What it would have shown" in said
    assert 'id="controls"' not in page_of(tmp_path, results, "controls", controls=[], controls_missing=[])


def test_power_says_what_would_be_enough() -> None:
    points: list[tuple[float, float | None]] = [(3, 0.05), (5, None), (10, 0.02), (20, 0.01)]
    assert power.enough(points, 0.02) == "10"
    assert power.enough(points, 0.06) == "at most 3"  # fewer were not tried
    assert power.enough(points, 0.001) == "more than 20"
    assert power.enough([(3, None)], 0.02) == "–"


def test_every_comparison_with_power_has_a_row(results: Results, source: str) -> None:
    table = source[source.index('id="power"') :].split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    assert [words(row).split()[:2] for row in rows] == [[p.arm, p.reference] for p in results.power]
    assert words(rows[0]) == "dcgan none 1.8 5.4 more than 50 8 ×"  # 0.054 / sqrt(8) = 1.9 points


def test_power_is_drawn_over_trials_and_lesions(run: Path, results: Results) -> None:
    drawn = panels(run / "figures" / "power.svg")
    ys = {text: y - BASELINE for text, y in drawn[0].yticks}
    for panel, field in zip(drawn, ("by_trials", "by_size"), strict=True):
        dashed = [line for line in panel.lines if len(line) == 2]
        assert [value_at(ys, line[0][1]) for line in dashed] == pytest.approx([2], abs=0.03)
        curves = [line for line in panel.lines if len(line) > 2]
        assert len(curves) == 2  # of each arm the comparison with the largest detectable difference
        for line, arm in zip(curves, ("dcgan", "r3gan"), strict=True):
            [row] = [row for row in results.power if (row.arm, row.reference) == (arm, "duplicates")]
            points = getattr(row, field)
            wanted = [panel.xticks[f"{x:g}"] for x, _ in points]
            assert [x for x, _ in line] == pytest.approx(wanted, abs=1e-3)
            assert [value_at(ys, y) for _, y in line] == pytest.approx([100 * y for _, y in points], abs=0.03)


def test_reliability_is_drawn_where_it_is(run: Path, results: Results, source: str) -> None:
    drawn = panels(run / "figures" / "reliability.svg")
    shown = roles.by_importance(results)[: roles.MOST_SHOWN]
    assert [panel.texts[-1] for panel in drawn] == shown
    ys = {text: y - BASELINE for text, y in drawn[3].yticks}
    of_arm = {row.arm: row for row in results.reliability}
    bins = [(x, y) for x, y, _ in of_arm["dcgan"].bins]
    curve = drawn[3].lines[-1]  # dcgan, the first panel of the second row, which has both axes' numbers
    assert [value_at(drawn[3].xticks, x) / 100 for x, _ in curve] == pytest.approx([x for x, _ in bins], abs=1e-3)
    assert [value_at(ys, y) / 100 for _, y in curve] == pytest.approx([y for _, y in bins], abs=0.002)
    for arm in WIDE:
        error = f"{100 * number(of_arm[arm].error):.1f}"
        assert any(f"ECE {error}" in panel.texts for panel in drawn) is (arm in shown)  # the table has all
        assert f"{arm} {error}" in words(source[source.index("Calibration error of every arm") :])


@pytest.mark.parametrize("number", [1, 4, 5])
def test_every_column_of_reliability_diagrams_ends_in_numbers(results: Results, tmp_path: Path, number: int) -> None:
    few = results.model_copy(update={"reliability": results.reliability[:number]})
    with plot.style():
        figures_scores.reliability(few, tmp_path)
    drawn = panels(tmp_path / "figures" / "reliability.svg")
    assert [k for k, panel in enumerate(drawn) if panel.xticks] == list(range(max(0, number - 3), number))


def test_slices_keep_their_order_and_say_why_one_is_empty(results: Results, source: str) -> None:
    columns = slices.compared(results)
    assert [arm for arm, _ in columns] == ["dcgan", "r3gan"]
    tables = slices.lines(results, columns)
    assert list(tables) == ["average_precision", "balanced_accuracy"]  # the primary measure first
    ages = tables["average_precision"]["age"]
    assert [part.value for part, _ in ages] == ["0-30", "30-45", "45-60", "60-75", "75+"]
    said = words(source[source.index('id="slices"') :])
    assert "0-30 900 500 Too small: 4 lesions of AK, fewer than 10." in said
    assert "30-45 800 410 50.0 +3.0 (−3.0 to +9.0)" in said


def test_slices_are_drawn_where_they_are(run: Path, results: Results) -> None:
    [panel] = panels(run / "figures" / "slices-dcgan.svg")
    parts = [part for part in results.slices if part.measure == "average_precision" and part.rows]
    assert [name for name, _ in panel.yticks if name not in {part.column for part in parts}] == [p.value for p in parts]
    wanted = [(part.value, row) for part in parts for row in part.rows if row.arm == "dcgan"]
    for (x, y, solid), (label, row) in zip(panel.marks, wanted, strict=True):
        assert panel.label_at(y) == label
        assert value_at(panel.xticks, x) == pytest.approx(100 * number(row.difference), abs=1e-3)
        assert solid is (row.low is not None)  # hollow: no interval
    [(x, width, _, _)] = panel.bands
    assert [value_at(panel.xticks, place) for place in (x, x + width)] == pytest.approx([-2, 2], abs=1e-3)


def test_slices_warn_on_the_page(results: Results, source: str, tmp_path: Path) -> None:
    assert "r3gan improves the average precision on the source HAM only." in source
    assert "⚠ Warning:" in source
    assert "⚠ Warning:" not in page_of(tmp_path, results, "slices", slice_warnings=[])


def test_many_warnings_are_folded_but_not_how_many_intervals_were_looked_at(results: Results, tmp_path: Path) -> None:
    sentences = [f"Warning {k} at -{k}.0 points." for k in range(20)] + ["300 intervals were looked at."]
    part = page_of(tmp_path, results, "slices", slice_warnings=sentences, slices=[]).partition("⚠ Warning:")[2]
    open_part, _, folded = part.partition("<details>")
    assert "300 intervals were looked at." in open_part
    assert re.findall(r"Warning (\d+) at", open_part) == [str(k) for k in range(roles.MOST_SHOWN - 1)]
    assert re.findall(r"Warning (\d+) at", folded) == [str(k) for k in range(roles.MOST_SHOWN - 1, 20)]
    assert "15 more warnings" in folded


def cited(text: str) -> tuple[str, list[str]]:
    """The body of a methods paragraph, and its references; every one is used, and every number has one."""
    body, _, listed = text.partition("\n[1] ")
    listing = f"[1] {listed}".strip().splitlines()
    used = {int(number) for found in re.findall(r"\[([\d, ]+)\]", body) for number in found.split(",")}
    assert [int(line.split("]")[0][1:]) for line in listing] == sorted(used) == list(range(1, len(listing) + 1))
    first = [int(n) for found in re.findall(r"\[([\d, ]+)\]", body) for n in found.split(",")]
    assert list(dict.fromkeys(first)) == sorted(used)  # numbered in the order of their first mention
    return body, listing


def test_methods_name_what_was_done_and_cite_what_they_name(results: Results) -> None:
    body, listing = cited(methods.text(results, "1.2"))
    for said in (
        "5-fold cross-validation, stratified by class and grouped by lesion, twice over (10 trials)",
        "by the mean of a measure over the repeats, the predictions of whose folds were pooled",
        "dcgan (80 AK images drawn by a DCGAN [1] fitted to the training part of each trial)",
        "balanced-softmax (balanced softmax [2])",
        "noise (80 AK images drawn by",
        "The primary measure was average precision; the target class was AK.",
        "The smallest effect that matters was set to 2.0 points.",
        "was fixed (digest 5be1c0ffee42, 2026-11-20 08:15 UTC) before any prediction",
        "95 % intervals take lesions and fits as random",
        "estimated by the lesion jackknife",
        "Satterthwaite's degrees of freedom",
        "A second, cautious interval is that of Nadeau and Bengio",
        "intersection-union test",
        "two one-sided tests",
        "after Holm's correction over 2 arms",
        "every one of 3 rivals",
        "No arm is said to help, or to be practically equal, where a control misbehaves or cannot be judged, or the "
        "gain of one that must help is not shown.",
        "in each trial as strongly as balanced accuracy on the validation part wanted it (mean strength: none 1.00, ",
        "balanced-softmax 1.62",
        "run with moulage 1.2",
    ):
        assert said in body, said
    for author in (
        "Radford",
        "Ren",
        "Menon",
        "Owen",
        "Nadeau",
        "Efron",
        "Satterthwaite",
        "Berger",
        "Schuirmann",
        "Holm",
    ):
        assert any(author in line for line in listing), author
    assert not any(said in body for found in results.verdicts for said in (*found.comparisons, found.needed))  # outcome


def test_methods_of_other_designs(results: Results) -> None:
    assert results.registration is not None
    declared = results.registration.declared.model_copy(update={"scheme": "official"})
    changed = results.model_copy(
        update={
            "registration": results.registration.model_copy(update={"declared": declared}),
            "trials": results.trials.model_copy(update={"scheme": "holdout", "num_trials": 3}),
            "comparisons": [replace(c, cautious_low=None) for c in results.comparisons],
            "verdicts": results.verdicts[:1],
            "best_rival": None,
            "arms": [arm for arm in results.arms if arm.role != "rival"],
            "controls": [],
            "controls_missing": ["oracle", "noise"],
            "study": results.study.model_copy(update={"operating_point": "argmax"}),
        }
    )
    body, listing = cited(methods.text(changed))
    assert "The parts were those of the data set, so that no lesion was in two of them" in body
    assert "Every arm was trained 3 times and tested on the same images." in body
    assert "by the mean of a measure over the fits" in body
    assert "There was no rival to choose from, and without one no arm is said to help." in body
    assert "The study had no control oracle or noise." in body
    for absent in ("fold", "cautious", "Holm", "strength"):
        assert absent not in body
        assert not any(absent in line for line in listing)


def test_methods_stand_on_the_page_and_in_a_file(run: Path, source: str) -> None:
    text = (run / "tables" / "methods.txt").read_text(encoding="utf-8")
    assert "run with moulage." in text
    body = source[source.index('id="methods"') : source.index('id="tables"')]
    assert words(text) in words(body).replace("&#39;", "'").replace("&amp;", "&")


def test_every_rival_and_generator_has_its_source() -> None:
    """A plug-in that the methods paragraph cannot name would be left without its paper."""
    from moulage import plugins

    for name in plugins.names("balance"):
        role = getattr(plugins.load("balance", name), "ROLE", "rival")
        assert role != "rival" or name in literature.BALANCE, name
    named = [literature.BALANCE, literature.GENERATORS, literature.INTERVALS]
    keys = {key for table in named for _, keys in table.values() for key in keys}
    assert keys <= set(literature.REFERENCES)


def test_tables_hold_the_numbers_of_the_results(run: Path, results: Results) -> None:
    for name in ("comparisons", "class_effects"):
        found = pd.read_csv(run / "tables" / f"{name}.csv")
        expected = pd.DataFrame([asdict(row) for row in getattr(results, name)])
        assert len(found) == len(expected) > 50
        for column in export_tables.COMPARED:
            if found[column].dtype.kind == "f":
                assert found[column].to_numpy() == pytest.approx(expected[column].astype(float).to_numpy(), nan_ok=True)
            else:
                assert found[column].tolist() == expected[column].tolist()
    assert found["class"].unique().tolist() == [*CLASSES[:-1], STRANGE]
    verdicts = pd.read_csv(run / "tables" / "verdicts.csv")
    assert verdicts["outcome"].tolist() == ["not enough data"] * 2
    assert verdicts["p_adjusted"].tolist() == [0.84, 0.84]
    controls = pd.read_csv(run / "tables" / "controls.csv")
    assert dict(zip(controls["arm"], controls["state"], strict=True))["noise"] == "misbehaves"
    sliced = pd.read_csv(run / "tables" / "slices.csv")
    rows = [(part.value, row) for part in results.slices for row in part.rows]
    assert sliced["value"].tolist() == [value for value, _ in rows]
    assert sliced["low"].to_numpy() == pytest.approx([row.low or math.nan for _, row in rows], nan_ok=True)


def test_tables_of_scores_are_means_over_the_trials(results: Results) -> None:
    tables = {table.name: pd.read_csv(io.StringIO(exports.to_csv(table))) for table in export_tables.tables(results)}
    scores = [fit.scores["test"] for fit in results.fits if fit.arm == "r3gan"]
    assert len(scores) == 10
    row = tables["arms"].set_index(["arm", "measure"]).loc[("r3gan", "balanced_accuracy")]
    values = [number(of.balanced_accuracy) for of in scores]
    assert (row["mean"], row["standard_deviation"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (row["role"], row["num_trials"]) == ("synthetic", 10)
    assert "expected_calibration_error" not in tables["arms"]["measure"].to_list()  # could not be computed
    strange = tables["classes"].set_index(["arm", "class"]).loc[("r3gan", STRANGE)]
    recalls = [number(of.classes[STRANGE].recall) for of in scores]
    assert strange["recall_mean"] == pytest.approx(statistics.mean(recalls))
    assert strange["recall_standard_deviation"] == pytest.approx(statistics.stdev(recalls))
    assert strange["support"] == TEST_IMAGES[-1]


def check_latex(text: str) -> list[list[str]]:
    """Cells of every row of a LaTeX table, once its braces, environments and columns are found to match."""
    body = text.partition("\n")[2]
    bare = re.sub(r"\\[{}\\]", "", body)
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    stack = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if what == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    columns = re.search(r"\{(l*r*)\}\n", body)
    assert columns is not None
    lines = [line for line in body.splitlines() if line.endswith(r" \\") and not line.startswith(r"\caption")]
    rows = [re.split(r"(?<!\\)&", line[:-3]) for line in lines]
    assert {len(row) for row in rows} == {len(columns[1])}
    for cell in (cell for row in rows for cell in row):
        assert not re.search(r"(?<!\\)[&%_#]", cell), cell
    return [[cell.strip() for cell in row] for row in rows]


def test_latex_is_whole_and_escaped() -> None:
    rows = [[STRANGE, -0.5], ["~^\\{}#$", math.nan]]
    shown = [[str(v) for v in row] for row in rows]
    table = exports.Table("t", STRANGE, ["name", "value"], rows, ["name", "value"], shown, 1)
    text = exports.to_latex(table)
    assert check_latex(text) == [
        ["name", "value"],
        [r"A\_b \& 50\%", "-0.5"],
        [r"\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}\#\$", "nan"],
    ]
    assert r"\caption{A\_b \& 50\%}" in text
    assert list(csv.reader(io.StringIO(exports.to_csv(table))))[1] == [STRANGE, "-0.5"]


def test_every_latex_table_is_whole(results: Results) -> None:
    tables = {table.name: (table, exports.to_latex(table)) for table in export_tables.tables(results)}
    assert set(tables) == {"verdicts", "comparisons", "arms", "classes", "class_effects", "controls", "slices"}
    for table, text in tables.values():
        cells = check_latex(text)
        heads = 2 if "\\begin{longtable}" in text else 1  # of a table over several pages: on the first, and on others
        assert len(cells) == heads + len(table.shown)
    assert r"A\_b \& 50\%" in {row[1] for row in check_latex(tables["classes"][1])}
    assert r"A\_b \& 50\%" in {row[2] for row in check_latex(tables["class_effects"][1])}
    [row] = [row for row in check_latex(tables["comparisons"][1]) if row[:3] == ["r3gan", "none", "average precision"]]
    assert row[3:] == ["56.1", "50.0", "+6.1", "+2.4 to +9.8", "0.420"]
    assert "\\begin{longtable}" in tables["comparisons"][1]
    assert "\\begin{tabular}" in tables["verdicts"][1]


def test_folds_have_a_cautious_interval_on_the_page(results: Results, source: str, tmp_path: Path) -> None:
    said = words(source[source.index('id="comparison"') : source.index('id="controls"')])
    assert "95&nbsp;% interval cautious interval p" in said
    assert "r3gan none 56.1 50.0 +6.1 +2.4 to +9.8 +0.6 to +11.6 0.420 10 4,126 2,113" in said
    assert "these splits and these budgets" in said
    holdout = [replace(c, cautious_low=None, cautious_high=None) for c in results.comparisons]
    assert "cautious interval" not in page_of(tmp_path, results, "comparison", comparisons=holdout)


def test_long_names_keep_both_ends() -> None:
    names = [f"ddpm-with-balanced-softmax-and-seed-{k}" for k in range(3)]
    assert plot.short("dcgan") == "dcgan"
    assert len({plot.short(name) for name in names}) == 3
    assert all(len(plot.short(name, limit)) == limit for name in names for limit in (12, 16, 28))


@pytest.mark.parametrize(
    ("number", "end"), [(0, ""), (1, " 1 more arm stands in x only."), (2, " 2 more arms stand in x only.")]
)
def test_captions_say_how_many_arms_are_left_out(number: int, end: str) -> None:
    assert plot.left_out(number, "x") == end


@pytest.mark.parametrize("length", [3, 12, 28])
def test_a_legend_stays_inside_its_figure(length: int) -> None:
    names = [f"{'m' if length < 9 else 'Wide-name-'}{k:03}".ljust(length, "o") for k in range(6)]
    with plot.style():
        figure = Figure(figsize=(4.2, 2), layout="constrained")
        lines = [figure.add_subplot().plot([0, 1], label=name)[0] for name in names]
        plot.legend(figure, lines, names)
        FigureCanvasAgg(figure).draw()
        [drawn] = figure.legends
        box = drawn.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    rows = {round(text.get_window_extent().y0) for text in drawn.get_texts()}
    assert len(rows) == {3: 2, 12: 2, 28: 6}[length]  # as many side by side as fit


def test_minutes_of_a_gpu_that_nobody_used(results: Results, tmp_path: Path) -> None:
    def row(**changes: object) -> str:
        return words(page_of(tmp_path, results, "cost", **changes).split("<tfoot>")[1].split("</tfoot>")[0])

    assert row() == "all 4 20.9 21.8 10.2"
    assert row(cost=[c for c in results.cost if c.device == "cpu"]) == "all 3 10.7 11.2 –"


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_their_ground(scheme: int) -> None:
    """Contrast of at least 4.5 to 1, as WCAG asks of text."""
    style = Path(report.__file__).with_name("style.css").read_text(encoding="utf-8")
    colours = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme])
    )
    for ground, inks in {
        "page": ("ink", "muted", "accent", "good", "bad", "warn"),
        "soft": ("ink", "muted", "good", "bad", "warn"),
        "warn-soft": ("warn",),
    }.items():
        for ink in inks:
            low, high = sorted(luminance(colours[name]) for name in (ink, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)
