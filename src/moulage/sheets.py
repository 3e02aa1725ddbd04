"""Contact sheets: many images as one picture."""

import numpy as np
from PIL import Image


def grid(images: np.ndarray, num_columns: int, gap: int = 2) -> Image.Image:
    """One picture of uint8 images [n, S, S, 3], row by row, with a white gap in pixels between them."""
    num, side = len(images), images.shape[1] + gap
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows * side - gap, num_columns * side - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // num_columns * side, i % num_columns * side
        canvas[top : top + side - gap, left : left + side - gap] = image
    return Image.fromarray(canvas)
