"""What a study found, typed: ``results.json``. It is written once, and read by the report and by whoever uses moulage.

Fractions are 0..1 and differences of fractions; only where a measure is the log-loss its unit is nats. Folders and
files are named from the run folder. What was computed elsewhere stands here as it was: ``Comparison``, ``Control``.
"""

from pathlib import Path

from moulage import runs
from moulage.errors import RunError
from moulage.evaluation.compare import Comparison
from moulage.evaluation.verdict import Control
from moulage.recipe_tables import StudyOptions
from moulage.results.generated import FidelityRun, GeneratorRun, SelectionRun
from moulage.results.record import Number, Record, read

FILE = "results.json"


class DataSet(Record):
    """One of several data sets.

    Attributes:
        name: ``main``, or what the recipe calls it.
        source: the plug-in that read it.
        weight: how often a classifier is shown an image of it, for once an image of weight 1.
        num_read, num_set_aside: images that were read, and those of them that the audit did not keep.
        counts: kept images of each class.
        parts: kept images in each part of the first trial's split.
    """

    name: str
    source: str
    weight: float
    num_read: int
    num_set_aside: int
    counts: dict[str, int]
    parts: dict[str, int]


class Data(Record):
    """The data as their source describes them; ``num_images`` were kept, ``data_sets`` is empty where there is one."""

    name: str
    source: str
    num_images: int
    note: str
    data_sets: list[DataSet]


class Study(StudyOptions):
    """What was asked (the recipe's ``study``), of which data, with which budget; "" is the recipe's own."""

    classes: tuple[str, ...]
    budget: str
    data: Data


class Declared(Record):
    """What a study said beforehand that it would look at.

    Attributes:
        primary, target_classes, smallest_effect: as in the recipe's ``study``.
        family: arms over which p is corrected.
        arms: arm -> role.
        generators: generator -> plug-in.
        treatments: arm -> its treatment, of those that have one.
        num_trials, scheme: of the recipe's ``split``.
        reserve: share of the target classes' training lesions that was held back for the positive control.
        settings: digest of all else that decides a result.
    """

    primary: str
    target_classes: list[str]
    smallest_effect: float
    family: list[str]
    arms: dict[str, str]
    generators: dict[str, str]
    treatments: dict[str, str]
    num_trials: int
    scheme: str
    reserve: float
    settings: str


class Registered(Record):
    """One declaration; ``before_test``: the test part had not been opened by then; ``note``: what it changed."""

    digest: str
    date: str
    before_test: bool
    declared: Declared
    note: str


class Registration(Registered):
    """The declaration that holds; ``history`` has earlier ones, the oldest first."""

    history: list[Registered]


class BestRival(Record):
    """The rival that validation chose; ``validation`` maps each rival to its mean score there."""

    arm: str
    measure: str
    validation: dict[str, float]


class Trials(Record):
    """How often everything was repeated; ``random`` says in a sentence what differs between trials.

    ``scheme`` is ``holdout`` or ``folds``; a hold-out has one fold and one repeat.
    """

    scheme: str
    num_folds: int
    num_repeats: int
    num_trials: int
    random: str


class Arm(Record):
    """One way to treat imbalance.

    Attributes:
        role: reference, rival, null, positive or synthetic.
        balance, treatment: what the recipe says; an empty treatment is none.
        generator, selection: whose images it adds, and which of them.
        num_real: real training images.
        num_slots: places for added images, the same in all arms.
        extra: added images of each class.
        num_distinct: different ones among them.
        images_seen: images shown in the whole training, the same in all arms.
        logit_adjustment: its strength in each trial; None where no trial was adjusted.
        log_prior: log of the shares [K] by which the first trial's logits were adjusted.
        notes: of the first trial's training.
    """

    name: str
    role: str
    balance: str
    treatment: str
    generator: str | None
    selection: str | None
    num_real: int
    num_slots: int
    extra: dict[str, int]
    num_distinct: int
    images_seen: int
    logit_adjustment: list[float | None] | None
    log_prior: list[float] | None
    notes: list[str]


class ClassScores(Record):
    """Scores of one class against the rest, None where undefined; ``support`` is its number of images."""

    precision: Number
    recall: Number
    f1: Number
    support: int
    auc: Number
    average_precision: Number


class Scores(Record):
    """Scores of one fit on one part, as ``evaluation.scores.scores`` gives them.

    ``confusion[true][predicted]`` counts images, in the order of the classes.
    """

    num_images: int
    accuracy: Number
    balanced_accuracy: Number
    auc: Number
    average_precision: Number
    expected_calibration_error: Number
    log_loss: Number
    classes: dict[str, ClassScores]
    confusion: list[list[int]]


