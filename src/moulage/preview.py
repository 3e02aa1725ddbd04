"""A sheet of what the pre-processing makes of images: before, and after each step."""

from pathlib import Path

import numpy as np
from PIL import Image

from moulage import runs, sheets
from moulage.data import images, locations, mask_files, pixel_writer
from moulage.data.catalog import Catalog
from moulage.data.filters import Filters
from moulage.data.reader import Reader
from moulage.recipe import Recipe
from moulage.stages.data import Prepared, filters_of

TILE = 150
"""Side in pixels of a picture on the sheet; what is not square keeps its shape inside."""
MOST_COLUMNS = 12
"""Pictures side by side, where an image and its filters are fewer."""


def preview(recipe: Recipe, prepared: Prepared, run: Path, number: int, seed: int = 0) -> Path:
    """Write ``run/preview.png``: ``number`` images drawn at random, then for each step those that it changes most."""
    filters, catalog, changed = filters_of(recipe), prepared.catalog, _changed(prepared)
    drawn = np.random.default_rng(seed).permutation(len(catalog))[:number]
    groups = {"at random": drawn}
    for column, (name, _) in enumerate(filters.chosen):
        most = np.argsort(-changed[:, column], kind="stable")[:number]
        groups[f"most changed by {name}"] = most[changed[most, column] > 0]
    with Reader() as reader:
        shown = {
            title if len(rows) else f"{title}: none": [_stages(reader, catalog, int(row), filters) for row in rows]
            for title, rows in groups.items()
        }
    across = max(1, MOST_COLUMNS // (len(filters.chosen) + 1))
    sheet = sheets.paint(shown, TILE, across, note="Each: the image as it is stored, then after each step.")
    path = run / "preview.png"
    with runs.atomic(path) as temporary:
        sheet.save(temporary, "PNG")
    return path


def changes(recipe: Recipe, prepared: Prepared) -> list[dict[str, object]]:
    """For each step of the recipe the share of images that it changed, and by how much in the mean of those."""
    if not recipe.data.steps:
        return []
    rows: list[dict[str, object]] = []
    for (name, _), column in zip(filters_of(recipe).chosen, _changed(prepared).T, strict=True):
        some = column > 0
        mean = f"{column[some].mean():.1%}" if some.any() else "-"
        rows.append({"step": name, "images changed": f"{some.mean():.1%}", "mean change of those": mean})
    return rows


def _changed(prepared: Prepared) -> np.ndarray:
    """How much each filter changed each image of the catalog, float [N, number of filters]."""
    return np.stack(prepared.pixels.scan["changed"][prepared.pixels.rows(prepared.catalog.images)].to_list())


def _stages(reader: Reader, catalog: Catalog, row: int, filters: Filters) -> list[tuple[str, Image.Image]]:
    """The image and what each step makes of it, with a word and a number each."""
    place, mask = (str(catalog.table[column][row]) for column in ("location", "mask"))
    item = pixel_writer.Item(catalog.resolve(place), catalog.resolve(mask) if mask else "")
    if locations.is_array(item.image):
        picture = Image.fromarray(reader.array(item.image)).convert("RGB")
    else:
        data = reader.bytes(item.image)
        picture = images.pictures(data, images.header(data), [2 * TILE])[0]
    stages = [(str(catalog.table["label"][row]), picture)]
    known = mask_files.read_for(reader, item.mask, *picture.size).stored if item.mask else None
    outcome = filters.apply(np.asarray(picture), known)
    for (name, _), (after, _) in zip(filters.chosen, outcome, strict=True):
        stages.append((f"{name} {after.share:.2f}", Image.fromarray(after.image)))
    return [(words[: TILE // 6], picture) for words, picture in stages]
