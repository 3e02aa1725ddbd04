"""Contact sheets: many images as one picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

LINE = 14
"""Height of a line of words in pixels."""

Item = Sequence[tuple[str, np.ndarray | Image.Image]]
"""Pictures side by side, each with the words above it (or none): uint8 [H, W, 3], or of PIL."""


def paint(groups: Mapping[str, Sequence[Item]], side: int, across: int, *, gap: int = 4, note: str = "") -> Image.Image:
    """Items row by row under the title of their group.

    Args:
        groups: items by title, from top to bottom; an empty title takes no place.
        side: pixels a side of a tile; a picture fills it as far as its shape lets it.
        across: items a row.
        gap: white pixels between items.
        note: words under all of them.
    """
    items = [item for group in groups.values() for item in group]
    words = LINE if any(text for item in items for text, _ in item) else 0
    width, height = max(map(len, items), default=1) * (side + 1) - 1 + gap, words + side + gap
    tops = np.cumsum([0, *(LINE * bool(title) + -(-len(group) // across) * height for title, group in groups.items())])
    size = across * width - gap, int(tops[-1]) + (LINE if note else -gap)
    canvas = Image.new("RGB", (size[0], max(1, size[1])), "white")
    pen = ImageDraw.Draw(canvas)
    for begin, (title, group) in zip(tops.tolist(), groups.items(), strict=False):
        pen.text((0, begin), title, "black")
        for place, item in enumerate(group):
            top = begin + LINE * bool(title) + place // across * height
            for column, (text, picture) in enumerate(item):
                left = place % across * width + column * (side + 1)
                pen.text((left, top), text, "black")
                picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
                canvas.paste(ImageOps.contain(picture, (side, side), Image.Resampling.LANCZOS), (left, top + words))
    pen.text((0, canvas.height - LINE), note, "black")
    return canvas


def grid(images: np.ndarray, num_columns: int, gap: int = 2) -> Image.Image:
    """Images uint8 [n, S, S, 3] as they are, row by row, with a white gap in pixels between them."""
    return paint({"": [[("", image)] for image in images]}, images.shape[1], num_columns, gap=gap)
