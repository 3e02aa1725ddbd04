"""The tables of a recipe, one class each: their keys, types, defaults, and what within a table goes together."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from moulage.errors import nearest
from moulage.plugins import Options

Dose = Annotated[float, Field(gt=0, le=1000)]
Lesions = Annotated[int, Field(ge=1, le=1_000_000)]
METADATA = ("age", "sex", "site")
"""What is known of a patient, and may be read beside the image: columns of the catalog."""
NO_METADATA = {
    **dict.fromkeys(("label", "diagnosis", "dx"), "it is what is asked for"),
    "dx_type": "how a diagnosis was confirmed depends on the diagnosis",
    **dict.fromkeys(("image", "mask"), "it names one image"),
    "lesion": "it names one lesion",
    "group": "it names one lesion or patient",
    "patient": "it names one patient",
    **dict.fromkeys(
        ("source", "data_set", "attribution"),
        "it says where an image was collected, and collections differ in their diagnoses",
    ),
    "location": "a path may hold the class, and names one image",
    **dict.fromkeys(("official_part", "only_part"), "it is the part of the split"),
    **dict.fromkeys(
        ("origin", "split_digest", "seed"), "only generated images have it, so it tells them from real ones"
    ),
}
"""Columns that are refused as metadata, and why: they give away the label, an identity, or where an image is from."""


class StudyOptions(Options):
    """What the study asks."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the study and of its run folder.")
    question: str = Field("", description="The question in one sentence; the report opens with it.")
    seed: int = Field(0, ge=0, description="Every random number of the study derives from it.")
    num_trials: int = Field(
        3,
        ge=1,
        le=100,
        description="Independent fits of every arm; three are needed for intervals. With folds the split decides.",
    )
    target_classes: tuple[str, ...] = Field((), description="The rare classes that the study is about.")
    primary: str = Field(
        "mean_average_precision",
        description="The measure that the answer is about, over the target classes where it takes any.",
    )
    measures: tuple[str, ...] = Field(
        (), description="Further measures that arms are compared by, such as `auc:MEL`; see docs/compare.md."
    )
    smallest_effect: float = Field(
        0.02,
        gt=0,
        le=0.5,
        description="Smallest difference of the primary measure that would matter (0.02 = 2 points).",
    )
    family: tuple[str, ...] = Field(
        (), description="Arms over which p values are corrected (Holm); none: every arm that adds generated images."
    )
    logit_adjustment: bool = Field(
        False, description="Adjust every arm's logits by the classes' frequency, as strongly as validation wants it."
    )


class FilterOptions(Options):
    """One filter of the pre-processing."""

    plugin: str = Field(description="A preprocessing plug-in; `moulage list preprocessing` names them.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the preprocessing plug-in.")


class AlsoOptions(Options):
    """A further data set beside the main one; see docs/your-data.md."""

    source: str = Field(description="A source plug-in; `moulage list sources` names them.")
    path: Path | None = Field(None, description="Folder or file of these data.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the source plug-in.")
    classes: dict[str, str] = Field(
        default_factory=dict,
        description='Which of its classes is which of the main data\'s, as `AKIEC = "AK"`; `""` leaves a class out. '
        "One of the same name needs no entry; any other without one is left out.",
    )
    parts: Literal["train", "all"] = Field(
        "train", description="`train`: its images are trained on and nothing else; `all`: split like the main data's."
    )
    weight: float = Field(
        1.0, gt=0, le=1000, description="How often a classifier is shown an image of it, for once an image of weight 1."
    )


