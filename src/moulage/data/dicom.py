"""The picture of a DICOM file, without anything else that the file says.

Grey levels are shown as a viewer shows them: through the modality's table, then through the first window (PS3.3
C.11.2.1.2) or the table of values of interest; where there is neither, over all levels that the stored bits have.
MONOCHROME1 is turned so that bright is bright. Colours may be RGB, YBR or a palette, of 8 to 16 bits; the upper 8 are
kept. Several frames are refused.

No message repeats what stands in a file: its values may name a patient.
"""

import io
import warnings
from typing import Any

import numpy as np

from moulage.data.images import MAX_PIXELS, ImageError
from moulage.errors import DataError

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
ADVICE = "Export each frame as an image of its own, such as with dcm2img of DCMTK (+Fa)."


def as_image(data: bytes) -> bytes:
    """The ``picture`` of a DICOM file, known by its first bytes (PS3.10, 7.1); all other data as they are."""
    return picture(data) if data[128:132] == b"DICM" else data


def check_installed() -> None:
    """Raise ``DataError`` where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise DataError(
            "DICOM files are read by pydicom, which is not installed.", 'Run pip install "moulage[dicom]".'
        ) from None


def picture(data: bytes) -> bytes:
    """The picture of a DICOM file, as a grey PGM or a coloured PPM file of 8 bits.

    ``DataError``: pydicom is not installed. ``ImageError``: damaged, no picture, several frames, too many pixels, a
    compression that cannot be read here.
    """
    check_installed()
    import pydicom

    opened = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the file
        try:
            opened = pydicom.dcmread(io.BytesIO(data))
            _check(opened)
            shown = _shown(opened)
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001  pydicom and its decoders raise anything on broken files
            raise ImageError(
                f"the DICOM file cannot be decoded{_compression(opened)}: {type(error).__name__}"
            ) from None
    kind = 5 if shown.ndim == 2 else 6
    return b"P%d %d %d 255\n" % (kind, shown.shape[1], shown.shape[0]) + np.ascontiguousarray(shown).tobytes()


def _check(opened: Any) -> None:
    """Raise ``ImageError`` for what is not read, before anything is decoded."""
    if "Rows" not in opened or "PixelData" not in opened:
        raise ImageError("the DICOM file holds no picture")
    if int(opened.get("NumberOfFrames") or 1) > 1:
        raise ImageError(f"the DICOM file holds {int(opened.NumberOfFrames)} frames. {ADVICE}")
    if opened.Rows * opened.Columns > MAX_PIXELS:
        raise ImageError(
            f"{opened.Columns} x {opened.Rows} pixels are more than the {MAX_PIXELS // 10**6} million of a DICOM file",
            "bomb",
        )
    if not 8 <= opened.BitsStored <= 16 or opened.BitsAllocated not in (8, 16):
        raise ImageError(f"the DICOM file has {opened.BitsStored} bits a value; 8 to 16 are read")
    if opened.PhotometricInterpretation not in (*GREY, *COLOUR, PALETTE):
        raise ImageError("the DICOM file is neither grey nor RGB, YBR or of a palette")


def _shown(opened: Any) -> np.ndarray:
    """The picture, uint8 [H, W] or [H, W, 3]."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    if opened.PhotometricInterpretation == PALETTE:
        colours = apply_color_lut(pixel_array(opened), opened)
        return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours
    values = pixel_array(opened)  # YBR becomes RGB
    if opened.PhotometricInterpretation in COLOUR:
        return (values >> (opened.BitsStored - 8)).astype(np.uint8)
    share = np.clip(_brightness(values, opened), 0, 1)
    share = 1 - share if opened.PhotometricInterpretation == "MONOCHROME1" else share
    return np.round(share * 255).astype(np.uint8)


def _brightness(values: np.ndarray, opened: Any) -> np.ndarray:
    """Grey levels [H, W] as a share of the range that is shown; what lies outside it is below 0 or above 1."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    lowest = -(2 ** (opened.BitsStored - 1)) if opened.PixelRepresentation else 0
    ends = np.array([lowest, lowest + 2**opened.BitsStored - 1])
    table = _first(opened.get("ModalityLUTSequence"))
    values, ends = apply_modality_lut(values, opened), apply_modality_lut(ends, opened)
    if table is not None:
        ends = np.array([0, 2 ** int(table.LUTDescriptor[2]) - 1])
    centre, width = _first(opened.get("WindowCenter")), _first(opened.get("WindowWidth"))
    if centre is not None and width:
        return _windowed(values.astype(np.float64), float(centre), float(width), opened.get("VOILUTFunction"))
    interest = _first(opened.get("VOILUTSequence"))
    if interest is not None:
        return apply_voi(values, opened) / (2 ** int(interest.LUTDescriptor[2]) - 1)
    return (values - float(ends.min())) / (float(ends.max()) - float(ends.min()))


def _windowed(values: np.ndarray, centre: float, width: float, function: str | None) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 (linear, the default), C.11.2.1.3.1 (sigmoid) and C.11.2.1.3.2 (linear exact)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if width <= 1:  # a step
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _first(value: Any) -> Any:
    """The first of several values, the only one, or None."""
    if value is None or isinstance(value, str | float | int):
        return value
    return next(iter(value), None)


def _compression(opened: Any) -> str:
    """How the pixels are compressed, as part of a sentence."""
    name = getattr(getattr(getattr(opened, "file_meta", None), "TransferSyntaxUID", None), "name", "")
    return f" (its pixels are kept as {name})" if name and not name[:1].isdigit() else ""
