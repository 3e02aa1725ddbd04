"""What the report says of a verdict: cards, registration, forest plot, controls, power, slices, methods, tables."""

import csv
import io
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from fake_run import CLASSES, TEST_IMAGES, WIDE, comparison, make_run
from moulage import report
from moulage.report import evidence, export_tables, exports, figures_evidence, literature, methods, plot, records, roles
from moulage.runs import write_json

STRANGE = "A_b & 50%"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten arms in two repeats of five folds; without curves and confusion matrices, whose figures take long to draw."""
    folder = tmp_path_factory.mktemp("wide") / "wide"
    make_run(folder, arms=WIDE, num_epochs=2, num_generated=4, folds=(5, 2))
    write_json(folder / "results.json", raw(folder) | {"fits": [], "generators": []})
    return folder


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(run: Path) -> records.Results:
    return records.Results.model_validate(raw(run))


def raw(run: Path) -> dict:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def with_verdict(results: records.Results, **changes: object) -> records.Results:
    verdict = records.Verdict.model_validate({"arm": "dcgan", "change": "Adding 80 AK images (dcgan)", **changes})
    return results.model_copy(update={"verdicts": [verdict]})


@pytest.mark.parametrize("outcome", ["helps", "hurts", "practically equal", "not enough data"])
def test_a_card_for_each_outcome(results, outcome):
    text = [f"Adding 80 AK images (dcgan): {outcome} (p = 0.012 after Holm over 2 arms).", "It changed much.", "Wait."]
    changed = with_verdict(
        results, outcome=outcome, text=text, p_adjusted=0.012, needed="Wait.", references={"rival": "focal"}
    )
    [card] = evidence.cards(changed)
    assert (card.outcome, card.kind, card.sign) == (outcome, outcome.replace(" ", "-"), evidence.SIGNS[outcome])
    assert card.sentences == ["It changed much."]  # the outcome is the heading, and what is needed has its own place
    assert ("p of a difference, corrected for the family", "0.012") in card.facts
    assert ("compared with", "focal (best rival)") in card.facts
    assert card.needed == "Wait."


def test_an_outcome_nobody_knows_looks_like_no_success(results):
    [card] = evidence.cards(with_verdict(results, outcome="wonderful"))
    assert (card.kind, card.sign) == ("not-enough-data", "?")


def test_signs_tell_outcomes_apart_without_colour():
    assert len({evidence.SIGNS[name] for name in ("helps", "hurts", "practically equal", "not enough data")}) == 4


def test_a_refusal_is_shown_once_and_in_words(source, results):
    [refused] = [card for card in evidence.cards(results) if card.refused]
    assert "r3gan" in refused.change
    assert source.count("The null control noise helps: +9.9 points. It must not.") == 1


@pytest.mark.parametrize(
    ("before", "says", "says_not"),
    [
        (True, "Registered (", "Exploratory"),
        (False, "Exploratory (", "Registered"),
        (None, "not recorded", "Exploratory"),
    ],
)
def test_registration_in_words(before, says, says_not):
    said = evidence.registered(records.Registration(digest="5be1", date="2026-11-20", before_test=before))
    assert says in said
    assert says_not not in said
    assert "2026-11-20, digest 5be1" in said


def test_a_late_registration_stands_on_the_page(tmp_path):
    run = make_run(tmp_path / "run", classes=("AK", "NV"), support=(20, 60), arms=("none", "dcgan"), num_trials=1)
    found = raw(run)
    found["registration"] |= {"before_test": False, "note": "Changed after the test part was opened: primary."}
    write_json(run / "results.json", found | {"generators": [], "fits": []})
    page = report.write(run).read_text(encoding="utf-8")
    assert "Exploratory (2026-11-20 08:15 UTC, digest 5be1c0ffee42)" in page
    assert "Changed after the test part was opened: primary." in page


def drawn(results: records.Results, folder: Path) -> tuple[ElementTree.Element, str]:
    with plot.style():
        made = figures_evidence.forest(results, folder)
    assert made is not None
    return ElementTree.parse(folder / "differences.svg").getroot(), made.caption


def test_the_forest_has_every_arm_and_the_band(results, tmp_path):
    root, caption = drawn(results, tmp_path)
    words = " ".join(element.text or "" for element in root.iter() if element.tag.endswith(("text", "tspan")))
    words += ElementTree.tostring(root, encoding="unicode")
    for arm in WIDE[1:]:
        assert arm in words
    assert "best rival" in words
    assert "±2.0 points" in caption
    assert "Nadeau and Bengio" in caption  # folds have a second, cautious interval


def test_marks_of_the_forest_stand_where_the_differences_are(results):
    """Drawn on plain axes: x of each mark is the difference in points, and the band is that of equivalence."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    figures_evidence._band(axes, results.study)
    [band] = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx([-2, 2])
    row = records.Comparison.model_validate(comparison("r3gan", "none", "average_precision", (5, 2)))
    figures_evidence._interval(axes, 3, row, 100, "black", "o")
    points = [tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in axes.lines]
    xs = [x for found in points for x in found[: len(found) // 2]]
    assert row.difference is not None
    assert any(x == pytest.approx(100 * row.difference) for x in xs)
    ends = [x for path in axes.collections for x in path.get_paths()[0].vertices[:, 0]] + xs
    for end in (row.low, row.high, row.cautious_low, row.cautious_high):
        assert end is not None
        assert any(x == pytest.approx(100 * end) for x in ends), end


def test_no_band_without_a_smallest_effect(results, tmp_path):
    study = results.study.model_copy(update={"smallest_effect": None})
    assert "band" not in drawn(results.model_copy(update={"study": study}), tmp_path)[1]


def test_controls_that_misbehave_come_first(results, source):
    rows = evidence.controls(results)
    assert [(row[0], row[3]) for row in rows] == [
        ("noise", "misbehaves"),
        ("permuted", "behaves"),
        ("oracle", "behaves"),
    ]
    assert {row[0]: row[1] for row in rows}["oracle"] == "must help"
    assert len({row[2] for row in rows}) == 2
    for row in rows:
        assert row[4] in source


def test_missing_controls_are_said_with_what_they_would_be(results):
    lacking = results.model_copy(update={"controls_missing": ["oracle", "other"]})
    assert evidence.missing_controls(lacking) == ["oracle (held-back real images, which must help)", "other"]


def test_power_says_what_would_be_enough():
    points: list[tuple[float, float | None]] = [(3, 0.05), (5, None), (10, 0.02), (20, 0.01)]
    assert evidence.enough(points, 0.02) == "10"
    assert evidence.enough(points, 0.001) == "more than 20"
    assert evidence.enough([(3, None)], 0.02) == "–"


def test_every_comparison_with_power_has_a_row(results, source):
    rows = evidence.power_rows(results)
    assert {(row.arm, row.reference) for row in rows} == {(p.arm, p.reference) for p in results.power}
    assert rows[0].detectable == "5.4"
    assert "more than" in rows[0].trials
    assert rows[0].size == "8 ×"  # 0.054 / sqrt(8) = 1.9 points
    assert 'id="power"' in source


def test_reliability_of_every_arm(run, results, source):
    text = (run / "figures" / "reliability.svg").read_text(encoding="utf-8")
    for arm in WIDE:
        assert (arm in text) is (arm in roles.by_importance(results)[: roles.MOST_SHOWN])  # the table has all
        error = next(row.error for row in results.reliability if row.arm == arm)
        assert error is not None
        assert f"{100 * error:.1f}" in source


def test_slices_keep_their_order_and_say_why_one_is_empty(results, source):
    columns = evidence.slice_columns(results)
    assert [arm for arm, _ in columns] == ["dcgan", "r3gan"]
    tables = dict(evidence.slice_tables(results))
    assert next(iter(tables)) == "average_precision"  # the primary measure first
    ages = dict(tables["average_precision"])["age"]
    assert [line.value for line in ages] == ["0-30", "30-45", "45-60", "60-75", "75+"]
    assert ages[0].note == "Too small: 4 lesions of AK, fewer than 10."
    assert ages[1].note == ""
    assert ages[1].cells[0] == "50.0"
    assert ages[1].cells[1] == "+3.0 (−3.0 to +9.0)"
    assert "Too small: 4 lesions of AK, fewer than 10." in source
    assert "r3gan improves the average precision on the source HAM only." in source


def test_methods_name_what_was_done_and_cite_what_they_name(results):
    text = methods.text(results, "1.2")
    body, _, listed = text.partition("\n[1]")
    listed = f"[1]{listed}"
    for words in (
        "5-fold cross-validation",
        "grouped by lesion",
        "twice over (10 trials)",
        "Holm",
        "two one-sided tests",
    ):
        assert words in body, words
    assert "Nadeau and Bengio" in body
    assert "was fixed (digest 5be1c0ffee42, 2026-11-20 08:15 UTC) before any prediction" in body
    assert "run with moulage 1.2" in body
    cited = {int(number) for found in re.findall(r"\[([\d, ]+)\]", body) for number in found.split(",")}
    numbered = [int(line.split("]")[0][1:]) for line in listed.strip().splitlines()]
    assert numbered == sorted(cited) == list(range(1, len(numbered) + 1))
    assert any("Holm" in line for line in listed.splitlines())


def test_methods_say_nothing_of_the_outcome(results):
    text = methods.text(results)
    assert "not enough data (p" not in text
    assert "+0.2 points" not in text


def test_every_rival_and_generator_has_its_source():
    """A plug-in that the methods paragraph cannot name would be left without its paper."""
    from moulage import plugins

    for name in plugins.names("balance"):
        role = getattr(plugins.load("balance", name), "ROLE", "rival")
        assert role != "rival" or name in literature.BALANCE, name
    for keys in (*(keys for _, keys in literature.BALANCE.values()), *(k for _, k in literature.GENERATORS.values())):
        assert set(keys) <= set(literature.REFERENCES)


def test_tables_hold_the_numbers_of_the_results(run, source):
    found = pd.read_csv(run / "tables" / "comparisons.csv")
    expected = pd.DataFrame(raw(run)["comparisons"])[list(found.columns)]
    assert len(found) == len(expected) > 50
    for column in found.columns:
        if found[column].dtype.kind == "f":
            assert found[column].to_numpy() == pytest.approx(expected[column].astype(float).to_numpy(), nan_ok=True)
        else:
            assert found[column].tolist() == expected[column].tolist()
    verdicts = pd.read_csv(run / "tables" / "verdicts.csv")
    assert verdicts["outcome"].tolist() == ["not enough data"] * 2
    assert verdicts["p_adjusted"].tolist() == [0.84, 0.84]
    assert {path.suffix for path in (run / "tables").iterdir()} == {".csv", ".tex", ".txt"}


def test_latex_is_whole_and_escaped():
    rows = [[STRANGE, -0.5], ["~^\\{}#$", math.nan]]
    table = exports.Table(
        "t", STRANGE, ["name", "value"], rows, ["name", "value"], [[str(v) for v in r] for r in rows], 1
    )
    text = exports.to_latex(table)
    assert r"A\_b \& 50\%" in text
    body = text.partition("\n")[2]
    for sign in "&%$#_":
        for place in re.finditer(re.escape(sign), body):
            before = body[place.start() - 1]
            assert before == "\\" or body[place.start() - 1 : place.end() + 1] == " & ", body[place.start() - 5 :]
    bare = re.sub(r"\\[{}\\]", "", body)
    assert bare.count("{") == bare.count("}")
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    assert list(csv.reader(io.StringIO(exports.to_csv(table))))[1] == [STRANGE, "-0.5"]


def test_a_long_table_breaks_over_pages(results):
    tables = {table.name: exports.to_latex(table) for table in export_tables.tables(results)}
    assert "\\begin{longtable}" in tables["comparisons"]
    assert "\\begin{tabular}" in tables["verdicts"]


def test_an_older_run_has_no_evidence_and_still_a_page(tmp_path):
    arms = ("none", "dcgan")
    run = make_run(tmp_path / "old", arms=arms, num_trials=1, num_epochs=2, num_generated=4, with_evidence=False)
    page = report.write(run).read_text(encoding="utf-8")
    for section in ("controls", "slices", "power", "calibration"):
        assert f'id="{section}"' not in page
    assert 'id="comparison"' in page
    assert len(CLASSES) == len(TEST_IMAGES)