class DataOptions(Options):
    """Which data set, and how it is cut into squares."""

    source: str = Field("phantom", description="A source plug-in; `moulage list sources` names them.")
    path: Path | None = Field(
        None, description="Folder or file of the data; `--data` on the command line overrides it."
    )
    fit: Literal["squash", "crop", "pad"] = Field("squash", description="How images that are not square become square.")
    sizes: tuple[int, ...] = Field((), description="Sides in pixels to keep beside those that the plug-ins ask for.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the source plug-in.")
    steps: tuple[FilterOptions, ...] = Field((), description="Pre-processing of every image, in this order.")
    masks: Path | None = Field(
        None, description="Folder that `moulage masks predict` wrote: lesion masks in place of the data's own."
    )
    unknown: tuple[str, ...] = Field(
        (), description="Classes that nothing learns; `moulage unknown` scores how well their images are recognised."
    )

    also: dict[str, AlsoOptions] = Field(
        default_factory=dict, description="Further data sets, each in a table `[data.also.NAME]`."
    )

    @field_validator("also")
    @classmethod
    def _plain_names(cls, also: dict[str, AlsoOptions]) -> dict[str, AlsoOptions]:
        for name in also:
            if not is_plain(name):
                raise ValueError(f'"{name}": names of data sets are letters, digits, - and _')
        return also

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the further data sets, where they are not 1."""
        return {name: options.weight for name, options in self.also.items() if options.weight != 1}

    @model_validator(mode="after")
    def _masks_fit(self) -> "DataOptions":
        if self.masks and self.fit != "squash":
            raise ValueError(f'predicted masks fit images that are squashed, and fit is "{self.fit}"')
        return self


PATHS: Any = {"path": True, "also": {"__all__": {"path"}}}
"""Keys of ``[data]`` that say where data lie, and so decide nothing."""


class SplitOptions(Options):
    """How images become training, validation and test part; groups (lesions) never cross."""

    scheme: Literal["holdout", "official", "folds"] = Field(
        "holdout",
        description="`holdout` draws the parts; `official` keeps the data's own; `folds` tests on all images in turn.",
    )
    validation: float = Field(0.1, gt=0, lt=0.5, description="Share of the images for validation.")
    test: float = Field(
        0.2, gt=0, lt=0.9, description="Share of the images for the test; `official` and `folds` ignore it."
    )
    num_folds: int = Field(
        5, ge=2, le=50, description="`folds`: parts that are the test part in turn; each is a trial."
    )
    num_repeats: int = Field(1, ge=1, le=20, description="`folds`: how often the lesions are dealt into folds anew.")
    reserve: float = Field(
        0.0, ge=0, lt=1, description="Share of the target classes' training lesions held back for the arm `oracle`."
    )
    scarcity: dict[str, Lesions | tuple[Lesions, ...]] = Field(
        default_factory=dict,
        description="Lesions of a target class that stay in the training part, by class; the rest is held back. "
        "Several numbers, such as `{ BCC = [30, 60] }`, are several levels, each a run of its own.",
    )
    seed: int = Field(0, ge=0, description="Draws the parts; without folds every trial uses the same parts.")

    @model_validator(mode="after")
    def _folds_only(self) -> "SplitOptions":
        for name in ("num_folds", "num_repeats"):
            if self.scheme != "folds" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'{name} is for scheme = "folds", and the scheme is "{self.scheme}"')
        return self

    @model_validator(mode="after")
    def _one_reserve(self) -> "SplitOptions":
        if self.reserve and self.scarcity:
            raise ValueError("reserve and scarcity both say what is held back: give one of them")
        if len({len(numbers) for numbers in self.scarcity.values() if isinstance(numbers, tuple)}) > 1:
            raise ValueError("scarcity: give each class with several levels as many of them")
        for name, numbers in self.scarcity.items():
            if isinstance(numbers, tuple) and list(numbers) != sorted(set(numbers)):
                raise ValueError(f"scarcity.{name}: levels rise from the fewest lesions to the most")
            if numbers == ():
                raise ValueError(f"scarcity.{name}: there is no number")
        return self

    @property
    def levels(self) -> tuple[dict[str, int], ...]:
        """Lesions that stay by class, one entry a level of scarcity; none where nothing is made scarce."""
        number = max((len(each) for each in self.scarcity.values() if isinstance(each, tuple)), default=1)
        return tuple(
            {name: each[level] if isinstance(each, tuple) else each for name, each in self.scarcity.items()}
            for level in range(number if self.scarcity else 0)
        )

    @property
    def holds_back(self) -> bool:
        """Whether any lesion of the training part is held back."""
        return bool(self.reserve or self.scarcity)


class GeneratorOptions(Options):
    """A generator to fit on the training part."""

    plugin: str = Field(description="A generator plug-in; `moulage list generators` names them.")
    classes: tuple[str, ...] = Field(min_length=1, description="Classes to train on and to draw.")
    size: int = Field(64, ge=8, le=1024, description="Side of the images in pixels.")
    refit: Literal["trial", "study"] = Field(
        "trial",
        description="`trial` fits anew for each trial, so that intervals hold the generator's luck; `study` fits once.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the generator plug-in.")
    start: str = Field(
        "",
        description="Weights to go on from: a name from [generators], or a path: a generator's folder or its "
        "`weights.safetensors`.",
    )
    drawing: dict[str, Any] = Field(
        default_factory=dict,
        description="How its images are drawn, such as `{ guidance = 2.0 }`; decides nothing of the fit.",
    )


class RuleOptions(Options):
    """One rule of a selection."""

    plugin: str = Field(description="A selection plug-in; `moulage list selection` names them.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the selection plug-in.")


class SelectionOptions(Options):
    """Which of the images that a generator drew are kept."""

    rules: tuple[RuleOptions, ...] = Field(min_length=1, description="Applied in this order, each to what is left.")
    draw: float = Field(3.0, ge=1, le=100, description="Images drawn for each image that an arm wants to add.")
    features: dict[str, Any] = Field(
        default_factory=dict, description="The feature network that rules measure in; see docs/selection.md."
    )


class FidelityOptions(Options):
    """How true and how new the images of each generator are; nulls are not scored."""

    num_images: int = Field(
        256, ge=0, le=100_000, description="Images of each class that are drawn to be scored; 0: none is scored."
    )
    judge_images: int = Field(
        64,
        ge=0,
        le=10_000,
        description="Images of each class by whose KID to the validation part a fit chooses its weights; 0: the last.",
    )
    features: dict[str, Any] = Field(
        default_factory=dict, description="The feature network that is measured in; see docs/fidelity.md."
    )


class ClassifierOptions(Options):
    """The classifier that every arm trains."""

    plugin: str = Field("probe", description="A classifier plug-in; `moulage list classifiers` names them.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the classifier plug-in.")
    metadata: tuple[str, ...] = Field(
        (), description="What it reads of the patient beside the image: any of age, sex, site; see docs/classifiers.md."
    )

    @field_validator("metadata")
    @classmethod
    def _are_of_the_patient(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in NO_METADATA:
                raise ValueError(f'"{name}" is not for a classifier: {NO_METADATA[name]}. Valid: {", ".join(METADATA)}')
            if name not in METADATA:
                raise ValueError(f'"{name}" is no metadata of a patient. {nearest(name, METADATA)}')
        if len(set(names)) < len(names):
            raise ValueError("name each column once")
        return names


class ArmOptions(Options):
    """One way to treat the training part."""

    balance: str = Field(description="A balance plug-in; `moulage list balance` names them.")
    add: dict[str, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default_factory=dict, description="Images to add, by class."
    )
    ratio: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=dict, description="Images to add as a multiple of the class's training images, by class."
    )
    like: str = Field("", description="Add the same counts as this arm.")
    generator: str = Field("", description="For arms that add generated images: a name from [generators].")
    drawing: dict[str, Any] = Field(
        default_factory=dict,
        description="How images are drawn for this arm, over what `[generators.NAME] drawing` says; the fit is shared.",
    )
    samples: Path | None = Field(None, description="Instead of a generator: a folder that `moulage sample` wrote.")
    selection: str = Field("", description="Which of the generator's images are kept: a name from [selections].")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the balance plug-in.")
    treatment: str = Field(
        "", description="A balance plug-in that changes the training, beside the one that adds rows."
    )
    treatment_options: dict[str, Any] = Field(default_factory=dict, description="Options of the treatment.")
    logit_adjustment: bool | None = Field(None, description="For this arm, in place of study.logit_adjustment.")
    curve: str = Field("", description="Set by `[curves.NAME]`: the curve that the arm is a point of.")
    series: str = Field("", description="Set by `[curves.NAME]`: `real`, `copies`, or what draws the images.")
    dose: float = Field(
        0.0, description="Set by `[curves.NAME]`: images that are added, for one real image or to a class."
    )

    @model_validator(mode="after")
    def _one_way_to_count(self) -> "ArmOptions":
        if sum(map(bool, (self.add, self.ratio, self.like))) > 1:
            raise ValueError("give one of add, ratio, like")
        if self.generator and self.samples:
            raise ValueError("give generator or samples, not both")
        if self.selection and not self.generator:
            raise ValueError(f'selection "{self.selection}" chooses among drawn images, and there is no generator')
        if self.drawing and not self.generator:
            raise ValueError("drawing says how a generator's images are drawn, and there is no generator")
        if self.treatment_options and not self.treatment:
            raise ValueError("treatment_options are given, but no treatment")
        return self


class CurveOptions(Options):
    """Arms over a dose of added images: held-back real ones, copies, and those of each generator."""

    doses: tuple[Dose, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        min_length=1,
        max_length=12,
        description="Images that are added, for one real image.",
    )
    real_doses: tuple[Dose, ...] = Field(
        (), max_length=12, description="The same for held-back real images, where fewer are there; `doses` if left out."
    )
    images: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        (),
        max_length=12,
        description="Numbers of images to add to each class, in place of `doses`; `real_doses` are too.",
    )
    generators: tuple[str, ...] = Field((), description="Whose images are added: names from [generators].")
    selections: tuple[str, ...] = Field(
        ("",), min_length=1, description='For each generator: names from [selections]; `""` keeps all images.'
    )
    classes: tuple[str, ...] = Field(
        (), description="Classes that images are added to; the target classes if left out."
    )

    @model_validator(mode="after")
    def _rise(self) -> "CurveOptions":
        if self.images and "doses" in self.model_fields_set:
            raise ValueError("give doses (for one real image) or images (numbers of them), not both")
        for key in ("doses", "images", "real_doses"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{key} rise from the smallest to the largest, each once")
        for key in ("generators", "selections", "classes"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: name each once")
        return self


def is_plain(name: str) -> bool:
    """Whether a name is letters, digits, - and _."""
    return name.replace("-", "").replace("_", "").isalnum()
