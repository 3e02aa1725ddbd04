"""What the folders of a data set are: its classes, its official parts, mere shards, or a wrapper around all.

train/AK/1.jpg  test/NV/2.jpg          parts, then classes
AK/train/1.jpg  NV/test/2.jpg          classes, then parts
imgs_part_1/1.jpg  imgs_part_2/2.jpg   shards: the classes are in a table
mydata/AK/1.jpg  mydata/NV/2.jpg       a wrapper, then classes
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moulage.data.class_map import key
from moulage.data.findings import Finding, finding
from moulage.errors import DataError

_PART_WORDS = {"train": "train", "training": "train"}
_PART_WORDS |= dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation")
_PART_WORDS |= dict.fromkeys(("test", "testing", "holdout"), "test")
_CARRIERS = frozenset(
    {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data", "dataset", "set", "input"}
    | {
        "inputs",
        "split",
        "folder",
        "dir",
        "files",
        "samples",
        "cases",
        "raw",
        "jpg",
        "jpeg",
        "jpegs",
        "png",
        "original",
    }
    | {"part", "cropped", "resized", "full", "new", "final"}
)
"""Words that say that there are images, and not which."""
_SHARDS = frozenset(
    {"part", "parts", "batch", "shard", "chunk", "fold", "folder", "image", "images", "img", "imgs", "set", "subset"}
    | {"disc", "disk", "volume", "bin"}
)
"""Words that folders of one set, cut by number, are called by."""


@dataclass(frozen=True)
class Layout:
    """What folders say of images."""

    labels: dict[str, str]  # image -> the folder that may be its class; empty where none is
    parts: dict[str, str] = field(default_factory=dict)  # image -> its official part
    shards: tuple[str, ...] = ()  # folders that only cut the set into pieces
    outer: str = ""  # the folders around all others, ending in '/'
    above: frozenset[str] = frozenset()  # the folders that hold those of the classes; "" is the data's own


def words(name: str) -> list[str]:
    """The words of a folder's name in lower case: ``ISIC2019_TrainImages`` is isic, 2019, train, images."""
    found = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", unicodedata.normalize("NFC", name))
    split = (
        re.fullmatch(r"(train|training|val|valid|test|testing)(set|data|images|imgs|img)", w.lower()) for w in found
    )
    return [
        part for word, parts in zip(found, split, strict=True) for part in (parts.groups() if parts else [word.lower()])
    ]


def part_of(name: str, others: Iterable[str] = ()) -> str:
    """The part of a split that a folder's name means, beside ``others``; empty where it means none."""
    common = set.intersection(*(set(words(other)) for other in (name, *others))) - set(_PART_WORDS)
    left = [word for word in words(name) if not word.isdigit() and word not in _CARRIERS | common]
    return _PART_WORDS.get(left[0], "") if len(left) == 1 else ""


def are_shards(names: Collection[str]) -> bool:
    """Whether folders differ by number or letter alone, and are called as pieces of a set are."""
    each = [words(name) for name in names]
    bare = [tuple(word for word in found if not word.isdigit() and len(word) > 1) for found in each]
    return len(set(bare)) == 1 and bool(set(bare[0]) & _SHARDS) and len({tuple(found) for found in each}) == len(each)


def read(images: Sequence[str], chosen: Collection[str], where: Path, *, has_table: bool) -> Layout:
    """What the folders of these images, names with '/', are.

    ``chosen`` names folders that are classes whatever they are called; with ``has_table`` classes may be in a table.
    ``DataError`` where folders are named like parts beside others that are not, or like shards without a table.
    """
    wanted, parts, shards, outer = {key(name) for name in chosen}, dict[str, str](), list[str](), ""
    rest = {name: name.split("/") for name in images}
    while True:
        inside = {name: path for name, path in rest.items() if len(path) > 1}
        tops = sorted({path[0] for path in inside.values()})
        deeper = all(len(path) > 2 for path in inside.values())
        if not tops or wanted & {key(top) for top in tops}:
            break
        named = {top: part_of(top, [other for other in tops if other != top]) for top in tops}
        found = set(named.values()) - {""}
        if not parts and found and "" not in named.values():
            parts = {name: named[path[0]] for name, path in inside.items()}
        elif not parts and len(found) > 1:
            strange = ", ".join(top for top in tops if not named[top])
            raise DataError(
                f"{where}: {', '.join(top for top in tops if named[top])} are named like parts, not {strange}.",
                "Move what is no part elsewhere; or, if all are classes, name them with --source-set classes=[...].",
            )
        elif are_shards(tops) and len(tops) > 1:
            if not deeper and not has_table:
                raise DataError(
                    f"{where}: {', '.join(tops[:3])} look like pieces of one set, not like classes, and no table of "
                    "labels lies beside them.",
                    "Add a table (docs/your-data.md); or, if they are classes, name them: --source-set classes=[...].",
                )
            shards += tops
        elif len(tops) > 1 or not deeper:
            break
        elif not parts and not shards:
            outer += f"{tops[0]}/"
        rest = {name: path[1:] if len(path) > 1 else path for name, path in rest.items()}
    labels = {name: path[0] if len(path) > 1 else "" for name, path in rest.items()}
    if not parts:
        seconds = {path[1] for path in inside.values() if len(path) > 2}
        named = {second: part_of(second, seconds - {second}) for second in seconds}
        if deeper and inside and all(named.values()) and (len(set(named.values())) > 1 or len(seconds) == 1):
            parts = {name: named[path[1]] for name, path in inside.items()}
    above = {name.rsplit("/", len(rest[name]))[0] if name.count("/") >= len(rest[name]) else "" for name in inside}
    return Layout(labels, parts, tuple(shards), outer, frozenset(above))


def official_parts(parts: Mapping[str, str], who: str) -> list[Finding]:
    """A finding on the official parts of images, image -> part; ``who`` names them, such as "The folders name"."""
    counts = Counter(parts.values())
    listed = ", ".join(f"{part} {counts[part]:,}" for part in ("train", "validation", "test") if counts[part])
    say = f"{who} official parts: {listed}."
    advice = 'They are kept with --set split.scheme="official"; any other scheme deals all images anew.'
    return finding("official parts", "note", parts, say, advice)


def remarks(parts: Mapping[str, str], tops: Collection[str]) -> list[Finding]:
    """Findings on the official parts of images, and on classes that are named as if they were parts."""
    found = official_parts(parts, "The folders name")
    odd = sorted(name for name in tops if part_of(name))
    say = f"{', '.join(odd)}: named like a part of a split, and taken as a class, since others beside it are none."
    return found + finding("class named like a part", "warning", odd, say, "If it is none, move it elsewhere.")
