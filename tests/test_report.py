"""The report: one page that opens offline, says everything, and takes any name."""

import base64
import html
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fake_run import ARMS, lesions, make_run
from moulage import report
from moulage.errors import RunError
from moulage import results as records
from moulage.report import pictures, plot, reading, tables
from moulage.runs import write_json

HOSTILE = ("<script>alert('x')</script>", 'é "ü" & 皮膚 $x_1$', "MEL]]><b>")
SECTIONS = ["comparison", "controls", "effects", "slices", "power", "arms", "curves", "classes", "calibration"]
SECTIONS += ["confusion", "images", "generators", "audit", "split", "methods", "tables", "cost", "repeat", "data"]
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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "thesis2020")


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page.parse(source)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run that is quick to draw."""
    return make_run(
        tmp_path / "small",
        classes=("AK", "NV"),
        support=(20, 60),
        arms=("none", "dcgan"),
        num_trials=1,
        num_generated=4,
    )


FEWER_FIGURES = {"class_effects": [], "power": [], "reliability": [], "slices": []}
"""Changes for a test that is about something else, as figures take long to draw."""


def edit(run: Path, **changes: object) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    write_json(run / "results.json", results | changes)


def test_every_section_is_there_in_order(page: Page) -> None:
    headings = [attributes["id"] for attributes in page.named("h2")]
    assert headings == SECTIONS
    links = [str(a["href"]) for a in page.named("a")]
    assert [link for link in links if link.startswith("#")] == [f"#{name}" for name in SECTIONS]


def test_says_what_was_asked_answered_and_done(page: Page, run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for text in (
        results["study"]["question"],
        results["answer"],
        *results["details"],
        results["command"],
        results["study"]["data"]["note"],
        results["split_digest"],
        "3.11.9",
        "add = { AK = 80 }",
        "2 candidate pairs of near-duplicates,\n1 accepted",
        "101 images set aside",
        "The file ends before the image does.",
        "Fits vary by 1.3 points.",
    ):
        assert text in page.text
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


def test_ids_are_unique_and_every_reference_has_its_target(run: Path, source: str, page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    references = [a.get("href") or a.get("xlink:href") for tag, a in page.tags if tag in {"a", "use"}]
    files = [name for name in references if name and name.startswith("tables/")]
    assert sorted(files) == sorted(f"tables/{name}.{kind}" for name in TABLES for kind in ("csv", "tex"))
    assert all((run / name).is_file() for name in files)
    references = [name for name in references if name not in files]
    references += [f"#{part.split(')')[0]}" for part in source.split("url(#")[1:]]
    assert len(references) > len(SECTIONS)
    assert {name[1:] for name in references if name} <= set(page.ids)


def test_reads_aloud(page: Page) -> None:
    assert all(attributes.get("alt") for attributes in page.named("img"))
    assert all(attributes.get("scope") for attributes in page.named("th"))
    drawn = page.named("svg")
    of_run = ("differences", "power", "classes", "reliability", "losses", "distances")
    of_generated = ("class effects", "slices")  # one arm adds generated images
    of_arms = ("curves", "confusion")
    assert len(drawn) == len(of_run) + len(of_generated) + len(of_arms) * len(ARMS)
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


def test_class_report_is_mean_and_deviation_over_trials(page: Page, run: Path) -> None:
    fits = json.loads((run / "results.json").read_text(encoding="utf-8"))["fits"]
    recalls = [100 * fit["scores"]["test"]["classes"]["AK"]["recall"] for fit in fits if fit["arm"] == "dcgan"]
    assert len(recalls) == 3
    assert f"{statistics.mean(recalls):.1f} ± {statistics.stdev(recalls):.1f}" in page.text


def test_pictures_are_small_and_the_closest_pairs_come_first(page: Page, run: Path) -> None:
    images = page.named("img")
    assert sum("nearest training image" in str(image["alt"]) for image in images) == 24
    for image in images:
        data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= (128 if "preview" in str(image["alt"]) else 64)
    with np.load(run / "galleries" / "ak-0.npz") as gallery:
        closest = int(np.argmin(gallery["distance"]))
        below = int((gallery["distance"] < np.quantile(gallery["real_distance"], 0.05)).sum())
        assert f"{gallery['distance'][closest]:.1f} · seed {closest}ISIC_0024306_{closest}" in page.text
        assert f"{below} of 40 " in page.text


@pytest.mark.parametrize(("size", "shown"), [((1600, 400), (512, 128)), ((900, 900), (256, 256)), ((90, 60), (90, 60))])
def test_wide_previews_are_wider_and_no_heavier(small: Path, size: tuple[int, int], shown: tuple[int, int]) -> None:
    loaded = reading.read(small)
    [[path, *_]] = loaded.previews.values()
    Image.new("RGB", size).save(path)
    [(_, images)] = pictures.previews(loaded)
    with Image.open(io.BytesIO(base64.b64decode(images[0][1].partition(",")[2]))) as picture:
        assert picture.size == shown


def test_figures_fit_a_phone(source: str) -> None:
    """No wider than 368 px, what a window of 400 px leaves, at the scale that the style sheet lets them shrink to."""
    style = source[source.index("<style>") : source.index("</style>")]
    smallest = float(re.findall(r"min-width: calc\(([.\d]+) \* var\(--natural\)\)", style)[0])
    widths = [float(width) for width in re.findall(r'style="--natural: ([\d.]+)pt"', source)]
    assert len(widths) > 10
    assert max(widths) * 96 / 72 * smallest <= 368


def test_size(source: str) -> None:
    assert len(source.encode()) < 2.5e6


def test_many_classes_show_fewer_pictures_each(tmp_path: Path) -> None:
    rng, count = np.random.default_rng(1), 20
    labels = np.repeat([f"class {k}" for k in range(8)], count)
    images = rng.integers(0, 255, (len(labels), 64, 64, 3), np.uint8)  # noise: PNG cannot make it smaller
    distance = rng.random(len(labels))
    gallery = reading.Gallery(
        images, labels, images, labels, np.arange(len(labels)), images, labels, distance, distance[:0]
    )
    made = [records.GeneratorRun(name=name, gallery=name) for name in ("a", "b")]
    results = records.Results(study=records.Study(name="x", classes=["class 0"]), generators=made)
    run = reading.Run(results, None, {}, "", {}, {"a": gallery, "b": gallery}, {})
    groups = [group for shown in pictures.galleries(run) for group in shown.classes]
    uris = [uri for group in groups for uri in (*group.real, *group.generated)]
    uris += [uri for group in groups for pair in group.pairs for uri in (pair.generated, pair.nearest)]
    assert len(groups) == 16
    assert {len(group.pairs) for group in groups} == {4}
    assert sum(map(len, uris)) < 4.7e6


def test_figures_for_a_paper(run: Path, source: str) -> None:
    folder = run / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert names == {
        "differences",
        "classes",
        "power",
        "reliability",
        "class-effects-dcgan",
        "slices-dcgan",
        "losses-ak",
        "distances-ak",
        *(f"{kind}-{arm}" for kind in ("curves", "confusion") for arm in ARMS),
    }
    for name in names:
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert "var(--" not in (folder / "differences.svg").read_text(encoding="utf-8")


@pytest.mark.slow
def test_same_run_gives_the_same_bytes_and_nothing_else_is_touched(small: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path.relative_to(small): path.read_bytes() for path in small.rglob("*") if path.is_file()}

    shutil.rmtree(small / "classifiers")  # fewer figures to draw
    before = files()
    assert report.write(small) == small / "report.html"
    first = files()
    report.write(small)
    assert files() == first
    assert before.items() <= first.items()
    assert {path.parts[0] for path in first.keys() - before.keys()} == {"report.html", "figures", "tables"}


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    script, unicode, _ = HOSTILE
    run = make_run(
        tmp_path / "run",
        classes=HOSTILE,
        support=(20, 60, 9),
        arms=("../none", script),
        target=script,
        image_name=script,
        num_trials=1,
        num_generated=3,
    )
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


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"study": {"name": "bare", "classes": ["AK", "NV"]}})
    page = Page.parse(report.write(tmp_path).read_text(encoding="utf-8"))
    assert page.named("h2") == []
    assert page.text.count("Not for clinical use.") == 2


def test_files_that_are_missing_leave_their_section_out(small: Path) -> None:
    for name in ("audit.json", "environment.json", "recipe.toml"):
        (small / name).unlink()
    for name in ("galleries", "generators", "classifiers"):
        shutil.rmtree(small / name)
    edit(small, command="")
    page = Page.parse(report.write(small).read_text(encoding="utf-8"))
    left_out = {"curves", "images", "generators", "audit", "repeat"}
    assert [a["id"] for a in page.named("h2")] == [name for name in SECTIONS if name not in left_out]


def test_scores_that_could_not_be_computed(small: Path) -> None:
    results = json.loads((small / "results.json").read_text(encoding="utf-8"))
    shutil.rmtree(small / "classifiers")
    for row in results["comparisons"]:
        row.update(difference=None, low=None, high=None, p_value=None, estimate_arm=float("nan"))
    nothing = dict.fromkeys(("precision", "recall", "f1", "auc", "average_precision"))
    for fit in results["fits"]:
        fit["scores"] = {"validation": {"accuracy": None, "classes": {"AK": {**nothing, "support": 0}}}}
    edit(small, **results)
    page = Page.parse(report.write(small).read_text(encoding="utf-8"))
    assert "on the validation part" in page.text
    assert "nan" not in page.text


def test_a_generator_without_gallery_keeps_its_losses(small: Path) -> None:
    results = json.loads((small / "results.json").read_text(encoding="utf-8"))
    edit(
        small,
        generators=[made | {"gallery": None, "samples": None} for made in results["generators"]],
        fits=[],
        arms=[],
        **FEWER_FIGURES,
    )
    page = Page.parse(report.write(small).read_text(encoding="utf-8"))
    sections = [a["id"] for a in page.named("h2")]
    assert "generators" in sections
    assert "images" not in sections


@pytest.mark.real_data
def test_real_images_stay_small(real_data: Path, small: Path) -> None:
    with zipfile.ZipFile(real_data / "isic2019-84px" / "ISIC_2019_Training_Input.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:96]
        opened = [Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((64, 64)) for name in names]
    images, labels = np.stack([np.asarray(image) for image in opened]), np.repeat(["AK", "NV", "DF", "SCC"], 24)
    np.savez(
        small / "galleries" / "ak-0.npz",
        real=images,
        real_labels=labels,
        generated=images,
        generated_labels=labels,
        generated_seeds=np.arange(96),
        nearest=images[::-1],
        nearest_images=np.array(names[::-1]),
        distance=np.linspace(0, 30, 96),
        real_distance=np.linspace(10, 30, 96),
    )
    shown = pictures.galleries(reading.read(small))[0]
    assert [len(group.pairs) for group in shown.classes] == [17, 17, 17, 17]
    assert [group.num_nearer for group in shown.classes] == [24, 11, 0, 0]  # below 11.0, the 5th percentile
    edit(small, fits=[], arms=[], comparisons=[], **FEWER_FIGURES)  # the pictures are what weighs
    assert report.write(small).stat().st_size < 4e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no results.json"),
        ("{", "not valid JSON"),
        ("{}", "study: Field required"),
        ('{"study": {"name": "x", "classes": "AK"}}', "study.classes"),
    ],
)
def test_bad_results_are_named_with_advice(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        report.write(tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", [b"", b"PK nonsense"])
def test_a_broken_gallery_is_named(small: Path, content: bytes) -> None:
    (small / "galleries" / "ak-0.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"ak-0\.npz is no gallery"):
        reading.read(small)


def test_a_gallery_without_a_part_is_named(small: Path) -> None:
    np.savez(small / "galleries" / "ak-0.npz", real=lesions(2, 8, np.random.default_rng(0)))
    with pytest.raises(RunError, match="real_labels"):
        reading.read(small)


def test_previews_are_in_the_order_of_their_steps(small: Path) -> None:
    folder = next((small / "generators").iterdir())
    shutil.copy(folder / "previews" / "step-0.png", folder / "previews" / "step-10000.png")
    (found,) = reading.read(small).previews.values()
    assert [path.stem for path in found] == ["step-0", "step-500", "step-1000", "step-2000", "step-10000"]


def test_one_run_of_each_generator_is_shown() -> None:
    made = [records.GeneratorRun(name=name, trial=trial) for name, trial in (("a", 2), ("b", 0), ("a", 1), ("a", 0))]
    shown = reading.first_of_each(made, lambda run: (run.name, run.trial) != ("a", 0))
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
        records.Cost(kind="classifier", wall_seconds=60, cpu_seconds=90),
        records.Cost(kind="generator", wall_seconds=120, cpu_seconds=30, device="cuda:0"),
        records.Cost(kind="classifier", wall_seconds=30, cpu_seconds=30),
    ]
    assert tables.costs(cost) == [("classifier", "cpu", 2, 1.5, 2.0, None), ("generator", "cuda:0", 1, 2.0, 0.5, 2.0)]


def test_confusion_is_summed_over_fits() -> None:
    fits = [
        records.Fit(arm=arm, trial=trial, scores={"test": records.Scores(confusion=rows)})
        for arm, trial, rows in (("a", 0, [[1, 2], [3, 4]]), ("a", 1, [[10, 0], [0, 10]]), ("b", 0, [[9, 9], [9, 9]]))
    ]
    results = records.Results(study=records.Study(name="x", classes=["p", "q"]), fits=fits)
    total, num_fits = tables.total_confusion(results, "a", "test")
    assert total is not None
    assert total.tolist() == [[11, 2], [3, 14]]
    assert num_fits == 2
    assert tables.total_confusion(results, "c", "test") == (None, 0)


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


def test_needs_no_torch_and_starts_light() -> None:
    code = (
        "import sys, moulage.report; assert 'matplotlib' not in sys.modules;"
        "import moulage.report.page; assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_near_duplicates_are_shown_with_their_numbers(small: Path) -> None:
    run = small
    edit(run, fits=[], generators=[], **FEWER_FIGURES)
    pair = {"number": 1, "first": "<b>one", "second": "two", "first_label": "NV", "second_label": "MEL"}
    write_json(run / "pairs.json", [{**pair, "detail": 0.913, "accepted": True}])
    Image.new("RGB", (300, 90), "white").save(run / "pairs.png")
    page = report.write(run).read_text(encoding="utf-8")
    assert "&lt;b&gt;one" in page
    assert "0.91" in page
    assert "<b>one" not in page
    write_json(run / "pairs.json", [{"number": 1}])
    with pytest.raises(RunError, match=r"pairs\.json"):
        report.write(run)
