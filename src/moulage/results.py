"""What a run's JSON files hold, typed. Keys that the report does not show are passed over; ``null`` means missing."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

Number = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]
"""A finite number, or None where it could not be computed (JSON ``null``, ``NaN`` or ``Infinity``)."""


class Record(BaseModel):
    """Base of all that stands in the JSON files."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )


class DataSet(Record):
    """One of several data sets: what was read, what the audit set aside, images kept of each class and in each part."""

    name: str
    source: str = ""
    weight: Number = None
    num_read: int = 0
    num_set_aside: int = 0
    counts: dict[str, int] = {}
    parts: dict[str, int] = {}


class Data(Record):
    """The data as their sources described them; ``data_sets`` where there are several."""

    name: str = "data"
    source: str = ""
    num_images: int | None = None
    note: str = ""
    data_sets: list[DataSet] = []


class Study(Record):
    """What was asked. ``smallest_effect`` is a fraction in 0..1, like every difference."""

    name: str
    question: str = ""
    seed: int | None = None
    num_trials: int = 1
    target_classes: list[str] = []
    primary: str = ""
    smallest_effect: Number = None
    classes: list[str]
    budget: Any = None
    data: Data = Data()


class Arm(Record):
    """One way to treat imbalance. ``extra`` are the added images of each class, ``num_distinct`` of them different.

    ``role`` is reference, rival, null, positive or synthetic; ``logit_adjustment`` its strength in each trial.
    """

    name: str
    role: str = ""
    balance: str = ""
    treatment: str = ""
    generator: str | None = None
    selection: str | None = None
    extra: dict[str, int] = {}
    num_real: int | None = None
    num_slots: int | None = None
    num_distinct: int | None = None
    images_seen: int | None = None
    logit_adjustment: list[Number] | None = None


class ClassScores(Record):
    """Scores of one class, fractions in 0..1; ``support`` is its number of images."""

    precision: Number = None
    recall: Number = None
    f1: Number = None
    support: int = 0
    auc: Number = None
    average_precision: Number = None


class Scores(Record):
    """Scores of one fit on one part; ``confusion[true][predicted]`` counts images, in the order of the classes."""

    num_images: int = 0
    accuracy: Number = None
    balanced_accuracy: Number = None
    auc: Number = None
    average_precision: Number = None
    expected_calibration_error: Number = None
    log_loss: Number = None
    classes: dict[str, ClassScores] = {}
    confusion: list[list[int]] = []


class Fit(Record):
    """One classifier: an arm in one trial."""

    arm: str
    trial: int
    folder: str = ""
    scores: dict[str, Scores] = {}


class Comparison(Record):
    """An arm against a reference under one measure; all but ``p_value`` in the unit of the measure."""

    arm: str
    reference: str
    measure: str
    estimate_arm: Number = None
    estimate_reference: Number = None
    difference: Number = None
    standard_error: Number = None
    degrees_of_freedom: Number = None
    low: Number = None
    high: Number = None
    cautious_low: Number = None
    cautious_high: Number = None
    p_value: Number = None
    num_trials: int | None = None
    num_arms: int | None = None
    num_images: int | None = None
    num_lesions: int | None = None
    num_lesions_by_class: dict[str, int] = {}
    method: str = ""
    notes: list[str] = []


class Declared(Record):
    """What was written down; ``arms`` maps an arm to its role, ``generators`` a generator to its plug-in.

    ``reserve`` is the share of the target classes' training lesions that was held back for the positive control.
    """

    primary: str = ""
    target_classes: list[str] = []
    smallest_effect: Number = None
    family: list[str] = []
    arms: dict[str, str] = {}
    generators: dict[str, str] = {}
    treatments: dict[str, str] = {}
    num_trials: int | None = None
    scheme: str = ""
    reserve: Number = None


class Registration(Record):
    """When the question was written down; ``before_test`` is None where the file does not say."""

    digest: str = ""
    date: str = ""
    before_test: bool | None = None
    declared: Declared = Declared()
    note: str = ""


