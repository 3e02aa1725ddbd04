"""The audit: each planted fault is found, named and dealt with as its message says; sound data give no finding."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from moulage import runs
from moulage.data import copy_evidence
from moulage.data.audit import NUM_NAMED, STATUS, Audit, Finding, audit
from moulage.data.catalog import Catalog
from moulage.errors import RunError


@dataclass
class Seen:
    """Stands in for ``Pixels``."""

    scan: pd.DataFrame
    thumbnails: np.ndarray


def noise(seed: int) -> np.ndarray:
    """A thumbnail that resembles no other."""
    return np.random.default_rng(seed).integers(60, 256, (32, 32, 3), np.uint8)


def row(name: str, label: str = "NV", **facts: Any) -> dict[str, Any]:
    """An image; ``facts`` are columns of catalog and scan, or its ``thumbnail``."""
    return {"image": name, "label": label, "location": f"{name}.jpg", "lesion": f"lesion-{name}", **facts}


def sound(number: int = 12, label: str = "NV", **facts: Any) -> list[dict[str, Any]]:
    return [row(f"{label}-{k}", label, **facts) for k in range(number)]


def seen(rows: list[dict[str, Any]]) -> Seen:
    ok = {"width": 84, "height": 84, "mode": "RGB", "status": "ok", "message": ""}
    scan = [{"sha256": f"hash of {r['image']}", **ok, **r} for r in rows]
    thumbnails = np.stack([r.get("thumbnail", noise(k)) for k, r in enumerate(rows)])
    return Seen(pd.DataFrame(scan)[["image", "sha256", *ok]], thumbnails)


def catalog_of(rows: list[dict[str, Any]], unlabelled: tuple[str, ...] = ()) -> Catalog:
    kept = [{k: v for k, v in r.items() if k in ("image", "label", "location", "lesion", "source")} for r in rows]
    classes = list(dict.fromkeys(r["label"] for r in rows))
    return Catalog.build(pd.DataFrame(kept), classes, "planted", unlabelled=unlabelled)


def check(rows: list[dict[str, Any]], unlabelled: tuple[str, ...] = ()) -> Audit:
    return audit(catalog_of(rows, unlabelled), seen(rows))


def kinds(report: Audit) -> dict[str, Finding]:
    return {finding.kind: finding for finding in report.findings}


def darker(thumbnail: np.ndarray) -> np.ndarray:
    return (thumbnail * 0.9).astype(np.uint8)


def test_sound_data_give_no_finding() -> None:
    rows = sound() + sound(label="MEL")
    report = check(rows)
    assert report == Audit(groups={r["image"]: f"lesion:{r['lesion']}" for r in rows})
    assert report.rows() == []


@pytest.mark.parametrize("status", ["missing", "unreadable", "truncated", "tiny", "bomb"])
def test_what_cannot_be_used_is_quarantined_by_name(status: str) -> None:
    bad = [
        row(f"bad-{k}", status=status, message=f"reason {k}.", thumbnail=np.zeros((32, 32, 3), np.uint8))
        for k in (0, 1)
    ]
    report = check([bad[0], *sound(), bad[1]])
    kind = STATUS[status][0]
    assert report.quarantined == {"bad-0": f"{kind}: reason 0.", "bad-1": f"{kind}: reason 1."}
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.num_images) == (kind, "error", 2)
    assert finding.images == ("bad-0", "bad-1")
    assert finding.message == "2 images cannot be used; bad-0: reason 0."
    assert finding.advice
    assert not report.quarantined.keys() & report.groups.keys()


def test_a_status_that_nobody_knows_is_no_good_image() -> None:
    with pytest.raises(KeyError, match="melted"):
        check([*sound(), row("x", status="melted")])


def test_where_no_image_is_usable_the_findings_say_so() -> None:
    report = check([row("a", status="tiny"), row("b", status="bomb")])
    assert list(report.quarantined) == ["a", "b"]
    assert set(kinds(report)) == {"tiny image", "bomb-sized image", "class too small to split"}
    assert report.groups == {}


def test_exact_copies_under_one_label_are_joined() -> None:
    same = noise(99)
    copies = [row("a", sha256="s", thumbnail=same), row("b", sha256="s", thumbnail=same)]
    report = check([*sound(), *copies])
    assert report.quarantined == {}
    assert report.groups["a"] == report.groups["b"] == "lesion:lesion-a"
    assert len(set(report.groups.values())) == 13
    assert set(kinds(report)) == {"exact duplicates"}, "an exact copy is not told again as a near-duplicate"
    assert kinds(report)["exact duplicates"].images == ("a", "b")
    assert [pair.accepted for pair in report.pairs] == [True]


def test_exact_copies_under_two_labels_are_quarantined_with_all_names() -> None:
    copies = [row("a", sha256="s"), row("b", "MEL", sha256="s"), row("c", sha256="s")]
    report = check([*sound(), *sound(label="MEL"), *copies])
    reason = "two labels on one image: a is NV, b is MEL, c is NV"
    assert report.quarantined == dict.fromkeys("abc", reason)
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.images) == ("two labels on one image", "error", ("a", "b", "c"))
    assert not set("abc") & set(report.groups)


def test_unusable_images_are_not_called_copies_of_one_another() -> None:
    bad = [row("a", sha256="", status="missing"), row("b", "MEL", sha256="", status="missing")]
    report = check([*sound(), *sound(label="MEL"), *bad])
    assert set(kinds(report)) == {"label without image"}


def test_a_near_duplicate_is_joined_and_reported() -> None:
    picture = noise(99)
    bad = row("bad", status="tiny")  # shifts the rows of all that follow
    report = check([bad, *sound(), row("a", thumbnail=picture), row("b", thumbnail=darker(picture))])
    finding = kinds(report)["near-duplicates"]
    assert (finding.severity, finding.num_images, finding.images) == ("warning", 1, ("a = b",))
    assert report.groups["a"] == report.groups["b"]
    assert "near-duplicates of two classes" not in kinds(report)


def test_near_duplicates_of_one_lesion_are_no_news() -> None:
    picture = noise(99)
    pair = [row("a", lesion="x", thumbnail=picture), row("b", lesion="x", thumbnail=darker(picture))]
    report = check([*sound(), *pair])
    assert report.findings == ()
    assert [pair.accepted for pair in report.pairs] == [True]


def test_near_duplicates_of_two_classes_stay_in_one_group() -> None:
    picture = noise(99)
    pair = [row("a", thumbnail=picture), row("b", "MEL", thumbnail=darker(picture))]
    report = check([*sound(), *sound(label="MEL"), *pair])
    assert kinds(report)["near-duplicates of two classes"].images == ("a = b",)
    assert report.quarantined == {}
    assert report.groups["a"] == report.groups["b"]


def test_a_pair_that_is_not_accepted_is_shown_and_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(99)
    monkeypatch.setattr(copy_evidence, "ACCEPTED", 1.1)
    report = check([*sound(), row("a", thumbnail=picture), row("b", thumbnail=darker(picture))])
    assert set(kinds(report)) == {"candidates for near-duplicates"}
    assert kinds(report)["candidates for near-duplicates"].images == ("a ? b",)
    assert report.groups["a"] != report.groups["b"]


def test_a_group_grows_over_lesion_exact_copy_and_accepted_pair() -> None:
    """a - lesion - b - exact copy - c - near-duplicate - d - lesion - e, in an order that hides the chain."""
    copy, picture = noise(98), noise(99)
    chain = [
        row("e", lesion="two"),
        row("c", sha256="s", thumbnail=copy),
        row("a", lesion="one", thumbnail=picture),
        row("d", lesion="two", thumbnail=darker(noise(97))),
        row("b", lesion="one", sha256="s", thumbnail=copy),
        row("c2", lesion="lesion-c", thumbnail=noise(97)),
    ]
    report = check([chain[0], *sound(), *chain[1:]])
    assert {report.groups[r["image"]] for r in chain} == {"lesion:two"}, "named after the first image's group"
    assert len(set(report.groups.values())) == 13
    assert kinds(report)["near-duplicates"].images == ("d = c2",)


def test_clean_drops_the_quarantined_and_takes_the_joined_groups() -> None:
    rows = [row("bad", status="tiny"), *sound(), row("a", sha256="s"), row("b", sha256="s")]
    catalog = catalog_of(rows)
    report = audit(catalog, seen(rows))
    cleaned = report.clean(catalog)
    assert cleaned.images.tolist() == [r["image"] for r in rows[1:]]
    assert cleaned.groups.tolist()[-2:] == ["lesion:lesion-a"] * 2
    assert cleaned.table["lesion"].tolist()[-2:] == ["lesion-a", "lesion-b"]
    assert catalog.groups.tolist()[-1] == "lesion:lesion-b", "the catalog itself stays as it was"


def test_images_without_label_are_named() -> None:
    report = check(sound(), unlabelled=("u1", "u2"))
    assert kinds(report)["image without label"].images == ("u1", "u2")


@pytest.mark.parametrize(("num_unknown", "kind"), [(5, "lesion without id"), (12, "no lesion ids")])
def test_lesions_without_id(num_unknown: int, kind: str) -> None:
    rows = [r | ({"lesion": ""} if k < num_unknown else {}) for k, r in enumerate(sound())]
    report = check(rows)
    assert [(f.kind, f.severity, f.num_images) for f in report.findings] == [(kind, "warning", num_unknown)]
    assert report.groups["NV-0"] == "image:NV-0"
    assert len(set(report.groups.values())) == 12


def test_images_of_known_patients_do_not_lack_an_id() -> None:
    rows = [r | {"lesion": ""} for r in sound()]
    catalog = catalog_of(rows)
    of_patients = catalog.with_columns(group=[f"patient:{k % 11}" for k in range(len(rows))])
    assert "no lesion ids" in kinds(audit(catalog, seen(rows)))
    assert not audit(of_patients, seen(rows)).findings


def test_a_lesion_with_two_labels_is_named() -> None:
    rows = [*sound(), *sound(label="MEL"), row("a", lesion="x"), row("b", "MEL", lesion="x")]
    finding = kinds(check(rows))["lesion with two labels"]
    assert (finding.severity, finding.images) == ("warning", ("a", "b"))
    assert finding.message.startswith("1 lesion with two labels (2 images)")


def test_other_modes_than_rgb_are_counted() -> None:
    rows = [*sound(), row("a", mode="L"), row("b", mode="CMYK"), row("c", mode="L"), row("d", mode="", status="tiny")]
    finding = kinds(check(rows))["not RGB"]
    assert (finding.severity, finding.images) == ("note", ("a", "b", "c"))
    assert "L (2), CMYK (1)" in finding.message


@pytest.mark.parametrize(
    ("num_lesions", "kind"),
    [
        (2, "class too small to split"),
        (3, "class too small for a verdict"),
        (9, "class too small for a verdict"),
        (10, None),
    ],
)
def test_classes_are_counted_in_lesions_and_not_in_images(num_lesions: int, kind: str | None) -> None:
    few = [row(f"few-{k}", "AK", lesion=f"few-{k % num_lesions}") for k in range(20)]
    report = check([*sound(), *few])
    assert list(kinds(report)) == ([kind] if kind else [])
    if kind:
        assert f'"AK" has {num_lesions} lesions' in report.findings[0].message
        assert report.findings[0].num_images == 20
        assert report.findings[0].severity == ("error" if num_lesions < 3 else "warning")


def test_classes_are_counted_after_joining_and_without_the_quarantined() -> None:
    few = [row("k0", "AK", sha256="s"), row("k1", "AK", sha256="s"), row("k2", "AK"), row("k3", "AK", status="tiny")]
    assert '"AK" has 2 lesions' in kinds(check([*sound(), *few]))["class too small to split"].message


def test_a_source_that_hints_at_the_class_is_noted() -> None:
    apart = [*sound(source="HAM"), *sound(label="MEL", source="BCN")]
    finding = kinds(check(apart))["source hints at class"]
    assert finding.severity == "warning"
    assert "all but names the class: source (Cramer's V 1.00, p < 0.001; BCN in 100% of MEL and 0% of NV)" in (
        finding.message
    )
    some = [*sound(30, source="HAM"), *sound(30, label="MEL")]
    some[30:] = [r | {"source": ("HAM", "BCN")[k % 2]} for k, r in enumerate(some[30:])]
    assert kinds(check(some))["source hints at class"].severity == "note"
    mixed = [r | {"source": ("HAM", "BCN")[k % 2]} for k, r in enumerate([*sound(), *sound(label="MEL")])]
    assert check(mixed).findings == ()


def test_a_lesion_id_on_many_images_of_several_classes_is_asked_about() -> None:
    many = [r | ({"lesion": "0"} if k % 2 else {}) for k, r in enumerate([*sound(), *sound(label="MEL")])]
    finding = kinds(check(many))["lesion id of many"]
    assert 'The lesion id "0" is on 12 images of 2 classes: does it mean "unknown"?' in finding.message
    own = [r | {"lesion": f"{r['label']} {k // 6}"} for k, r in enumerate(many)]
    assert "lesion id of many" not in kinds(check(own))


def vignetted(seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:32, :32] - 15.5
    return np.where((np.hypot(rows, columns) < 13)[..., None], noise(seed), 3).astype(np.uint8)


def test_a_vignette_that_tells_the_source_is_noted() -> None:
    rows = [r | {"source": ("HAM", "BCN")[k % 2]} for k, r in enumerate([*sound(), *sound(label="MEL")])]
    rows.insert(0, row("bad", status="tiny", source="BCN"))
    rows.insert(1, row("of no source", thumbnail=vignetted(500)))
    told = [r | ({"thumbnail": vignetted(k)} if r.get("source") == "HAM" else {}) for k, r in enumerate(rows)]
    finding = kinds(check(told))["vignette tells the source"]
    assert finding.num_images == 12
    assert "BCN 0%, HAM 100%" in finding.message
    everywhere = [r | {"thumbnail": vignetted(k)} for k, r in enumerate(rows)]
    assert "vignette tells the source" not in kinds(check(everywhere))


def test_one_odd_image_of_a_rare_source_says_nothing_of_vignettes() -> None:
    rows = [r | {"source": ("HAM", "BCN")[k % 2]} for k, r in enumerate([*sound(40), *sound(40, label="MEL")])]
    some = [r | ({"thumbnail": vignetted(k)} if k % 8 < 2 else {}) for k, r in enumerate(rows)]
    found = check([*some, row("odd", source="MSK", thumbnail=vignetted(900))]).findings
    assert [(finding.kind, finding.severity) for finding in found] == [("shortcut control", "note")]


def test_findings_are_sorted_and_name_a_few() -> None:
    bad = [row(f"bad-{k}", status="tiny") for k in range(30)]
    report = check([*sound(), row("grey", mode="L"), *bad], unlabelled=("u",))
    assert [f.severity for f in report.findings] == ["error", "warning", "note"]
    assert report.findings[0].num_images == 30
    assert report.findings[0].images == tuple(f"bad-{k}" for k in range(NUM_NAMED))
    assert len(report.quarantined) == 30


def faulty() -> Audit:
    picture = noise(99)
    pair = [row("a", thumbnail=picture), row("b", thumbnail=darker(picture))]
    return check([*sound(), *pair, row("bad", status="tiny", message="9 x 9 pixels")], unlabelled=("ü",))


def test_json_round_trip(tmp_path: Path) -> None:
    report = faulty()
    report.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == report
    keys = {"findings", "quarantined", "pairs", "groups", "without_mask"}
    assert set(json.loads((tmp_path / "audit.json").read_text())) == keys
    assert report.pairs
    assert report.quarantined


EMPTY: dict[str, Any] = {"findings": [], "quarantined": {}, "pairs": [], "groups": {}, "without_mask": []}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"findings": 3},
        EMPTY | {"findings": [{"kind": "x"}]},
        EMPTY | {"groups": {"a": 1}},
        EMPTY | {"pairs": 3},
    ],
)
def test_another_file_is_no_audit(tmp_path: Path, content: Any) -> None:
    runs.write_json(tmp_path / "audit.json", content)
    with pytest.raises(RunError, match=r"audit\.json (is no audit|lacks .*without_mask)"):
        Audit.load(tmp_path / "audit.json")


def test_rows_are_a_table_of_the_findings() -> None:
    rows = faulty().rows()
    assert [r["finding"] for r in rows] == ["tiny image", "near-duplicates", "image without label"]
    assert rows[0] == {
        "severity": "error",
        "finding": "tiny image",
        "images": 1,
        "what": "1 image cannot be used; bad: 9 x 9 pixels.",
        "examples": "bad",
        "what to do": STATUS["tiny"][1],
    }
