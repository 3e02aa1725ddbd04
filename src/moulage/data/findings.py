"""What is wrong with a data set, or worth knowing of it: what sources and the audit find."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

NUM_NAMED = 20
"""Images that a finding names; the quarantine names all of its own."""

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    kind: str  # what it is, such as ``truncated image``
    severity: Severity  # ``error`` (images are quarantined or the split will fail), ``warning``, ``note``
    num_images: int  # how many images, or files, it concerns
    images: tuple[str, ...]  # the names of the first ``NUM_NAMED`` of them
    message: str  # one sentence
    advice: str = ""  # what to do; may be empty


def finding(kind: str, severity: Severity, names: Iterable[str], message: str, advice: str = "") -> list[Finding]:
    """A finding on these images or files; none where there are none."""
    listed = [str(name) for name in names]
    return [Finding(kind, severity, len(listed), tuple(listed[:NUM_NAMED]), message, advice)] if listed else []
