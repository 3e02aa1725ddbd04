"""Contact sheets: every picture is where it belongs, and nothing is drawn over another."""

import numpy as np
import pytest
from PIL import Image

from moulage import sheets

RED = (200, 0, 0)


def places(sheet: Image.Image) -> tuple[list[int], int]:
    """The top left corner of what is red (row, column), and how many pixels are."""
    red = np.argwhere((np.asarray(sheet) == RED).all(axis=2))
    return red.min(axis=0).tolist(), len(red)


def test_a_grid_places_images_row_by_row():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[2] = RED
    sheet = sheets.grid(images, 2, gap=1)
    assert sheet.size == (9, 9)
    assert places(sheet) == ([5, 0], 16)
    assert (np.asarray(sheet)[5:, 5:] == 255).all()


def test_items_lie_under_their_titles_with_their_words_above():
    black, red = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), RED, np.uint8)
    pairs = [[(str(i), black), ("", red if i == 7 else black)] for i in range(1, 8)]
    first = sheets.paint({"": pairs}, 32, 6)
    assert places(first) == ([sheets.LINE + 36 + sheets.LINE, 33], 32 * 32), "the first of the second row"
    second = sheets.paint({"some": pairs[:1], "none": [], "more": pairs[6:]}, 32, 6, note="words")
    below = 3 * sheets.LINE + (sheets.LINE + 36) + sheets.LINE
    assert places(second) == ([below, 33], 32 * 32)
    assert second.height == below + 36 + sheets.LINE
    dark = np.asarray(second).min((1, 2)) < 100
    assert dark[: sheets.LINE].any(), "a title"
    assert dark[-sheets.LINE :].any(), "the note"


@pytest.mark.parametrize(("shape", "shown"), [((8, 16), (16, 32)), ((64, 128), (16, 32)), ((40, 20), (32, 16))])
def test_a_picture_fills_its_tile_and_keeps_its_shape(shape, shown):
    picture = Image.fromarray(np.full((*shape, 3), RED, np.uint8))
    assert places(sheets.paint({"": [[("", picture)]]}, 32, 1)) == ([0, 0], shown[0] * shown[1])
