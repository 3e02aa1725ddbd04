"""What several filters use: OpenCV, painting over, pieces that hang together."""

from typing import Any

import numpy as np
from scipy import ndimage

from moulage.errors import RecipeError

INSTALL = "pip install 'moulage[preprocessing]'"


def library() -> Any:
    """The module ``cv2``, on one thread; ``RecipeError`` where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise RecipeError(f"This step needs OpenCV: {error}.", INSTALL) from None
    cv2.setNumThreads(1)
    return cv2


def check_installed() -> None:
    """Raise ``RecipeError`` where OpenCV is not installed; what ``Filters.of`` asks a plug-in that needs it."""
    library()


def painted_over(image: np.ndarray, where: np.ndarray, radius: float) -> np.ndarray:
    """The image uint8 [H, W, 3] with the pixels of ``where`` bool [H, W] filled in from around them.

    Telea 2004, An image inpainting technique based on the fast marching method, J. Graphics Tools 9.
    """
    cv2 = library()
    return cv2.inpaint(np.ascontiguousarray(image), where.astype(np.uint8), radius, cv2.INPAINT_TELEA)


def pieces(where: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of the piece, from 1, of each pixel of ``where`` bool [H, W] (0: of none), and how many pieces there are.

    Pixels that touch, if only by a corner, are of one piece.
    """
    found: Any = ndimage.label(where, np.ones((3, 3)))
    return np.asarray(found[0]), int(found[1])