class Verdict(Record):
    """What is said of an arm. ``references`` maps none, duplicates and rival to arms, None where there is none.

    Its sentences: ``statement`` (what was added, and the outcome), ``comparisons`` (one for each reference), ``refused``
    (why "helps" is not said although the numbers would allow it), ``missing`` (references without which nothing can be
    said to help), ``needed`` (what the study could see, and what it would take to see more), ``notes``.
    ``detectable`` is the smallest difference that the study would have found in 80 % of cases.
    """

    arm: str
    change: str = ""
    outcome: str = "not enough data"
    statement: str = ""
    comparisons: list[str] = []
    refused: str = ""
    missing: str = ""
    needed: str = ""
    notes: list[str] = []
    p_adjusted: Number = None
    equivalence_p_adjusted: Number = None
    references: dict[str, str | None] = {}
    detectable: Number = None


class Control(Record):
    """Whether a control (``role`` null or positive) did what it must; ``state``: behaves, misbehaves, not shown."""

    arm: str
    role: str = ""
    expected: str = ""
    state: str = "not shown"
    text: str = ""


class BestRival(Record):
    """The rival that validation chose; ``validation`` maps each rival to its mean score there."""

    arm: str
    measure: str = ""
    validation: dict[str, Number] = {}


class Power(Record):
    """What one comparison could detect: now, with other numbers of trials, with other multiples of the test lesions."""

    arm: str
    reference: str
    measure: str = ""
    standard_error: Number = None
    detectable: Number = None
    by_trials: list[tuple[float, Number]] = []
    by_size: list[tuple[float, Number]] = []


class Reliability(Record):
    """Calibration of an arm, all trials pooled: (mean confidence, accuracy, images) of each bin, and the mean gap."""

    arm: str
    bins: list[tuple[Number, Number, int]] = []
    error: Number = None


class SliceRow(Record):
    """One comparison on one slice, in the unit of the slice's measure."""

    arm: str
    reference: str = ""
    score: Number = None
    reference_score: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None


class Slice(Record):
    """A part of the test images under one measure; ``note`` says why it has no rows."""

    column: str
    value: str
    measure: str = ""
    num_images: int | None = None
    num_lesions: int | None = None
    rows: list[SliceRow] = []
    note: str = ""


class Trials(Record):
    """How often everything was repeated; ``random`` says in a sentence what differs between trials."""

    scheme: str = ""
    num_folds: int | None = None
    num_repeats: int | None = None
    num_trials: int | None = None
    random: str = ""


class Count(Record):
    """Images and lesions of one class in one part."""

    images: int = 0
    lesions: int = 0


class GeneratorRun(Record):
    """One generator in one trial, fitted on ``num_images``; ``gallery`` is the ``.npz`` with images to look at."""

    name: str
    plugin: str = ""
    trial: int = 0
    folder: str = ""
    classes: list[str] = []
    num_images: int | None = None
    gallery: str = ""


class Rule(Record):
    """What one rule of a selection did: ``came_in`` and ``dropped`` count images by class."""

    plugin: str
    config: dict[str, Any] = {}
    came_in: dict[str, int] = {}
    dropped: dict[str, int] = {}
    notes: list[str] = []


class SelectionRun(Record):
    """One selection in one trial, for ``arms``; ``pictures`` is the ``.npz`` with some of the images it dropped."""

    name: str
    trial: int = 0
    generator: str = ""
    network: str = ""
    arms: list[str] = []
    want: dict[str, int] = {}
    kept: dict[str, int] = {}
    rules: list[Rule] = []
    pictures: str = ""


class ClassFidelity(Record):
    """Scores of one class by one fit; see ``evaluation.fidelity.OfClass``."""

    num_generated: int = 0
    num_train: int = 0
    num_held_out: int = 0
    num_held_out_lesions: int = 0
    generated: dict[str, float | None] = {}
    floor: dict[str, float | None] = {}
    copies: dict[str, float | None] = {}
    expected_false_alarms: float | None = None

    def scores(self, of: str) -> dict[str, float | None]:
        """Those of ``generated``, ``floor`` or ``copies``."""
        return getattr(self, of)


