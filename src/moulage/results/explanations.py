"""What ``moulage explain`` found, typed: ``explanations/summary.json``."""

from pathlib import Path

from moulage import runs
from moulage.results.record import Number, Record, read

FILE = "explanations/summary.json"


class ExplanationGroup(Record):
    """Test images that were chosen for the reason that ``how`` gives.

    ``beside``: they are shown beside the generated training images that are most like them.
    """

    title: str
    how: str
    images: list[str]
    beside: bool


class HeatMap(Record):
    """A picture of what speaks for a class; ``is_empty`` where nothing does."""

    label: str
    file: str
    is_empty: bool


class ExplainedBy(Record):
    """What one arm's classifier said of an image."""

    arm: str
    predicted: str  # a class
    probability: float  # of that class
    probability_true: float  # of the true class
    cells: int  # cells a side of its maps; 0 where there are none
    maps: list[HeatMap]  # for the true class, and for the predicted one if it is another
    checks: dict[str, Number]  # shuffled part -> rank correlation of the predicted class's map with those of it


class Neighbour(Record):
    """A generated training image like a test image, and how far it is in the classifier's features."""

    image: str
    label: str
    file: str
    distance: float


class ExplainedImage(Record):
    """A test image."""

    image: str
    lesion: str
    label: str
    change: Number  # of the true class's log-probability from the reference to the arm, nats; None without a reference
    file: str  # the picture, in the explanation's folder, as all files
    no_maps: str  # why there are none; empty where there are
    arms: list[ExplainedBy]
    neighbours: list[Neighbour]  # the nearest first


class Changed(Record):
    """How many test images' true class became more and less probable, and how many fits of each arm say so."""

    num_fits: int
    raised: int
    lowered: int


class Check(Record):
    """Mean rank correlation of maps with those of shuffled weights, and the number of maps; None for no map."""

    mean: Number
    num_maps: int


class Explanation(Record):
    """What was found of an arm in a trial."""

    arm: str
    against: str  # the arm that it is compared with; empty for none
    trial: int
    folder: str  # of the pictures
    fits: list[str]  # folders of the classifiers
    size: int  # pixels a side of the pictures
    cells: dict[str, int]  # arm -> cells a side of its maps
    no_maps: str  # why there are none; empty where there are
    num_images: int  # of the test part, as ``num_lesions``
    num_lesions: int
    change: Changed
    checks: dict[str, dict[str, Check]]  # arm -> shuffled part -> mean over the images
    groups: list[ExplanationGroup]
    images: list[ExplainedImage]


class Explanations(Record):
    """One record of every arm, reference and trial that was explained."""

    format: int = runs.FORMAT
    explanations: list[Explanation]


def load(run: Path) -> list[Explanation]:
    """What was explained in a run, if anything was; ``RunError`` where the file is not what this version writes."""
    return read(Explanations, run / FILE).explanations if (run / FILE).exists() else []