class Fit(Record):
    """One classifier: an arm in one trial, with its scores on each part."""

    arm: str
    trial: int
    folder: str
    scores: dict[str, Scores]


class Verdict(Record):
    """What is said of an arm.

    Attributes:
        change: what it added, in words.
        outcome: the value of an ``evaluation.verdict.Outcome``.
        statement: what was added, the outcome and its p, as a sentence.
        comparisons: a sentence for each reference.
        refused: why "helps" is not said although the numbers would allow it; empty otherwise.
        missing: references without which nothing can be said to help, as a sentence; empty where there are all.
        needed: what the study could see, and what it would take to see more; empty where unknown.
        notes: sentences on what limits the verdict.
        p_adjusted, equivalence_p_adjusted: of a difference and of equality, corrected for the family.
        references: none, duplicates or rival -> the arm that it was compared with.
        detectable: the smallest difference that 80 % of such studies would find, whichever the reference.
    """

    arm: str
    change: str
    outcome: str
    statement: str
    comparisons: list[str]
    refused: str
    missing: str
    needed: str
    notes: list[str]
    p_adjusted: Number
    equivalence_p_adjusted: Number
    references: dict[str, str]
    detectable: Number

    @property
    def text(self) -> list[str]:
        """All its sentences, in the order in which they are read."""
        forbidden = f"The numbers would allow the word helps, but a control forbids it. {self.refused}"
        refused = forbidden if self.refused else ""
        return list(filter(None, [self.statement, *self.comparisons, refused, self.missing, self.needed, *self.notes]))


class Power(Record):
    """What one comparison could detect: now, with other numbers of trials, and of test lesions.

    ``by_trials`` are (trials, detectable difference), ``by_size`` (multiple of the test lesions, the same).
    """

    arm: str
    reference: str
    measure: str
    standard_error: float
    detectable: Number
    by_trials: list[tuple[int, Number]]
    by_size: list[tuple[float, Number]]


class Reliability(Record):
    """Calibration of an arm, all trials pooled: (mean confidence, accuracy, images) of each bin, and the mean gap."""

    arm: str
    bins: list[tuple[float, float, int]]
    error: float


class SliceRow(Record):
    """One comparison on one slice."""

    arm: str
    score: float
    reference: str
    reference_score: float
    difference: float
    low: Number
    high: Number


class Slice(Record):
    """A part of the test images under one measure; ``note`` says why it has no rows, or what limits them."""

    column: str
    value: str
    num_images: int
    num_lesions: int
    measure: str
    rows: list[SliceRow]
    note: str


class Count(Record):
    """Images and lesions of one class in one part."""

    images: int
    lesions: int


class Cost(Record):
    """What one finished task took."""

    kind: str
    name: str
    device: str
    wall_seconds: float
    cpu_seconds: float


class Results(Record):
    """All that a study found.

    Attributes:
        format: version of the file.
        command: the command that repeats the study.
        date: when this was written.
        answer: the answer in one line.
        details: sentences on what did not go as the recipe wanted.
        registration: None where nothing was declared.
        best_rival: None where the study has no rival.
        fits: a classifier for each arm and trial.
        comparisons: arms against references on the test part, under each measure.
        controls, controls_missing: how controls did, and the usual ones that the study lacks.
        verdicts: on the arms of the family.
        class_effects: comparisons in each class.
        slices, slice_warnings: comparisons on parts of the test images, and what they warn of, in sentences.
        split: part -> class -> its size, of the first trial.
    """

    format: int = runs.FORMAT
    study: Study
    command: str
    date: str
    answer: str
    details: list[str]
    registration: Registration | None
    best_rival: BestRival | None
    trials: Trials
    arms: list[Arm]
    fits: list[Fit]
    comparisons: list[Comparison]
    controls: list[Control]
    controls_missing: list[str]
    verdicts: list[Verdict]
    class_effects: list[Comparison]
    power: list[Power]
    reliability: list[Reliability]
    slices: list[Slice]
    slice_warnings: list[str]
    split: dict[str, dict[str, Count]]
    split_digest: str
    generators: list[GeneratorRun]
    selections: list[SelectionRun]
    fidelity: list[FidelityRun]
    cost: list[Cost]

    def save(self, run: Path) -> None:
        """Write ``run/results.json``."""
        runs.write_json(run / FILE, self.model_dump(mode="json"))


def load(run: Path) -> Results:
    """Read ``run/results.json``.

    Raises:
        RunError: the study is not finished, or the file is of another version or broken; the message names the place.
    """
    if not (run / FILE).exists():
        raise RunError(
            f"{run} has no {FILE}, so there is nothing to report yet.",
            "Run `moulage study` with this folder until it ends; it resumes where it stopped.",
        )
    return read(Results, run / FILE)
