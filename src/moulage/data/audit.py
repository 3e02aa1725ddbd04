"""The audit: what is wrong with a data set, found before anything is trained.

Images that cannot be used are quarantined by name and reason, never dropped in silence. Groups that a split must keep
together are lesions, joined with exact duplicates and with near-duplicates that are taken as one photograph.

Where several data sets are joined (``data.joined_sets``), an image that an earlier one has too is set aside, and so is
one that may only be trained on but shows a lesion which may be tested on.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from moulage import runs
from moulage.data import duplicates, generated, joined_sets, mask_remarks, overlap, picture_remarks, shortcuts
from moulage.data.catalog import Catalog
from moulage.data.duplicates import Pair
from moulage.data.findings import NUM_NAMED, Finding, Severity, finding
from moulage.data.identity import unite
from moulage.data.pixel_writer import OK
from moulage.data.pixels import Pixels
from moulage.errors import RunError
from moulage.runs import Progress, no_progress

VERSION = 3
"""Raise it whenever the same data would give other findings or groups: kept audits are then made again."""
MIN_LESIONS = 3
"""A class with fewer groups cannot be in training, validation and test part at once."""
FEW_LESIONS = 10
"""A class with fewer groups gets no verdict (docs/statistics.md)."""
MANY_IMAGES, MANY_TIMES = 8, 4
"""A lesion id on so many images of several classes, and so many times as many as are usual, may stand for "unknown"."""

STATUS = {
    "missing": ("label without image", "Complete the images, or take these rows out of the label file."),
    "unreadable": ("unreadable image", "Replace the files, or take them out."),
    "truncated": ("truncated image", "Copy or download these files again."),
    "tiny": ("tiny image", "Replace them with larger ones."),
    "mask": ("mask of another frame", "Give the mask of this very file."),
    "bomb": ("bomb-sized image", "Save them as JPEG, which is decoded at a part of its size, or scale them down."),
}
"""Status in the scan -> kind of finding, and what to do."""


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    findings: tuple[Finding, ...] = ()  # the most severe first
    quarantined: dict[str, str] = field(default_factory=dict)  # image -> why it cannot be used
    # near-duplicates with their evidence; ``accepted`` ones are joined, the others only shown
    pairs: tuple[Pair, ...] = ()
    # image -> the group that a split must keep together, for all images that are not quarantined
    groups: dict[str, str] = field(default_factory=dict)
    without_mask: tuple[str, ...] = ()  # images whose lesion mask cannot be used

    def clean(self, catalog: Catalog) -> Catalog:
        """The catalog without quarantined images and unusable masks, and with joined groups."""
        kept = catalog.take(~catalog.table["image"].isin(self.quarantined).to_numpy())
        masks = kept.table["mask"].mask(kept.table["image"].isin(self.without_mask), "").to_numpy(object)
        return kept.with_columns(group=[self.groups[name] for name in kept.images], mask=masks)

    def rows(self) -> list[dict[str, Any]]:
        """The findings as rows of a table."""
        return [
            {"severity": f.severity, "finding": f.kind, "images": f.num_images, "what": f.message}
            | {"examples": ", ".join(f.images[:3]), "what to do": f.advice}
            for f in self.findings
        ]

    def in_brief(self) -> list[str]:
        """What a verb that shows no audit says of images: how many cannot be used and why, what may be generated."""
        reasons = Counter(why.split(":")[0] for why in self.quarantined.values())
        listed = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
        said = [f"{_count(len(self.quarantined))} cannot be used: {listed}."] if listed else []
        return said + [each.message for each in self.findings if each.kind == generated.PERHAPS]

    def save(self, path: Path) -> None:
        """Write JSON."""
        runs.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Audit":
        """Read what ``save`` wrote; ``RunError`` where the file is missing or no audit."""
        values = runs.read_json(path, "findings", "quarantined", "pairs", "groups", "without_mask")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            problem = error.errors()[0]
            said = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            raise RunError(f"{path} is no audit: {said}.", "Run the command that makes it again.") from None


def audit(catalog: Catalog, pixels: Pixels, progress: Progress = no_progress) -> Audit:
    """Check images, labels, duplicates, groups and class sizes.

    ``pixels`` are the scan and thumbnails of the same catalog, in its order; ``progress`` is of the near-duplicates.
    """
    scan, findings = pixels.scan, _Findings(catalog.findings)
    findings += picture_remarks.check(scan)
    remarks, without_mask = mask_remarks.check(catalog, scan)
    findings += remarks
    quarantined = _bad_images(scan, findings)
    quarantined |= generated.check(catalog, pixels, quarantined, findings.add)
    linked = _check_data_sets(catalog, pixels, quarantined, findings, progress)
    _check_duplicates(catalog, scan, quarantined, findings)
    good = ~catalog.table["image"].isin(quarantined).to_numpy()
    kept, rows = catalog.take(good), np.flatnonzero(good)
    pairs = duplicates.search(kept.images, pixels.thumbnails[rows], progress)
    known = unite(linked[good], scan["sha256"].to_numpy(object)[rows])
    _check_pairs(kept, known, pairs, findings)
    if not pairs.is_complete:
        advice = "Give lesion ids, or look for copies by other means."
        kind = "near-duplicates not all looked for"
        findings.append(Finding(kind, "warning", 0, (), duplicates.INCOMPLETE, advice))
    row = {name: i for i, name in enumerate(kept.images)}
    groups = unite(known, extra=[(row[pair.first], row[pair.second]) for pair in pairs if pair.accepted])
    apart = _check_train_only(kept, groups, quarantined, findings)
    kept, rows, groups = kept.take(apart), rows[apart], groups[apart]
    _check_labels(catalog, kept, scan.iloc[rows], findings)
    _check_sizes(kept, groups, findings)
    findings += shortcuts.check(kept, groups, scan.iloc[rows], pixels.thumbnails[rows])
    _check_placeholders(kept, findings)
    order = {"error": 0, "warning": 1, "note": 2}
    named = dict(zip(kept.images.tolist(), groups, strict=True))
    sorted_findings = tuple(sorted(findings, key=lambda f: order[f.severity]))
    return Audit(sorted_findings, quarantined, pairs, named, without_mask)


class _Findings(list[Finding]):
    """What has been found so far."""

    def add(self, kind: str, severity: Severity, images: Iterable[str], message: str, advice: str = "") -> None:
        """What is wrong with these images; nothing is where there are none."""
        self += finding(kind, severity, images, message, advice)


def _count(number: int, one: str = "image") -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _bad_images(scan: pd.DataFrame, findings: _Findings) -> dict[str, str]:
    """Quarantine what cannot be read."""
    quarantined = {}
    for status, bad in scan[scan["status"] != OK].groupby("status", sort=False):
        kind, advice = STATUS[str(status)]
        named = dict(zip(bad["image"].tolist(), bad["message"].tolist(), strict=True))
        quarantined |= {image: f"{kind}: {message}" for image, message in named.items()}
        image, message = next(iter(named.items()))
        say = f"{_count(len(bad))} cannot be used; {image}: {message.rstrip('.')}."
        findings.add(kind, "error", named, say, advice)
    return quarantined


def _check_duplicates(catalog: Catalog, scan: pd.DataFrame, quarantined: dict[str, str], findings: _Findings) -> None:
    """Exact copies: harmless under one label (they are joined), quarantined under two."""
    table = catalog.table[["image", "label"]].assign(sha256=scan["sha256"].to_numpy())
    table = table[~table["image"].isin(quarantined)]
    copies = table[table["sha256"].duplicated(keep=False)]
    num_labels = copies.groupby("sha256")["label"].transform("nunique")
    same, torn = copies[num_labels == 1], copies[num_labels > 1]
    say = f"{_count(len(same))} with an exact copy, byte for byte; each set is one group of the split."
    findings.add("exact duplicates", "warning", same["image"], say, "Keep one of each set.")
    for _, rows in torn.groupby("sha256"):
        names = dict(zip(rows["image"], rows["label"], strict=True))
        listed = ", ".join(f"{name} is {label}" for name, label in names.items())
        quarantined |= dict.fromkeys(names, f"two labels on one image: {listed}")
    say = f"{_count(len(torn))} with an exact copy under another label; none of them is used."
    findings.add("two labels on one image", "error", torn["image"], say, "Find out which label is right.")


def _check_data_sets(
    catalog: Catalog, pixels: Pixels, quarantined: dict[str, str], findings: _Findings, progress: Progress
) -> np.ndarray:
    """Set images aside that an earlier data set has too; the groups [N], joined over what two data sets share."""
    if len(joined_sets.names(catalog)) < 2:
        return catalog.groups
    found, notes = joined_sets.shared(catalog, pixels, progress)
    findings += [Finding("chance names", "note", 0, (), note) for note in notes]
    doubles = found[found["why"] != overlap.SAME_LESION].drop_duplicates("image")
    label = catalog.table.set_index("image")["label"]
    for (name, of), rows in doubles.groupby(["data_set", "of"], sort=False):
        why = ", ".join(f"{reason} {number:,}" for reason, number in rows["why"].value_counts().items())
        say = f"{_count(len(rows))} of {name} are among those of {of} too ({why}); those of {of} are used."
        torn = int((label.loc[rows["image"]].to_numpy() != label.loc[rows["same_as"]].to_numpy()).sum())
        say += f" {_count(torn)} under another class there." if torn else ""
        findings.add("image of two data sets", "warning", rows["image"], say)
    for row in doubles.itertuples():
        quarantined[str(row.image)] = f"in two data sets: {row.why} as {row.same_as} of {row.of}"
    place = pd.Series(np.arange(len(catalog)), index=catalog.images)
    edges = np.stack([place.loc[found[column]].to_numpy() for column in ("same_as", "image")], axis=1)
    return unite(catalog.groups, extra=edges.tolist())


def _check_train_only(
    kept: Catalog, groups: np.ndarray, quarantined: dict[str, str], findings: _Findings
) -> np.ndarray:
    """Set images aside that may only be trained on, of lesions that may be tested on: whether each [n] stays."""
    only = (kept.table["only_part"] != "").to_numpy()
    tested = dict(zip(groups[~only].tolist(), kept.images[~only].tolist(), strict=True))
    shown = only & np.isin(groups, list(tested))
    for name, rows in kept.take(shown).table.groupby("data_set", sort=False):
        say = f"{_count(len(rows))} of {name} show lesions of images that may be tested on; they are not used."
        advice = 'With parts = "all" they are split with those lesions.'
        findings.add("lesion of two data sets", "warning", rows["image"], say, advice)
    for image, group in zip(kept.images[shown], groups[shown], strict=True):
        quarantined[image] = f"lesion of two data sets: the lesion of {tested[group]}, which may be tested on"
    return ~shown


def _check_pairs(kept: Catalog, known: np.ndarray, pairs: tuple[Pair, ...], findings: _Findings) -> None:
    """Near-duplicates, of which those that lesions and exact copies have joined already (``known``) are no news."""
    group = dict(zip(kept.images, known, strict=True))
    label = dict(zip(kept.images, kept.table["label"], strict=True))
    news = [pair for pair in pairs if group[pair.first] != group[pair.second]]
    accepted = [pair for pair in news if pair.accepted]
    named = [f"{p.first} = {p.second}" for p in accepted]
    say = f"{_count(len(named), 'pair')} under no common lesion id taken as one photograph and joined."
    findings.add("near-duplicates", "warning", named, say, "Look at the pairs in audit.json.")
    torn = [f"{p.first} = {p.second}" for p in accepted if label[p.first] != label[p.second]]
    say = f"{_count(len(torn), 'pair')} of these with different labels; both images stay, in one group."
    findings.add("near-duplicates of two classes", "warning", torn, say, "Check the labels by eye.")
    rest = [f"{p.first} ? {p.second}" for p in news if not p.accepted]
    say = f"{_count(len(rest), 'pair')} alike, but not enough to be joined."
    findings.add("candidates for near-duplicates", "note", rest, say, "Look at them in audit.json.")


def _check_labels(catalog: Catalog, kept: Catalog, scan: pd.DataFrame, findings: _Findings) -> None:
    """Images without label, lesions without id or with two labels, other modes than RGB."""
    say = f"{_count(len(catalog.unlabelled))} in no label file, not used."
    findings.add("image without label", "warning", catalog.unlabelled, say, "Label them, or ignore it.")
    table = kept.table
    unknown = table[(table["lesion"] == "") & table["group"].str.contains("^(?:[^:]*:)?image:")]  # else of a patient
    if len(unknown) < len(table):
        say = f"{_count(len(unknown))} without lesion id; each counts as a lesion of its own."
        advice = "If some show the same lesion, the split cannot know: look at the near-duplicates."
        findings.add("lesion without id", "warning", unknown["image"], say, advice)
    else:
        say = "No image has a lesion or patient id; each counts as a lesion of its own."
        advice = "If several images show one lesion, give their ids: without them test scores come out too good."
        findings.add("no lesion ids", "warning", unknown["image"], say, advice)
    known = table[table["lesion"] != ""]
    torn = known[known.groupby("lesion")["label"].transform("nunique") > 1]
    number = _count(torn["lesion"].nunique(), "lesion")
    say = f"{number} with two labels ({_count(len(torn))}); each stays whole, in one part."
    findings.add("lesion with two labels", "warning", torn["image"], say, "Check these labels.")
    other = scan[scan["mode"] != "RGB"]
    modes = ", ".join(f"{mode} ({n})" for mode, n in other["mode"].value_counts().items())
    say = f"{_count(len(other))} stored not as RGB but as {modes}; converted."
    findings.add("not RGB", "note", other["image"], say)


def _check_sizes(kept: Catalog, groups: np.ndarray, findings: _Findings) -> None:
    """Classes too small to split, or to say anything of."""
    for name in kept.classes:
        rows = ((kept.table["label"] == name) & (kept.table["only_part"] == "")).to_numpy()
        number, images = len(set(groups[rows])), tuple(kept.images[rows])
        if number < MIN_LESIONS:  # or none at all, which `add` would pass over
            say = f'Class "{name}" has {_count(number, "lesion")}; training, validation and test need one each.'
            few = ("class too small to split", "error", len(images), images[:NUM_NAMED], say, "Leave the class out.")
            findings.append(Finding(*few))
        elif number < FEW_LESIONS:
            say = f'Class "{name}" has {_count(number, "lesion")}: too few for a verdict on it.'
            findings.add("class too small for a verdict", "warning", images, say, "Collect more lesions.")


def _check_placeholders(kept: Catalog, findings: _Findings) -> None:
    """A lesion id on very many images of several classes is a word for "unknown" rather than a lesion."""
    table = kept.table[kept.table["lesion"] != ""]
    lesions = table.groupby("lesion")["label"].agg(["size", "nunique"])
    many = max(MANY_IMAGES, MANY_TIMES * float(lesions["size"].median())) if len(lesions) else 0
    for name, row in lesions[(lesions["size"] >= many) & (lesions["nunique"] > 1)].iterrows():
        images = table["image"][table["lesion"] == name]
        say = f'The lesion id "{name}" is on {_count(len(images))} of {row["nunique"]} classes: does it mean "unknown"?'
        findings.add("lesion id of many", "warning", images, say, "Leave the id of such images empty.")
