"""What a study found, typed: ``results.json``. It is written once, and read by the report and by whoever uses moulage.

Fractions are 0..1 and differences of fractions; only where a measure is the log-loss its unit is nats. Folders and
files are named from the run folder. What was computed elsewhere stands here as it was: ``Comparison``, ``Control`` and
``Worth``.
"""

from pathlib import Path

from pydantic import model_validator

from moulage import runs
from moulage.errors import RunError
from moulage.evaluation.compare import Comparison
from moulage.evaluation.verdict import Control
from moulage.evaluation.worth import Worth
from moulage.recipe_tables import StudyOptions
from moulage.results.generated import FidelityRun, GeneratorRun, SelectionRun
from moulage.results.record import Number, Record, read

FILE = "results.json"


class DataSet(Record):
    """One of several data sets."""

    name: str  # ``main``, or what the recipe calls it
    source: str  # the plug-in that read it
    weight: float  # how often a classifier is shown an image of it, for once an image of weight 1
    num_read: int  # images
    num_set_aside: int  # those of them that the audit did not keep
    counts: dict[str, int]  # kept images of each class
    parts: dict[str, int]  # kept images in each part of the first trial's split


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
    """What a study said beforehand that it would look at."""

    primary: str  # this and the next two: as in the recipe's ``study``
    target_classes: list[str]
    smallest_effect: float
    family: list[str]  # arms over which p is corrected
    arms: dict[str, str]  # arm -> role
    generators: dict[str, str]  # generator -> plug-in
    treatments: dict[str, str]  # arm -> its treatment, of those that have one
    num_trials: int
    scheme: str  # of the recipe's ``split``
    reserve: float  # share of the target classes' training lesions that was held back for the positive control
    scarcity: dict[str, int]  # lesions of a class that stayed in the training part, the others being held back
    settings: str  # digest of all else in the recipe that decides a result
    labels: str  # digests of what is known of the images, of their bytes, and of the parts that they are in
    images: str
    parts: str


class Registered(Record):
    """One declaration; ``before_test``: the test part had not been opened by then; ``note``: what it changed."""

    digest: str
    date: str
    before_test: bool
    declared: Declared
    software: dict[str, str]  # package -> version; ``code``: a digest of ours
    note: str


class Opened(Record):
    """Somebody read predictions for the test part: when, with which verb, and which file of the run came first."""

    date: str
    by: str
    what: str


class Registration(Registered):
    """The declaration that holds; earlier ones and openings, the oldest first; ``entry``: digest of the history."""

    history: list[Registered]
    opened: list[Opened]
    entry: str


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
    """One way to treat imbalance."""

    name: str
    role: str  # reference, rival, null, positive or synthetic
    balance: str  # what the recipe says
    treatment: str  # the same; empty for none
    use: str  # what is done with the images that it adds, in words such as ``in place of real ones``; empty for no more
    generator: str | None  # whose images it adds
    selection: str | None  # which of them
    curve: str  # of which curve, series and dose (as the recipe has it) the arm is a point; empty and 0 for others
    series: str
    dose: float
    num_real: int  # real training images, without those that left for others
    num_slots: int  # places for added images, the same in all arms
    extra: dict[str, int]  # added images of each class
    num_distinct: int  # different ones among them
    images_seen: int  # images shown in the whole training, the same in all arms
    strength: list[float]  # of its operating point in each trial; 0: the most probable class
    log_prior: list[float]  # log of the class shares [K] that the first trial was trained on
    notes: list[str]  # of the first trial's training


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
    """What is said of an arm."""

    arm: str
    change: str  # what it added, in words
    outcome: str  # the value of an ``evaluation.verdict.Outcome``
    statement: str  # what was added, the outcome and its p, as a sentence
    comparisons: list[str]  # a sentence for each reference
    refused: str  # which word is not said although the numbers would allow it, and why; empty otherwise
    missing: str  # references without which nothing can be said to help, as a sentence; empty where there are all
    needed: str  # what the study could see, and what it would take to see more; empty where unknown
    notes: list[str]  # sentences on what limits the verdict
    p_adjusted: Number  # of a difference, corrected for the family
    equivalence_p_adjusted: Number  # of equality, corrected alike
    references: dict[str, str]  # none, duplicates or rival (the hardest to beat) -> the arm that it was compared with
    # the smallest true gain that 80 % of such studies would call "helps"; None where no verdict is possible
    detectable: Number

    @property
    def text(self) -> list[str]:
        """All its sentences, in the order in which they are read."""
        told = [self.statement, *self.comparisons, self.refused, self.missing, self.needed, *self.notes]
        return list(filter(None, told))


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
    """All that a study found."""

    format: int = runs.FORMAT  # version of the file
    study: Study
    command: str  # the command that repeats the study
    date: str  # when this was written
    answer: str  # the answer in one line
    details: list[str]  # sentences on what did not go as the recipe wanted
    registration: Registration | None  # None where nothing was declared
    best_rival: BestRival | None  # None where the study has no rival
    trials: Trials
    arms: list[Arm]
    fits: list[Fit]  # a classifier for each arm and trial
    comparisons: list[Comparison]  # arms against references on the test part, under each measure
    controls: list[Control]  # how they did
    controls_missing: list[str]  # the usual ones that the study lacks
    verdicts: list[Verdict]  # on the arms of the family
    worths: list[Worth]  # of copies and generated images, at each dose of each curve
    class_effects: list[Comparison]  # comparisons in each class
    power: list[Power]
    reliability: list[Reliability]
    slices: list[Slice]  # comparisons on parts of the test images
    slice_warnings: list[str]  # what they warn of, in sentences
    split: dict[str, dict[str, Count]]  # part -> class -> its size, of the first trial
    split_digest: str
    generators: list[GeneratorRun]
    selections: list[SelectionRun]
    fidelity: list[FidelityRun]
    cost: list[Cost]

    @model_validator(mode="after")
    def _comes_after_its_question(self) -> "Results":
        if self.registration and self.date < self.registration.date:
            raise ValueError(f"the result is dated {self.date}, and was registered later, {self.registration.date}")
        return self

    def save(self, run: Path) -> None:
        """Write ``run/results.json``."""
        runs.write_json(run / FILE, self.model_dump(mode="json"))


def load(run: Path) -> Results:
    """Read ``run/results.json``.

    ``RunError``: the study is not finished, or the file is of another version or broken; the message names the place.
    """
    if not (run / FILE).exists():
        raise RunError(
            f"{run} has no {FILE}, so there is nothing to report yet.",
            "Run `moulage study` with this folder until it ends; it resumes where it stopped.",
        )
    return read(Results, run / FILE)
