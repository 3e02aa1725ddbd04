"""Masks and derived pictures that lie beside the images: known by their names, and by what they show.

``a_mask.png`` or ``masks/a.png`` is the mask of ``a.jpg`` if it shows few grey levels or colours, as no photograph
does.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from moulage.data.findings import Finding, finding
from moulage.data.images import ImageError, decode
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.sources._files import Listing, stem
from moulage.sources._layout import words

NUM_LOOKED_AT = 6
"""Files of each kind of name that are decoded to see whether they are masks."""
NEAR, MOST_COLOURS, LEAST_SHARE = 16, 8, 0.97
"""A mask has at most so many colours, or this share of its pixels ``NEAR`` its darkest or brightest level."""
MOST_ACROSS = 256
"""Pixels a side that are looked at."""

_FOLDER_WORDS = frozenset(
    {"mask", "masks", "segmentation", "segmentations", "seg", "segm", "segs", "gt", "ground", "truth", "groundtruth"}
    | {"annotation", "annotations", "label", "labels", "silhouette", "silhouettes", "roi", "rois", "binary"}
)
_BESIDE = frozenset({"image", "images", "img", "imgs", "png", "jpg", "lesion", "lesions", "all", "bin", "data"})
"""Words that may stand beside those in the name of a folder of masks."""
_LONG = "masks?|segmentations?|groundtruth|ground[ _-]truth"
_SHORT = "seg|segm|gt|lesion|roi|label|annotation|binary"
_SUFFIX = re.compile(
    rf"(.+?)(?:[ _.-]*({_LONG})|[ _.-]+({_SHORT}))(?:[ _.-]?\d{{1,2}})?(?:[ _.-](?:{_LONG}|tschandl|binary))?",
    re.IGNORECASE,
)
_PREFIX = re.compile(rf"(?:{_LONG}|seg|gt)[ _.-]+(.+)", re.IGNORECASE)
_DERIVED = re.compile(r"(.+?)[ _.-](?:superpixels?|thumb|thumbnail|overlay|heatmap|contours?)", re.IGNORECASE)


@dataclass
class Sorted:
    """Images, and what lies beside them."""

    images: list[str]
    masks: dict[str, str] = field(default_factory=dict)  # image -> its mask
    beside: set[str] = field(default_factory=set)  # masks and derived pictures
    findings: list[Finding] = field(default_factory=list[Finding])


def sort_out(held: Listing, names: list[str]) -> Sorted:
    """Which of these pictures are images, and which are masks of them, or otherwise made of them."""
    suspects = {name: kind for name in names if (kind := _kind(name))}
    partners = _partners([name for name in names if name not in suspects])
    derived = [name for name in names if (of := _DERIVED.fullmatch(stem(name))) and _partner(name, of[1], partners)]
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name, kind in suspects.items():
        kinds[kind].append(name)
    likely = [those for kind, those in kinds.items() if _may_be(kind, those, partners)]
    masks = [name for those in likely if _are_masks(held, those) for name in those]
    if len(masks) == len(names):  # then they are what there is to learn
        masks = []
    gone = {*masks, *derived}
    found = Sorted([name for name in names if name not in gone], beside=gone)
    partners = _partners(found.images)
    alone, further = [], []
    for name in masks:
        owner = _owner(name, partners)
        if not owner:
            alone.append(name)
        elif found.masks.setdefault(owner, name) != name:
            further.append(name)
    say = f"{len(found.masks):,} images with a mask beside them, known by name and content; it is taken as their mask."
    found.findings += finding("masks beside the images", "note", found.masks, say)
    say = f"{len(alone):,} masks of no image that is here; passed over."
    found.findings += finding("masks without image", "warning", alone, say)
    say = f"{len(further):,} masks beyond the first of an image; passed over."
    found.findings += finding(
        "further masks of an image", "warning", further, say, "Join them if they are one lesion's."
    )
    say = f"{len(derived):,} pictures made of others beside them, such as thumbnails; passed over."
    found.findings += finding("derived pictures", "note", derived, say)
    return found


def is_mask(picture: np.ndarray) -> bool:
    """Whether a picture, uint8 [H, W, 3], shows so little that it is a mask and no photograph."""
    step = max(1, *(side // MOST_ACROSS for side in picture.shape[:2]))
    picture = picture[::step, ::step]
    if len(np.unique(picture.reshape(-1, 3), axis=0)) <= MOST_COLOURS:
        return True
    grey = picture.astype(int)
    if (grey.max(axis=2) - grey.min(axis=2) > NEAR).mean() > 1 - LEAST_SHARE:
        return False
    ends = (grey <= grey.min() + NEAR) | (grey >= grey.max() - NEAR)
    return bool(ends.mean() >= LEAST_SHARE)


def _may_be(kind: str, names: list[str], partners: dict[str, list[str]]) -> bool:
    """Whether these names are those of masks: as their folder says, or since one is that of an image."""
    plain = kind.endswith("/") and re.search(r"mask|segment", kind.rstrip("/").rsplit("/", 1)[-1], re.IGNORECASE)
    return bool(plain) or any(_owner(name, partners) for name in names)


def _are_masks(held: Listing, names: list[str]) -> bool:
    """Whether most of some of these files are masks."""
    looked = [names[place] for place in sorted({int(x) for x in np.linspace(0, len(names) - 1, NUM_LOOKED_AT)})]
    seen = []
    with Reader() as reader:
        for name in looked:
            try:
                place = held.location(name)
                data = reader.bytes(str(held.root / place))
                seen.append(is_mask(decode(data, 64)))
            except (ImageError, DataError):
                continue
    return sum(seen) * 2 > len(seen)


def _kind(name: str) -> str:
    """What makes a picture's name a mask's: the folder (which ends in '/'), or a word in it; empty where nothing."""
    folders = name.split("/")[:-1]
    for depth, folder in enumerate(folders):
        found = set(words(folder))
        if found & _FOLDER_WORDS and all(word in _FOLDER_WORDS | _BESIDE or word.isdigit() for word in found):
            return "/".join(folders[: depth + 1]) + "/"
    own = stem(name)
    if match := _SUFFIX.fullmatch(own):
        return f"*{(match[2] or match[3]).lower()}"
    return "mask*" if _PREFIX.fullmatch(own) else ""


def _bases(name: str) -> list[str]:
    """The stems that an image may have of which a file of this name is the mask."""
    own = stem(name)
    found = [own]
    for pattern in (_SUFFIX, _PREFIX):
        if match := pattern.fullmatch(own):
            found.append(match[1])
    return found


def _partners(images: Iterable[str]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in images:
        found[_folded(stem(name))].append(name)
    return found


def _partner(name: str, base: str, partners: dict[str, list[str]]) -> str:
    """The image of this stem in the same folder."""
    folder = posixpath.dirname(name)
    return next((image for image in partners.get(_folded(base), ()) if posixpath.dirname(image) == folder), "")


def _owner(name: str, partners: dict[str, list[str]]) -> str:
    """The image that a mask is of: beside it, else the one whose folders are most alike, if there is one such."""
    for base in _bases(name):
        if beside := _partner(name, base, partners):
            return beside
        own = name.split("/")[:-1]
        scores = {image: len(set(own) & set(image.split("/")[:-1])) for image in partners.get(_folded(base), ())}
        best = [image for image, score in scores.items() if score == max(scores.values())]
        if len(best) == 1:
            return best[0]
    return ""


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
