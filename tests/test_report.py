"""The report: one page that opens offline, says everything, and takes any name."""

import base64
import html
import io
import re
import shutil
import statistics
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fake_run import ARMS, filled, make_results, make_run, noise
from moulage import report
from moulage.data.audit import Audit
from moulage.errors import RunError
from moulage.report import plot, run_files, tables
from moulage.report.page import render
from moulage.report.sections import SECTIONS, generators, images
from moulage.results import ClassScores, Cost, Fit, Results, Scores, Study
from moulage.results.generated import GeneratorRun
from moulage.results.pairs import ShownPair
from moulage.runs import write_json

HOSTILE = ("<script>alert('x')</script>", 'é "ü" & 皮膚 $x_1$', "MEL]]><b>")
ABSENT = {"explanations", "fidelity", "selection", "worth"}
"""Sections that the made-up run has nothing to show in."""
TABLES = ("arms", "class_effects", "classes", "comparisons", "slices", "verdicts")
"""Names of the tables that are written as files beside the page of the fixture ``run``."""
VOID = {"meta", "link", "img", "br"}


@dataclass
class Page(HTMLParser):
    """What a test asks of a page: its elements, ids, text and whether every element is closed."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    stack: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def parse(cls, source: str) -> "Page":
        page = cls()
        page.feed(source)
        page.close()
        assert not page.stack, f"not closed: {page.stack}"
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> without a start"
        assert self.stack.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> run_files.Run:
    folder = tmp_path_factory.mktemp("report") / "thesis2020"
    return run_files.Run(folder, make_run(folder))


@pytest.fixture(scope="module")
def source(run: run_files.Run) -> str:
    return report.write(run.folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page.parse(source)


@pytest.fixture
def small(tmp_path: Path) -> run_files.Run:
    """A run that is quick to draw."""
    few = {"classes": ("AK", "NV"), "support": (20, 60), "arms": ("none", "dcgan"), "num_trials": 1}
    return run_files.Run(tmp_path / "small", make_run(tmp_path / "small", num_generated=4, **few))


def bare(**changes: object) -> Results:
    """Results of a study that found nothing but these."""
    return filled(Results, study=filled(Study, name="bare", classes=("AK", "NV")), **changes)


def test_every_section_is_there_in_order(page: Page) -> None:
    names = [name for name in SECTIONS if name not in ABSENT]
    assert [attributes["id"] for attributes in page.named("h2")] == names
    links = [str(a["href"]) for a in page.named("a")]
    assert [link for link in links if link.startswith("#")] == [f"#{name}" for name in names]


def test_every_section_has_a_module_and_a_template_and_is_in_the_list() -> None:
    folder = Path(report.__file__).parent / "sections"
    for ending in (".py", ".html.j2"):
        names = {path.name.removesuffix(ending) for path in folder.glob(f"*{ending}")}
        assert names - {"__init__"} == set(SECTIONS)


def test_says_what_was_asked_answered_and_done(page: Page, run: run_files.Run) -> None:
    found = run.results
    said = [found.study.question, found.answer, *found.details, found.command, found.study.data.note]
    said += [found.split_digest, "3.11.9", "add = { AK = 80 }", "101 images set aside", "Fits vary by 1.3 points."]
    said += ["2 candidate pairs of near-duplicates,\n1 accepted", "The file ends before the image does."]
    assert [text for text in said if text not in page.text] == []
    assert "bad_058" in page.text
    assert "bad_059" not in page.text  # 60 names at most; the page says where the others are


def test_not_for_clinical_use_opens_and_closes_the_page(page: Page) -> None:
    body = page.text[page.text.index("Not for clinical use") :]
    assert body.count("Not for clinical use.") == 2
    assert len(body) - body.rindex("Not for clinical use.") < 400


def test_opens_offline(source: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "srcset", "poster", "data", "action"}:
                assert value is not None
                beside = tag == "a" and value.startswith("tables/") and ".." not in value  # files, nothing to load
                assert beside or value.startswith(("#", "data:"))
            if "url(" in (value or ""):
                assert "url(#" in value
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in str(page.named("meta"))


def test_ids_are_unique_and_every_reference_has_its_target(run: run_files.Run, source: str, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    references = [a.get("href") or a.get("xlink:href") for tag, a in page.tags if tag in {"a", "use"}]
    files = [name for name in references if name and name.startswith("tables/")]
    assert sorted(files) == sorted(f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "tex"))
    assert all((run.folder / name).is_file() for name in files)
    references = [name for name in references if name not in files]
    references += [f"#{part.split(')')[0]}" for part in source.split("url(#")[1:]]
    assert len(references) > len(SECTIONS)
    assert {name[1:] for name in references if name} <= set(page.ids)


def test_reads_aloud(page: Page) -> None:
    assert all(attributes.get("alt") for attributes in page.named("img"))
    assert all(attributes.get("scope") for attributes in page.named("th"))
    drawn = page.named("svg")
    assert len(drawn) == 8 + 2 * len(ARMS)
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in drawn)
    assert len(page.named("figcaption")) >= len(drawn)


def test_comparisons_in_points_with_sign_and_primary_first(page: Page) -> None:
    table = page.text[page.text.index("average precision primary measure") :]
    assert table.index("3 other measures") < table.index("recall of AK")
    dcgan = " ".join(table[table.index("dcgannone") :].split())
    assert dcgan.startswith("dcgannone 50.6 50.0 +0.6 −3.1 to +4.3 0.420 3 4,126 2,113")
    assert "< 0.001" in table
    assert "log-loss lower is better" in table
    assert "±2.0 points" in page.text


def test_class_report_is_mean_and_deviation_over_trials(page: Page, run: run_files.Run) -> None:
    scores = [fit.scores["test"].classes["AK"] for fit in run.results.fits if fit.arm == "dcgan"]
    recalls = [100 * (score.recall or 0) for score in scores]
    assert len(recalls) == 3
    assert f"{statistics.mean(recalls):.1f} ± {statistics.stdev(recalls):.1f}" in page.text


def test_pictures_are_small_and_the_closest_pairs_come_first(page: Page, run: run_files.Run) -> None:
    shown = page.named("img")
    assert sum("nearest training image" in str(image["alt"]) for image in shown) == 24
    for image in shown:
        data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= (128 if "preview" in str(image["alt"]) else 64)
    with np.load(run.folder / "galleries" / "ak-0.npz") as gallery:
        closest = int(np.argmin(gallery["distance"]))
        below = int((gallery["distance"] < np.quantile(gallery["real_distance"], 0.05)).sum())
        assert f"{gallery['distance'][closest]:.1f} · seed {closest}ISIC_0024306_{closest}" in page.text
        assert f"{below} of 40 " in page.text


@pytest.mark.parametrize(("size", "shown"), [((1600, 400), (512, 128)), ((900, 900), (256, 256)), ((90, 60), (90, 60))])
def test_wide_previews_are_wider_and_no_heavier(
    small: run_files.Run, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    path = next((small.folder / "generators").glob("*/previews/step-0.png"))
    Image.new("RGB", size).save(path)
    [(_, grids)] = generators.previews(small)
    with Image.open(io.BytesIO(base64.b64decode(grids[0][1].partition(",")[2]))) as picture:
        assert picture.size == shown


def test_figures_fit_a_phone(source: str) -> None:
    """No wider than 368 px, what a window of 400 px leaves, at the scale that the style sheet lets them shrink to."""
    style = source[source.index("<style>") : source.index("</style>")]
    smallest = float(re.findall(r"min-width: calc\(([.\d]+) \* var\(--natural\)\)", style)[0])
    widths = [float(width) for width in re.findall(r'style="--natural: ([\d.]+)pt"', source)]
    assert len(widths) > 10
    assert max(widths) * 96 / 72 * smallest <= 368
    assert len(source.encode()) < 2.5e6


def test_many_classes_show_fewer_pictures_each(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(1), np.repeat([f"class {k}" for k in range(8)], 20)
    drawn, distance = noise(160, 64, rng), rng.random(160)
    gallery = images.Gallery(drawn, labels, drawn, labels, np.arange(160), drawn, labels, distance, distance[:0])
    np.savez(tmp_path / "gallery.npz", **vars(gallery))
    made = [filled(GeneratorRun, name=name, gallery="gallery.npz") for name in ("a", "b")]
    shown = images.show(run_files.Run(tmp_path, bare(generators=made)))
    assert shown is not None
    groups = [group for generator in shown["generators"] for group in generator["classes"]]
    uris = [uri for group in groups for uri in (*group["real"], *group["generated"])]
    uris += [pair[side] for group in groups for pair in group["pairs"] for side in ("generated", "nearest")]
    assert len(groups) == 16
    assert {len(group["pairs"]) for group in groups} == {4}
    assert sum(map(len, uris)) < 4.7e6


def test_figures_for_a_paper(run: run_files.Run, source: str) -> None:
    folder = run.folder / "figures"
    names = {path.stem for path in folder.iterdir()}
    shown = ["differences", "classes", "power", "reliability", "class-effects-dcgan", "slices-dcgan", "losses-ak"]
    assert names == {*shown, "distances-ak", *(f"{kind}-{arm}" for kind in ("curves", "confusion") for arm in ARMS)}
    for name in names:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert "var(--" not in (folder / "differences.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_same_run_gives_the_same_bytes_and_nothing_else_is_touched(small: run_files.Run) -> None:
    folder = small.folder

    def files() -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    shutil.rmtree(folder / "classifiers")  # fewer figures to draw
    before = files()
    assert report.write(folder) == folder / "report.html"
    first = files()
    report.write(folder)
    assert files() == first
    assert before.items() <= first.items()
    assert {path.parts[0] for path in first.keys() - before.keys()} == {"report.html", "figures", "tables"}


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    script, unicode, _ = HOSTILE
    names = {"classes": HOSTILE, "arms": ("../none", script), "target": script, "image_name": script}
    run = tmp_path / "run"
    make_run(run, support=(20, 60, 9), num_trials=1, num_generated=3, **names)
    source = report.write(run).read_text(encoding="utf-8")
    page = Page.parse(source)
    assert not page.named("script")
    assert "<script" not in source
    assert not [a for _, a in page.tags if "onerror" in a]
    for name in HOSTILE:
        assert name in page.text
    assert f"nearest training image {script}_0" in {image["alt"] for image in page.named("img")}
    drawn = "".join(path.read_text(encoding="utf-8") for path in (run / "figures").glob("*.svg"))
    assert "<script" not in drawn
    assert unicode[:12] in html.unescape(drawn)
    assert all(path.resolve().parent == (run / "figures").resolve() for path in (run / "figures").iterdir())


def test_a_study_that_found_nothing_has_a_page(tmp_path: Path) -> None:
    bare().save(tmp_path)
    parsed = Page.parse(report.write(tmp_path).read_text(encoding="utf-8"))
    assert [a["id"] for a in parsed.named("h2")] == ["split", "repeat", "data"]
    assert parsed.text.count("Not for clinical use.") == 2


def test_files_that_are_missing_leave_their_section_out(small: run_files.Run) -> None:
    names = ("curves", "images", "generators", "audit", "repeat")
    for name in ("audit.json", "environment.json", "recipe.toml"):
        (small.folder / name).unlink()
    for name in ("galleries", "classifiers"):
        shutil.rmtree(small.folder / name)
    for path in small.folder.glob("generators/*/previews"):
        shutil.rmtree(path)
    parsed = Page.parse(render(small, names))
    assert [a["id"] for a in parsed.named("h2")] == ["generators", "repeat"]
    shutil.rmtree(small.folder / "generators")
    assert "generators" not in Page.parse(render(small, names)).ids


def test_scores_that_could_not_be_computed(tmp_path: Path) -> None:
    scores = filled(Scores, classes={"AK": filled(ClassScores)})
    found = make_results(classes=("AK",), support=(20,), arms=("none", "dcgan"), num_trials=1)
    fits = [fit.model_copy(update={"scores": {"validation": scores}}) for fit in found.fits]
    run = run_files.Run(tmp_path, found.model_copy(update={"fits": fits}))
    parsed = Page.parse(render(run, ["arms", "classes", "confusion"]))
    assert "on the validation part" in parsed.text
    assert "none––––––" in "".join(parsed.text.split())
    assert "nan" not in parsed.text


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"ak-0\.npz is no gallery"), (b"PK nonsense", r"ak-0\.npz is no gallery"), (None, "real_labels")],
)
def test_a_broken_gallery_is_named(small: run_files.Run, content: bytes | None, message: str) -> None:
    path = small.folder / "galleries" / "ak-0.npz"
    if content is None:
        np.savez(path, real=noise(2, 8, np.random.default_rng(0)))
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=message):
        images.show(small)


def test_previews_are_in_the_order_of_their_steps(small: run_files.Run) -> None:
    folder = next((small.folder / "generators").iterdir()) / "previews"
    shutil.copy(folder / "step-0.png", folder / "step-10000.png")
    [(_, grids)] = generators.previews(small)
    assert [name for name, _ in grids] == ["step-0", "step-500", "step-1000", "step-2000", "step-10000"]


def test_one_run_of_each_generator_is_shown() -> None:
    made = [filled(GeneratorRun, name=name, trial=trial) for name, trial in (("a", 2), ("b", 0), ("a", 1), ("a", 0))]
    shown = run_files.first_of_each(run for run in made if (run.name, run.trial) != ("a", 0))
    assert [(run.name, run.trial) for run in shown] == [("b", 0), ("a", 1)]


@pytest.mark.parametrize(
    ("value", "measure", "text"),
    [
        (0.0123, "recall:AK", "+1.2"),
        (-0.0123, "auc", "−1.2"),
        (-0.0001, "recall:AK", "0.0"),
        (-0.5, "log_loss", "−0.500"),
        (None, "auc", "–"),
    ],
)
def test_signed(value: float | None, measure: str, text: str) -> None:
    assert tables.signed(value, measure) == text


def test_units() -> None:
    assert tables.units(["auc", "f1:AK"]) == "points"
    assert tables.units(["auc", "log_loss", "partial_auc:AK", "mean_partial_auc"]) == (
        "points (log-loss in nats, partial AUC above 80 % as it is)"
    )


def test_spread() -> None:
    assert tables.Spread.of([None, None]) is None
    assert tables.Spread.of([0.5, None]) == (0.5, None)
    spread = tables.Spread.of([0.1, 0.2, 0.3])
    assert spread is not None
    assert spread.text() == "20.0 ± 10.0"
    assert spread.text("log_loss") == "0.200 ± 0.100"


def test_costs_are_joined_by_kind_and_device() -> None:
    cost = [
        filled(Cost, kind="classifier", device="cpu", wall_seconds=60, cpu_seconds=90),
        filled(Cost, kind="generator", device="cuda:0", wall_seconds=120, cpu_seconds=30),
        filled(Cost, kind="classifier", device="cpu", wall_seconds=30, cpu_seconds=30),
    ]
    assert tables.costs(cost) == [("classifier", "cpu", 2, 1.5, 2.0, None), ("generator", "cuda:0", 1, 2.0, 0.5, 2.0)]


def test_confusion_is_summed_over_fits() -> None:
    fits = [
        filled(Fit, arm=arm, trial=trial, scores={"test": filled(Scores, confusion=rows)})
        for arm, trial, rows in (("a", 0, [[1, 2], [3, 4]]), ("a", 1, [[10, 0], [0, 10]]), ("b", 0, [[9, 9], [9, 9]]))
    ]
    total, num_fits = tables.total_confusion(bare(fits=fits), "a", "test")
    assert total is not None
    assert total.tolist() == [[11, 2], [3, 14]]
    assert num_fits == 2
    assert tables.total_confusion(bare(fits=fits), "c", "test") == (None, 0)


def test_long_logs_are_averaged_in_equal_bins() -> None:
    points = np.stack([np.arange(1001.0), np.arange(1001.0) % 2], axis=1)
    short = plot.thin(points, 100)
    assert len(short) == 91
    assert short[0].tolist() == [5.0, 5 / 11]
    assert plot.thin(points[:3], 100).tolist() == points[:3].tolist()
    assert plot.thin(points[:0]).shape == (0, 2)


def test_files_of_names_that_differ_differ() -> None:
    names = ["a/b", "a b", "a-b", "../../x", "", "皮", "A" * 300]
    slugs = [plot.slug(name) for name in names]
    assert len({slug.lower() for slug in slugs}) == len(names)
    assert all(slug and len(slug) < 80 and not set(slug) & set("/\\. ") for slug in slugs)


def test_near_duplicates_are_shown_with_their_numbers(tmp_path: Path) -> None:
    pair = filled(ShownPair, number=1, first="<b>one", second="two", detail=0.913)
    write_json(tmp_path / "pairs.json", [vars(pair)])
    Image.new("RGB", (300, 90), "white").save(tmp_path / "pairs.png")
    Audit().save(tmp_path / "audit.json")
    source = render(run_files.Run(tmp_path, bare()), ["audit"])
    assert "&lt;b&gt;one" in source
    assert "<b>one" not in source
    assert "0.91" in source
