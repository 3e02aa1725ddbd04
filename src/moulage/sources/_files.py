"""What lies in a folder or a ZIP: every file by name, which of them are images, and what was passed over.

Only regular files are read. Links are followed, each folder is read once, and links that lead out of the folder, turn
in a circle or lead nowhere are told. Hidden files, thumbnails and what systems leave behind are passed over. A file
whose suffix is no image's is known by its first bytes.
"""

import filecmp
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from moulage.data import images as pictures
from moulage.data import locations
from moulage.data.findings import Finding, finding
from moulage.data.reader import BROKEN
from moulage.errors import DataError
from moulage.sources import _tables

T = TypeVar("T")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm"}
    | {".pnm", ".jp2", ".j2k"}
)
RAW_SUFFIXES = frozenset(
    {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".pef", ".raf", ".svs", ".ndpi", ".scn", ".nii", ".mha"}
)
"""Of pictures that are not read, though their first bytes may be those of a TIFF."""
OFFICE_SUFFIXES = frozenset({".xlsx", ".xlsm", ".docx", ".pptx", ".ods", ".odt"})
"""Of documents, though their first bytes are those of a ZIP."""
JUNK = frozenset(
    {"__macosx", "@eadir", "thumbnails", "thumbnail", "thumbs", "thumbs.db", "desktop.ini", "$recycle.bin"}
    | {"lost+found", "__pycache__", "system volume information"}
)
"""Files and folders, in lower case, that systems and viewers leave behind."""
HIDDEN, LEFT_BEHIND, READ_ALREADY = "hidden", "thumbnails and leftovers", "link to a folder that is read already"
HARMLESS = frozenset({HIDDEN, LEFT_BEHIND, READ_ALREADY})
"""Why a file is passed over, where nothing is lost by it."""
MAX_UNPACKED, MAX_RATIO = 8 * 2**30, 100
"""An archive that would unpack to so many bytes, and shrank more than that, is refused."""


@dataclass(frozen=True)
class Listing:
    """The visible files of a folder, or of a ZIP."""

    path: Path  # the folder or the ZIP
    stored: dict[str, str]  # name with '/' -> the same as it is stored, sorted by name
    folders: frozenset[str] = frozenset()  # visible folders that hold nothing else than folders, or nothing
    passed_over: dict[str, str] = field(default_factory=dict)  # name -> why
    findings: tuple[Finding, ...] = ()  # on links

    @property
    def root(self) -> Path:
        """What locations are relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def location(self, name: str) -> str:
        """The location of a file. ``DataError`` where its name cannot be one, or is text that cannot be kept."""
        stored = self.stored[name]
        if why := locations.why_not(stored):
            hint = "Rename it, such as with convmv." if "UTF-8" in why else "Rename it."
            hint = "Set PYTHONUTF8=1, or use a locale of UTF-8." if "locale" in why else hint
            raise DataError(f"{self.path}: the file name {locations.shown(name)} {why}.", hint)
        return stored if self.path.is_dir() else locations.join(self.path.name, stored)

    def heads(self, names: Iterable[str], most: int) -> Iterator[tuple[str, bytes]]:
        """The first bytes, at most so many, of some files; nothing of those that cannot be read."""
        yield from self.looked_into(names, lambda stream: stream.read(most), b"")

    def looked_into(
        self, names: Iterable[str], look: Callable[[IO[bytes]], T], otherwise: T
    ) -> Iterator[tuple[str, T]]:
        """What a function makes of the open file, for each of some files; ``otherwise`` where it cannot be read."""
        with ExitStack() as stack:
            archive = None if self.path.is_dir() else stack.enter_context(zipfile.ZipFile(self.path))
            for name in names:
                try:
                    with archive.open(self.stored[name]) if archive else (self.path / name).open("rb") as stream:
                        yield name, look(stream)
                except (OSError, *BROKEN):
                    yield name, otherwise

    def same(self, first: str, second: str) -> bool:
        """Whether two files hold the same bytes; of members of a ZIP their length and CRC-32 tell."""
        if self.path.is_dir():
            return filecmp.cmp(self.path / first, self.path / second, shallow=False)
        with zipfile.ZipFile(self.path) as archive:
            one, other = archive.getinfo(self.stored[first]), archive.getinfo(self.stored[second])
        return (one.CRC, one.file_size) == (other.CRC, other.file_size)


def existing(path: Path | None, wanted: str) -> Path:
    """The absolute form of a path that has to be there; ``wanted`` says what it should name, for messages."""
    if path is None:
        raise DataError("This source needs to know where the data are.", f"Name {wanted} with --data PATH.")
    if not path.exists():
        raise DataError(f"{path} does not exist.", f"--data PATH names {wanted}.")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path} is neither a folder nor a regular file.", f"--data PATH names {wanted}.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise DataError(f"{path} cannot be read.", "Check its permissions.")
    found = path.resolve()
    if why := locations.why_not(str(found)):
        raise DataError(f"{locations.shown(str(found))} {why}.", "Give the folder another name.")
    return found


def existing_folder(path: Path | None, wanted: str) -> Path:
    """Like ``existing``, for a folder."""
    folder = existing(path, wanted)
    if not folder.is_dir():
        raise DataError(f"{path} is a file, not a folder.", f"--data PATH names {wanted}.")
    return folder


def first_of(root: Path, *names: str) -> Path:
    """The first of these files that ``root`` holds; ``DataError`` says what it holds instead."""
    for name in names:
        if (root / name).is_file():
            return root / name
    wanted = " or ".join(names)
    for name in names:
        for below in sorted(root.glob(f"*/{name}")):
            raise DataError(f"{root} does not hold {wanted}.", f"It is one folder deeper: use {below.parent}.")
    held = sorted(locations.shown(entry.name) for entry in root.iterdir())
    if not held:
        raise DataError(f"{root} is empty.", f"It should hold {wanted}.")
    shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
    raise DataError(f"{root} does not hold {wanted}.", f"It holds {shown}.")


def suffix(name: str) -> str:
    """The suffix of a file name in lower case, with its dot."""
    return posixpath.splitext(name)[1].lower()


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's, in upper or lower case."""
    return suffix(name) in IMAGE_SUFFIXES


