"""What a reader test found: frozen types, which ``dataclasses.asdict`` and ``runs.to_json`` make JSON of.

A number that does not exist is None, never NaN. Sentences stand where their numbers are.
"""

from dataclasses import dataclass
from typing import Literal

from moulage.evaluation.readers.agreement import Agreement
from moulage.evaluation.readers.detection import Rate
from moulage.evaluation.readers.estimates import Covariance
from moulage.evaluation.readers.obuchowski_rockette import Inferred
from moulage.evaluation.verdict import p_text

Answer = Literal["told", "told, within the margin", "not told", "open", "no interval"]
"""``not told``: shown to be within the margin of 0.5. ``open``: neither that nor another AUC than 0.5 is shown."""
CHANCE = 0.5


@dataclass(frozen=True, kw_only=True)
class OfReader:
    """One reader and the images of one source; the intervals are of this reader, with the lesions as chance."""

    reader: str
    source: str
    num_generated: int
    num_real: int
    auc: Inferred
    d_prime: Inferred
    criterion: Inferred
    real_called_generated: Rate
    generated_called_real: Rate


@dataclass(frozen=True, kw_only=True)
class OfSource:
    """Can readers tell the images of one source from real ones? Means over readers."""

    source: str
    check: bool  # not asked about, but to see that the test works: noise, copies
    readers: tuple[str, ...]
    auc: Inferred
    low_90: float | None  # 90 % interval: within the margin where the two one-sided tests at 5 % say so
    high_90: float | None
    margin: float
    p_value: float | None  # two-sided, of AUC 0.5
    p_adjusted: float | None  # after Holm, over the sources that are no check
    p_equivalence: float | None  # of an AUC outside 0.5 +- margin
    p_equivalence_adjusted: float | None
    answer: Answer
    d_prime: Inferred
    criterion: Inferred
    real_called_generated: Inferred
    generated_called_real: Inferred

    @property
    def statement(self) -> str:
        """All of this in a sentence."""
        who = "Readers" if self.auc.readers_random else f"Reader {self.readers[0]}"
        said = f"{who} {self._says()}"
        return said if self.auc.readers_random else f"{said} One reader says nothing of others."

    def _says(self) -> str:
        many, images = self.auc.readers_random, f"images of {self.source}"
        if self.p_adjusted is None or self.p_equivalence_adjusted is None:
            return f"had AUC {self.auc.value:.2f} for {images}, without any variation: no interval can be given."
        found, differs = f"AUC {interval(self.auc)}", p_text(self.p_adjusted)
        within, equivalent = f"{CHANCE:g} ± {self.margin:g}", p_text(self.p_equivalence_adjusted)
        if self.answer == "not told":
            return (
                f"cannot tell {images} from real ones by more than the margin: AUC {self.auc.value:.2f}, 90 % interval "
                f"[{self.low_90:.2f}, {self.high_90:.2f}], lies within {within} (two one-sided tests, {equivalent})."
            )
        if self.answer == "open":
            return (
                f"may or may not be able to tell {images} from real ones: {found} neither is shown to differ from "
                f"{CHANCE:g} ({differs}) nor to lie within {within} ({equivalent}). More readers or items are needed."
            )
        more = f", but by less than the margin of {self.margin:g}" if self.answer == "told, within the margin" else ""
        if self.auc.value > CHANCE:
            return f"{'tell' if many else 'tells'} {images} from real ones{more}: {found}, {differs}."
        wrong = f"{'see' if many else 'sees'} a difference, but the wrong way round{more}"
        return f"{wrong}: {images} pass for real more readily than real ones ({found}, {differs})."


@dataclass(frozen=True, kw_only=True)
class Difference:
    """AUC of one source minus that of another, of the readers that judged both."""

    first: str
    second: str
    auc: Inferred
    p_value: float | None
    p_adjusted: float | None  # after Holm, over all pairs


@dataclass(frozen=True, kw_only=True)
class SelfAgreement:
    """What a reader said the second time, with the first answer to the same image."""

    reader: str
    same_call: Rate  # real or generated, both times
    mean_steps: float | None  # mean distance of the two confidences, in steps


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Change of the share of right calls from the first answer of the session to the last."""

    reader: str  # empty: mean over readers
    change: Inferred


@dataclass(frozen=True, kw_only=True)
class DiagnosisOfReader:
    """How often one reader's diagnosis was the class of the image."""

    reader: str
    source: str
    right: Rate


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Diagnosis accuracy on the images of one source, mean over readers; and that on real ones taken off."""

    source: str
    right: Inferred
    minus_real: Inferred | None  # None for the real images
    p_value: float | None  # of no difference


@dataclass(frozen=True, kw_only=True)
class ReaderStudy:
    """Everything that ``score`` finds in a table of answers."""

    num_readers: int
    num_items: int
    num_answers: int  # without repeats
    median_seconds: float | None  # an answer
    covariance: Covariance
    margin: float
    of_readers: tuple[OfReader, ...]
    sources: tuple[OfSource, ...]
    differences: tuple[Difference, ...]
    agreements: tuple[Agreement, ...]
    self_agreements: tuple[SelfAgreement, ...]  # empty without repeats
    learning: tuple[Learning, ...]  # the mean first; empty without positions
    diagnoses: tuple[Diagnosis, ...]  # empty without diagnoses and classes
    diagnoses_of_readers: tuple[DiagnosisOfReader, ...]
    notes: tuple[str, ...]


def interval(found: Inferred | Rate | Agreement, digits: int = 2, signed: bool = False) -> str:
    """``0.61 [0.50, 0.72]``; a dash where there is no number."""
    value = found.alpha if isinstance(found, Agreement) else found.share if isinstance(found, Rate) else found.value
    if value is None:
        return "–"
    form = f"{'+' if signed else ''}.{digits}f"
    if found.low is None or found.high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{found.low:{form}}, {found.high:{form}}]"
