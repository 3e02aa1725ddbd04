"""What the audit says of pictures that were read, and are odd: blank, nearly so, of several pages, turned ..."""

import pandas as pd

from moulage.data import images
from moulage.data.findings import Finding, Severity, finding
from moulage.data.pixel_writer import OK

_SIXTEEN = "the fewest of 8, 10, 12, 14 and 16 that hold the brightest level, and shown in 8"
_SAID: dict[str, tuple[Severity, str, str]] = {
    images.BLANK: ("warning", "{} of one colour all over", "Look at them: nothing can be learned from them."),
    images.LOW_RANGE: (
        "warning",
        f"{{}} that span no more than {images.LEAST_RANGE} of 256 levels",
        "Look at them: so are 10 to 14 bits stored in 16, and a first page that is no picture.",
    ),
    images.SEVERAL_PAGES: ("note", "{} of several pages or frames; the first is used", "Save the page that you mean."),
    images.TRANSPARENT: ("note", "{} with transparent parts, which are black here", ""),
    images.TURNED: ("note", "{} turned as the EXIF orientation says", ""),
    **{
        f"{bits} bits in 16": ("note", f"{{}} of 16 bits taken to hold {bits}, {_SIXTEEN}", "")
        for bits in (8, 10, 12, 14)
    },
}
"""Remark -> severity, what is said of so many images, and what to do."""


def check(scan: pd.DataFrame) -> list[Finding]:
    """A finding for each of ``images.REMARKS`` that holds for a usable image of the scan."""
    if "remarks" not in scan:
        return []
    usable = scan[(scan["status"] == OK) & (scan["remarks"] != "")]
    found: list[Finding] = []
    for remark, (severity, words, advice) in _SAID.items():
        named = usable["image"][[remark in said.split("; ") for said in usable["remarks"]]]
        number = f"{len(named):,} image{'' if len(named) == 1 else 's'}"
        found += finding(remark, severity, named, f"{words.format(number)}.", advice)
    return found