def stem(name: str) -> str:
    """The file name without folders and suffix (``pathlib`` takes a second for the names of a large data set)."""
    return posixpath.splitext(posixpath.basename(name))[0]


def listing(path: Path) -> Listing:
    """The files of a folder or a ZIP. ``DataError``: it cannot be read, is another archive, or unpacks to too much."""
    found = _folder(path) if path.is_dir() else _zip(path)
    hidden = {name: why for name in found.stored if (why := _why_hidden(name))}
    stored = {name: kept for name, kept in sorted(found.stored.items()) if name not in hidden}
    folders = frozenset(name for name in found.folders if not _why_hidden(name))
    return Listing(path, stored, folders, hidden | found.passed_over, found.findings)


def sort_out(found: Listing) -> tuple[list[str], dict[str, str]]:
    """The images of a listing, by suffix or else by their first bytes, and what the other files are: name -> words."""
    other: dict[str, str] = {}
    odd = [name for name in found.stored if not is_image(name)]
    for name, head in found.heads(odd, pictures.HEAD_BYTES):
        kind = pictures.content(head)
        if suffix(name) in RAW_SUFFIXES:
            kind = f"a {suffix(name)} picture"
        elif suffix(name) in OFFICE_SUFFIXES:
            kind = ""
        if kind != pictures.READABLE:
            other[name] = kind
    return [name for name in found.stored if name not in other], other


def passed_over(found: Listing, other: dict[str, str], used: Iterable[str] = ()) -> list[Finding]:
    """Findings on everything that a listing holds and nobody reads, by suffix and folder; ``used`` was read after all.

    Pictures in formats that are not read, archives and what is no file are a warning; ``other`` says what they are.
    """
    rest = {name: kind for name, kind in other.items() if name not in set(used)}
    unread = {name: kind for name, kind in rest.items() if kind}
    broken = {name: why for name, why in found.passed_over.items() if why not in HARMLESS}
    plain = {name: "" for name, kind in rest.items() if not kind}
    plain |= {name: why for name, why in found.passed_over.items() if why in HARMLESS}
    say = f"{_number(unread)} in formats that are not read: {_counted(unread)}."
    told = finding("pictures that are not read", "warning", map(locations.shown, unread), say, _advice(unread))
    say, advice = f"{_number(broken)} cannot be read: {_counted(broken)}.", "Put what they stand for in their place."
    told += finding("files that cannot be read", "warning", map(locations.shown, broken), say, advice)
    say = f"{_number(plain)} passed over: {_counted(plain)}."
    return [*found.findings, *told, *finding("files passed over", "note", map(locations.shown, plain), say)]


