"""What generators drew, how it was chosen, and how true it is: the records of one trial each."""

from typing import Any

from moulage.evaluation.fidelity import Scores
from moulage.evaluation.two_sample import Transfer
from moulage.results.record import Record


class GeneratorRun(Record):
    """One generator in one trial.

    Attributes:
        name: the recipe's name for it; ``plugin`` is what it is.
        classes, num_images: what it was fitted on.
        samples: folder of what was drawn for the arms; None where no arm adds any.
        gallery: ``.npz`` with images to look at (``stages.gallery``).
    """

    name: str
    plugin: str
    trial: int
    folder: str
    classes: list[str]
    num_images: int
    samples: str | None
    gallery: str | None


class Rule(Record):
    """What one rule of a selection did: ``came_in`` and ``dropped`` count images by class."""

    plugin: str
    config: dict[str, Any]
    came_in: dict[str, int]
    dropped: dict[str, int]
    notes: list[str]


class SelectionRun(Record):
    """One selection in one trial.

    Attributes:
        arms: that add what it kept.
        pictures: ``.npz`` with some of the images that it dropped (``stages.selection``).
        generator, network: whose images it judged, by which features.
        want, kept: images of each class that the arms add, and that are left of those drawn.
        rules: in their order.
    """

    name: str
    trial: int
    folder: str
    arms: list[str]
    pictures: str
    generator: str
    network: str
    want: dict[str, int]
    kept: dict[str, int]
    rules: list[Rule]


class ListedCopies(Record):
    """Near-copies among the generated images of a class: their ``rows``, the training images ``nearest``, distances.

    ``closest`` are (row, row of the training image, distance) of the closest pairs, near-copies or not.
    """

    threshold: float
    num_calibration: int
    rows: list[int]
    nearest: list[int]
    distance: list[float]
    closest: list[tuple[int, int, float]]


class ClassFidelity(Record):
    """What is said of one class: ``evaluation.fidelity.OfClass`` with its near-copies as lists."""

    num_generated: int
    num_train: int
    num_held_out: int
    num_held_out_lesions: int
    too_few: str
    generated: Scores | None
    floor: Scores | None
    copies: Scores | None
    near_copies: ListedCopies | None
    expected_false_alarms: float | None


class FidelityRun(Record):
    """How true the images of one generator's fit are: ``evaluation.fidelity.Fidelity`` of ``num_drawn`` images a class.

    Attributes:
        closest: ``.npz`` with the closest pairs of generated and training images.
        size: pixels a side.
        too_few: class -> what it lacks to be judged.
    """

    name: str
    trial: int
    folder: str
    closest: str
    num_drawn: int
    size: int
    too_few: dict[str, str]
    features: str
    classes: dict[str, ClassFidelity]
    overall: dict[str, dict[str, float]]
    transfer: Transfer | None
    small_sample: bool