class FidelityRun(Record):
    """How true the images of one generator's fit are; ``too_few`` says what other classes lack to be judged."""

    name: str
    trial: int = 0
    folder: str = ""
    features: str = ""
    num_drawn: int = 0
    size: int = 0
    small_sample: bool = False
    classes: dict[str, ClassFidelity] = {}
    too_few: dict[str, str] = {}
    closest: str = ""


class ExplanationGroup(Record):
    """Test images that were chosen for the reason that ``how`` gives; ``beside``: beside generated images."""

    title: str
    how: str = ""
    images: list[str] = []
    beside: bool = False


class HeatMap(Record):
    """A picture of what speaks for a class; ``is_empty`` where nothing does."""

    label: str
    file: str
    is_empty: bool = False


class ExplainedBy(Record):
    """What one arm's classifier said of an image; ``checks``: rank correlation with shuffled parts' maps."""

    arm: str
    predicted: str
    probability: Number = None
    probability_true: Number = None
    maps: list[HeatMap] = []
    checks: dict[str, Number] = {}


class Neighbour(Record):
    """A generated training image like a test image."""

    image: str
    label: str = ""
    file: str
    distance: Number = None


class ExplainedImage(Record):
    """A test image; ``change``: of the true class's log-probability, from the reference to the arm."""

    image: str
    lesion: str = ""
    label: str
    change: Number = None
    file: str
    arms: list[ExplainedBy] = []
    neighbours: list[Neighbour] = []


class Changed(Record):
    """How many test images' true class became more and less probable, and how many fits of each arm say so."""

    num_fits: int = 0
    raised: int = 0
    lowered: int = 0


class Check(Record):
    """Mean rank correlation of maps with those of shuffled weights."""

    mean: Number = None
    num_maps: int = 0


class Explanation(Record):
    """What ``moulage explain`` found of an arm in a trial; ``folder`` holds the pictures, ``fits`` the classifiers."""

    arm: str
    against: str = ""
    trial: int = 0
    folder: str
    fits: list[str] = []
    size: int = 0
    cells: dict[str, int] = {}
    no_maps: str = ""
    num_images: int = 0
    num_lesions: int = 0
    change: Changed = Changed()
    checks: dict[str, dict[str, Check]] = {}
    groups: list[ExplanationGroup] = []
    images: list[ExplainedImage] = []


class Explanations(Record):
    """``explanations/summary.json``."""

    explanations: list[Explanation] = []


class Cost(Record):
    """What one finished task took."""

    kind: str
    name: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    device: str = "cpu"


class Results(Record):
    """``results.json``."""

    study: Study
    command: str = ""
    date: str = ""
    answer: str = ""
    details: list[str] = []
    registration: Registration | None = None
    verdicts: list[Verdict] = []
    controls: list[Control] = []
    controls_missing: list[str] = []
    best_rival: BestRival | None = None
    trials: Trials = Trials()
    arms: list[Arm] = []
    fits: list[Fit] = []
    comparisons: list[Comparison] = []
    class_effects: list[Comparison] = []
    power: list[Power] = []
    reliability: list[Reliability] = []
    slices: list[Slice] = []
    slice_warnings: list[str] = []
    split: dict[str, dict[str, Count]] = {}
    split_digest: str = ""
    generators: list[GeneratorRun] = []
    selections: list[SelectionRun] = []
    fidelity: list[FidelityRun] = []
    cost: list[Cost] = []


class Finding(Record):
    """One thing that the audit found."""

    kind: str
    severity: str = ""
    num_images: int | None = None
    images: list[str] = []
    message: str = ""
    advice: str = ""


class NearDuplicate(Record):
    """Two images that may be one; an ``accepted`` pair stays in one part of the split."""

    first: str
    second: str
    accepted: bool = False


class ShownPair(NearDuplicate):
    """A near-duplicate of ``pairs.json``, with its number on the sheet ``pairs.png``."""

    number: int
    first_label: str
    second_label: str
    detail: float


class Audit(Record):
    """``audit.json``: ``quarantined`` maps an image to the reason, ``pairs`` are candidates for near-duplicates."""

    findings: list[Finding] = []
    quarantined: dict[str, str] = {}
    pairs: list[NearDuplicate] = []