def images(root: Path, archives: str, used: Iterable[str] = ()) -> tuple[dict[str, str], list[Finding]]:
    """Location of every image below ``root`` and in the ZIPs directly in it, by file name without suffix; and findings.

    ``archives`` is a glob pattern of the ZIPs' names, ``used`` names tables that are read. Where an image is in a ZIP
    and unpacked as well, the one in the ZIP counts; files of one name and the same bytes are one. ``DataError``: a
    broken ZIP, or two different files of one name, since nobody can say which the label means.
    """
    paths, packed, findings = sorted(root.glob(archives)), {}, []
    for path in paths:
        held = listing(path)
        named, other = sort_out(held)
        findings += [*passed_over(held, other), *_by_stem(held, named, packed)]
    held, unpacked = listing(root), {}
    named, other = sort_out(held)
    findings += passed_over(held, other, {*(path.name for path in paths), *used})
    findings += _by_stem(held, [name for name in named if stem(name) not in packed], unpacked)
    return unpacked | packed, findings


def locate(names: Sequence[str], found: dict[str, str], root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Where each labelled image is (``missing::<name>`` if nowhere), and the names of images without a label.

    ``DataError`` where there is no image at all, or none that a label names: the path is wrong, not the data.
    """
    if not found:
        raise DataError(
            f"{root} holds labels but no image.", "Put the images beside them, in folders or ZIPs; unpack others."
        )
    labelled = set(names)
    if labelled.isdisjoint(found):
        raise DataError(
            f"{root}: none of the {len(names)} labelled images is there.",
            f'The first label names "{names[0]}"; the first image is "{min(found)}".',
        )
    return [found.get(name, f"{locations.MISSING}{name}") for name in names], tuple(sorted(set(found) - labelled))


def _folder(root: Path) -> Listing:
    """Every regular file below a folder. Folders without files of their own are named, all others are not."""
    stored: dict[str, str] = {}
    odd: dict[str, str] = {}
    folders: set[str] = set()
    away: dict[str, str] = {}
    seen = {_identity(root)}
    waiting, links = [""], list[str]()
    while waiting or links:
        if not waiting:  # what is reached without a link comes first
            name = links.pop(0)
            _follow(root, name, stored, odd, away, seen, waiting)
            continue
        folder = waiting.pop()
        folders.add(folder.rstrip("/"))
        for entry in _entries(root / folder):
            name = folder + entry.name
            if entry.is_symlink():
                links.append(name)
            elif entry.is_dir(follow_symlinks=False):
                seen.add(_identity(root / name))
                waiting.append(f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                stored[name] = name
            else:
                odd[name] = "no regular file"
    say = "; ".join(
        f"{locations.shown(name)} is {locations.shown(target)}" for name, target in sorted(away.items())[:3]
    )
    say = f"{_number(away, 'link')} out of the data folder, followed: {say}."
    told = finding("links out of the data folder", "note", map(locations.shown, sorted(away)), say)
    return Listing(root, stored, frozenset(folders - {""}), odd, tuple(told))


def _follow(
    root: Path,
    name: str,
    stored: dict[str, str],
    odd: dict[str, str],
    away: dict[str, str],
    seen: set[tuple[int, int]],
    waiting: list[str],
) -> None:
    """Where a link leads: to a file, to a folder that is still to be read, or to nothing that is."""
    try:
        target = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):  # it turns in a circle of its own
        odd[name] = "link that leads nowhere"
        return
    if target.is_dir():
        if _identity(target) in seen:
            odd[name] = READ_ALREADY
            return
        seen.add(_identity(target))
        waiting.append(f"{name}/")
    elif target.is_file():
        stored[name] = name
    else:
        odd[name] = "no regular file"
        return
    if not target.is_relative_to(root.resolve()):
        away[name] = str(target)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        shown = locations.shown(str(error.filename))
        raise DataError(f"{shown} cannot be read: {error.strerror}.", "Check its permissions.") from None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _zip(path: Path) -> Listing:
    """Every file inside a ZIP, from its directory alone; names with a backslash, as Windows writes them, get a '/'."""
    if _tables.is_table(path.name):
        raise DataError(f"{path} is a table.", "Tables of images are read with --source table.")
    with path.open("rb") as stream:
        kind = pictures.content(stream.read(pictures.HEAD_BYTES))
    if "archive" in kind and kind != "a ZIP archive":
        raise DataError(f"{path} is {kind}.", "Unpack it and name the folder, or pack it as a ZIP.")
    if path.suffix.lower() not in (".zip", ".npz") and zipfile.is_zipfile(path):
        raise DataError(f"{path} is a ZIP whose name does not end in .zip.", f"Rename it to {path.name}.zip.")
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a ZIP file: {error}.", "Download it again.") from None
    size = sum(entry.file_size for entry in entries)
    if size > max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size):
        raise DataError(f"{path} would unpack to {size:,} bytes.", "No set of images shrinks so much: is it a bomb?")
    stored: dict[str, str] = {}
    odd: dict[str, str] = {}
    folders: set[str] = set()
    for entry in entries:
        name = posixpath.normpath(entry.filename.replace("\\", "/")).lstrip("/")
        folders |= {name[:place] for place, sign in enumerate(name) if sign == "/"}
        if entry.is_dir() or entry.filename.endswith("\\"):
            folders.add(name)
        elif name.startswith("../") or name in stored:
            odd[entry.filename] = "name that leads out of the archive" if name not in stored else "second of its name"
        else:
            stored[name] = entry.filename
    return Listing(path, stored, frozenset(folders), odd)


def _why_hidden(name: str) -> str:
    parts = name.split("/")
    if any(part.lower() in JUNK for part in parts):
        return LEFT_BEHIND
    return HIDDEN if any(part.startswith(".") for part in parts) else ""


def _number(names: Iterable[str], one: str = "file") -> str:
    number = len(list(names))
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def _counted(reasons: dict[str, str]) -> str:
    """Files by what they are or their suffix, and by folder: ``.txt 3 (AK 2, top 1); hidden .jpg 1 (.cache 1)``."""
    groups: dict[str, Counter[str]] = {}
    for name, why in reasons.items():
        kind = f"{why} {suffix(name)}".strip() or "without suffix"
        groups.setdefault(kind, Counter())[posixpath.dirname(name) or "top"] += 1
    said = []
    for kind, folders in sorted(groups.items(), key=lambda item: -item[1].total()):
        listed = ", ".join(f"{locations.shown(folder)} {number:,}" for folder, number in folders.most_common(3))
        more = f" and {len(folders) - 3} more folders" if len(folders) > 3 else ""
        said.append(f"{locations.shown(kind)} {folders.total():,} ({listed}{more})")
    return "; ".join(said[:8]) + (f"; and {len(said) - 8} more kinds" if len(said) > 8 else "")


def _advice(unread: dict[str, str]) -> str:
    if "DICOM" in unread.values():
        return "Read DICOM files with --source dicom; convert others to PNG or JPEG."
    packed = all("archive" in kind for kind in unread.values())
    return "Unpack them, or name one with --data." if packed else "Convert them to PNG or JPEG."


def _by_stem(held: Listing, names: Iterable[str], known: dict[str, str]) -> list[Finding]:
    """Add the locations of images to ``known`` by the names' stems; findings on files that are there twice."""
    copies, here = [], dict[str, str]()
    for name in names:
        location = held.location(name)
        if known.setdefault(stem(name), location) == location:
            here[stem(name)] = name
        elif stem(name) in here and held.same(here[stem(name)], name):
            copies.append(name)
        else:
            raise DataError(
                f'Two files are called "{stem(name)}": {known[stem(name)]} and {location}.',
                "They differ. Point --data at a folder that holds one of them.",
            )
    say = f"{_number(copies)} there a second time, under the same name with the same bytes; one of each is read."
    return finding("files that are there twice", "note", copies, say)
