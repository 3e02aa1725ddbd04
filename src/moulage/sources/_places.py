"""Where the files are that the cells of somebody's table name: as written, by name below a folder, or in ZIPs there."""

import os
import posixpath
from pathlib import Path

from moulage.data import locations
from moulage.errors import DataError
from moulage.sources import _files
from moulage.sources._groups import Names


class Places:
    """Finds files for cells: a path from ``root`` on, an absolute one, or a name with or without suffix.

    What is there as it is written counts. Only where it is not, ``root`` is listed, once, and files are found by name
    as ``_groups.Names`` says; only where that fails, the ZIPs below ``root`` are looked into. Locations are relative to
    ``root`` where what is written is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.by_name = False  # whether a file was not found as it was written
        self._held: _files.Listing | None = None
        self._files: Names | None = None
        self._packed: tuple[Names, dict[str, str]] | None = None

    def meant(self, text: str) -> list[str]:
        """The locations that a cell may mean, sorted; none where there is no such file. ``DataError``: odd names."""
        if found := self._as_written(text):
            return [found]
        self.by_name = True
        names = self.files
        if found := names.meant(text):
            return [self.held.location(name) for name in found]
        names, places = self._zips()
        return [places[name] for name in names.meant(text)]

    def one(self, text: str, where: str, row: object) -> str:
        """The location that a cell means; empty where there is none. ``DataError`` where it may mean several."""
        found = self.meant(text)
        if len(found) > 1:
            raise DataError(
                f'{where}, row {row}: "{text}" may be {" or ".join(found[:3])}.',
                f"Write the path from {self.root} on.",
            )
        return found[0] if found else ""

    @property
    def held(self) -> _files.Listing:
        """What lies below the root; listed when it is asked for the first time."""
        if self._held is None:
            self._held = _files.listing(self.root)
        return self._held

    @property
    def files(self) -> Names:
        """The pictures below the root, by name."""
        if self._files is None:
            self._files = Names(_files.sort_out(self.held)[0])
        return self._files

    def _as_written(self, text: str) -> str:
        path, inside = locations.split(text)
        if not path or not os.path.isfile(self.root / path):  # noqa: PTH113  pathlib raises where a cell is too long
            return ""
        if why := locations.why_not(path):
            raise DataError(f"{self.root}: the file name {locations.shown(path)} {why}.", "Rename it.")
        return locations.join(posixpath.normpath(path), inside)

    def _zips(self) -> tuple[Names, dict[str, str]]:
        if self._packed is None:
            places: dict[str, str] = {}
            for name in self.held.stored:
                if _files.suffix(name) == ".zip":
                    packed = _files.listing(self.root / name)
                    for inner in _files.sort_out(packed)[0]:
                        places[f"{name}/{inner}"] = locations.join(name, packed.stored[inner])
            self._packed = Names(places), places
        return self._packed
