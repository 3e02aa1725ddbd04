"""What generators drew, how it was chosen, and how true it is: the records of one trial each."""

from typing import Any, Literal

from moulage.evaluation.fidelity import Scores
from moulage.evaluation.two_sample import Transfer
from moulage.results.record import Record


class GeneratorRun(Record):
    """One generator in one trial, and what was drawn from it in one way."""

    name: str  # the recipe's name for it; where an arm draws otherwise, with what differs: ``diffusion-guidance=2.0``
    generator: str  # the recipe's name for it
    drawing: dict[str, Any]  # options of drawing that are not as the plug-in has them
    edit: Literal["", "whole", "lesion", "surround"]  # what of training images was changed; empty: drawn from noise
    plugin: str  # what it is
    trial: int
    folder: str
    classes: list[str]  # what it was fitted on
    num_images: int  # how many it was fitted on
    samples: str | None  # folder of what was drawn for the arms; None where no arm adds any
    gallery: str | None  # ``.npz`` with images to look at (``stages.gallery``)


class Rule(Record):
    """What one rule of a selection did: ``came_in`` and ``dropped`` count images by class."""

    plugin: str
    config: dict[str, Any]
    came_in: dict[str, int]
    dropped: dict[str, int]
    notes: list[str]


class SelectionRun(Record):
    """One selection in one trial."""

    name: str
    trial: int
    folder: str
    arms: list[str]  # that add what it kept
    pictures: str  # ``.npz`` with some of the images that it dropped (``stages.selection``)
    generator: str  # whose images it judged
    network: str  # by which features
    want: dict[str, int]  # images of each class that the arms add
    kept: dict[str, int]  # those that are left of the drawn ones
    rules: list[Rule]  # in their order


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
    """How true a fitted generator's images are: ``evaluation.fidelity.Fidelity`` of ``num_drawn`` images a class."""

    name: str
    trial: int
    folder: str
    closest: str  # ``.npz`` with the closest pairs of generated and training images
    num_drawn: int
    size: int  # pixels a side
    too_few: dict[str, str]  # class -> what it lacks to be judged
    features: str
    classes: dict[str, ClassFidelity]
    overall: dict[str, dict[str, float]]
    transfer: Transfer | None
    small_sample: bool
