"""A sheet of what the pre-processing makes of images: before, and after each step."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from moulage import runs
from moulage.data import images, pixel_writer
from moulage.data.catalog import Catalog
from moulage.data.filters import Filters
from moulage.recipe import Recipe
from moulage.stages.data import Prepared, filters_of

TILE = 150
"""Side in pixels of a picture on the sheet; what is not square keeps its shape inside."""
LINE, GAP = 14, 4
MOST_COLUMNS = 12


def preview(recipe: Recipe, prepared: Prepared, run: Path, number: int, seed: int = 0) -> Path:
    """Write ``preview.png``: images drawn at random, then for each step those that it changes most.

    Args:
        recipe: with ``data.steps``.
        prepared: its data.
        run: folder that gets the sheet.
        number: images drawn at random, and images a step.
        seed: of the draw.

    Returns:
        Path of the sheet.

    """
    filters = filters_of(recipe)
    catalog, scan = prepared.catalog, prepared.pixels.scan
    changed = np.stack(scan["changed"][prepared.pixels.rows(catalog.images)].to_list())
    drawn = np.random.default_rng(seed).permutation(len(catalog))[:number]
    groups = {"at random": drawn}
    for column, (name, _) in enumerate(filters.chosen):
        most = np.argsort(-changed[:, column], kind="stable")[:number]
        groups[f"most changed by {name}"] = most[changed[most, column] > 0]
    sheet = _sheet(catalog, filters, groups)
    path = run / "preview.png"
    with runs.atomic(path) as temporary:
        sheet.save(temporary, "PNG")
    return path


def changes(recipe: Recipe, prepared: Prepared) -> list[dict[str, object]]:
    """For each step of the recipe the share of images that it changed, and by how much in the mean of those."""
    if not recipe.data.steps:
        return []
    values = np.stack(prepared.pixels.scan["changed"][prepared.pixels.rows(prepared.catalog.images)].to_list())
    rows = []
    for name, column in zip((name for name, _ in filters_of(recipe).chosen), values.T, strict=True):
        some = column > 0
        mean = f"{column[some].mean():.1%}" if some.any() else "-"
        rows.append({"step": name, "images changed": f"{some.mean():.1%}", "mean change of those": mean})
    return rows


def _sheet(catalog: Catalog, filters: Filters, groups: dict[str, np.ndarray]) -> Image.Image:
    width = len(filters.chosen) + 1
    across = max(1, MOST_COLUMNS // width)
    heights = {title: LINE + -(-len(rows) // across) * (TILE + LINE) for title, rows in groups.items()}
    sheet = Image.new("RGB", (across * (width * (TILE + 1) + GAP), sum(heights.values()) + LINE), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    with images.Reader() as reader:
        for title, rows in groups.items():
            pen.text((0, top), title if len(rows) else f"{title}: none", fill="black")
            for place, row in enumerate(rows):
                left = place % across * (width * (TILE + 1) + GAP)
                y = top + LINE + place // across * (TILE + LINE)
                for column, (words, picture) in enumerate(_stages(reader, catalog, int(row), filters)):
                    x = left + column * (TILE + 1)
                    pen.text((x, y), words, fill="black")
                    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
                    sheet.paste(picture, (x, y + LINE))
            top += heights[title]
    pen.text((0, top), "Each: the image as it is stored, then after each step.", fill="black")
    return sheet


def _stages(reader: images.Reader, catalog: Catalog, row: int, filters: Filters) -> list[tuple[str, Image.Image]]:
    """The image and what each step makes of it, enlarged to a tile where smaller, with a word and a number each."""
    place, mask = (str(catalog.table[column][row]) for column in ("location", "mask"))
    item = pixel_writer.Item(catalog.resolve(place), catalog.resolve(mask) if mask else "")
    if images.is_array(item.image):
        picture = Image.fromarray(reader.array(item.image)).convert("RGB")
    else:
        data = reader.bytes(item.image)
        picture = images.pictures(data, images.header(data), [2 * TILE])[0]
    stages = [(str(catalog.table["label"][row]), picture)]
    outcome = filters.apply(np.asarray(picture), pixel_writer.read_mask(reader, item.mask) if item.mask else None)
    for (name, _), (after, _) in zip(filters.chosen, outcome, strict=True):
        stages.append((f"{name} {after.share:.2f}", Image.fromarray(after.image)))
    return [(words[: TILE // 6], _at_least(picture, TILE)) for words, picture in stages]


def _at_least(picture: Image.Image, side: int) -> Image.Image:
    factor = max(1.0, side / max(picture.size))
    return picture.resize((max(1, round(factor * picture.width)), max(1, round(factor * picture.height))))
