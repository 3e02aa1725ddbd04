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
    """What one arm's classifier said of an image.

    Attributes:
        predicted: a class; ``probability`` is that of it, ``probability_true`` that of the true class.
        cells: cells a side of its maps; 0 where there are none.
        maps: for the true class, and for the predicted one if it is another.
        checks: shuffled part -> rank correlation of the predicted class's map with those of shuffled weights.
    """

    arm: str
    predicted: str
    probability: float
    probability_true: float
    cells: int
    maps: list[HeatMap]
    checks: dict[str, Number]


class Neighbour(Record):
    """A generated training image like a test image, and how far it is in the classifier's features."""

    image: str
    label: str
    file: str
    distance: float


class ExplainedImage(Record):
    """A test image.

    Attributes:
        change: of the true class's log-probability from the reference to the arm, nats; None without a reference.
        file: the picture, in the explanation's folder, as all files.
        no_maps: why there are none; empty where there are.
        neighbours: the nearest first.
    """

    image: str
    lesion: str
    label: str
    change: Number
    file: str
    no_maps: str
    arms: list[ExplainedBy]
    neighbours: list[Neighbour]


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
    """What was found of an arm in a trial.

    Attributes:
        against: the arm that it is compared with; empty for none.
        folder: of the pictures.
        fits: folders of the classifiers.
        size: pixels a side of the pictures.
        cells: arm -> cells a side of its maps.
        no_maps: why there are none; empty where there are.
        num_images, num_lesions: of the test part.
        checks: arm -> shuffled part -> mean over the images.
    """

    arm: str
    against: str
    trial: int
    folder: str
    fits: list[str]
    size: int
    cells: dict[str, int]
    no_maps: str
    num_images: int
    num_lesions: int
    change: Changed
    checks: dict[str, dict[str, Check]]
    groups: list[ExplanationGroup]
    images: list[ExplainedImage]


class Explanations(Record):
    """One record of every arm, reference and trial that was explained."""

    format: int = runs.FORMAT
    explanations: list[Explanation]


def load(run: Path) -> list[Explanation]:
    """What was explained in a run; nothing where nothing was.

    Raises:
        RunError: the file is not what this version writes.
    """
    return read(Explanations, run / FILE).explanations if (run / FILE).exists() else []
