"""What a plug-in of each kind promises: protocols, and for each kind one typed object that knows what is optional.

A plug-in is a module found by file name (``plugins``). Here stands, once, what is asked of it. What a kind may have but
need not (a classifier that embeds, a generator that needs masks) is looked up here and nowhere else: everybody asks
``contracts.classifier("probe").embedding``, nobody asks a module whether it has an attribute. docs/plugins.md says the
same to whoever writes a plug-in; ``tests/test_contracts.py`` holds every plug-in against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from moulage import plugins, runs
from moulage.errors import RecipeError

if TYPE_CHECKING:
    from moulage.data.catalog import Catalog
    from moulage.data.filters import Filtered
    from moulage.data.training_view import Examples, TrainingView
    from moulage.selection import ImageSet, Judgement
    from moulage.treatment import Treatment

Role = Literal["reference", "rival", "null", "positive", "synthetic"]
"""What an arm is for."""
Edit = Literal["", "whole", "lesion", "surround"]
"""Which part of a training image is changed where images are drawn; empty: they are drawn from noise."""
Judge = Callable[[Callable[[int, np.ndarray], np.ndarray]], Mapping[str, float]]
"""Takes a generator's ``sample``, gives a score of each class; lower is better."""


class Generator(Protocol):
    """Learns images of some classes and draws new ones. ``Generator(config, classes, size)``; size: pixels a side."""

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
        judge: Judge | None = None,
    ) -> None:
        """Learn from images uint8 [N, S, S, 3] with labels int64 [N], which index the classes that were asked for.

        It checkpoints into ``folder`` and resumes from there exactly, logs to ``folder/log.jsonl`` and TensorBoard,
        writes preview grids, and calls the judge at each of them to end with the best weights. A plug-in with
        ``NEEDS_MASKS`` takes ``masks`` uint8 [N, S, S] as well. A ``Generator`` with ``TAKES_START`` takes ``start``,
        the folder of a finished fit, or a file of weights, and begins with these.

        Raises:
            DataError: arrays of the wrong kind, or a class without images.
            DivergedError, CollapsedError: it came to nothing.
            CheckpointError: the folder holds checkpoints of other settings or data.
        """
        ...

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """Images uint8 [n, S, S, 3] of one class; image i depends on ``seeds[i]`` (int64 [n]) alone.

        And on the attribute ``drawing`` of a plug-in with ``Drawing``: an object of it, the defaults until it is set.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what ``load`` needs."""
        ...

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Steps that a fit of so many images takes, and seconds a step (``devices.spent``), timed on a few of them."""
        ...


class Interpolates(Protocol):
    """A generator that draws what lies between the images of two seeds."""

    def between(self, label: int, first: np.ndarray, last: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Images uint8 [n, S, S, 3] on the ways from seeds ``first`` to ``last`` (int64 [n]).

        At ``shares`` (float [n]) 0 and 1 they are those of ``sample`` for the two seeds.
        """
        ...


class Edits(Protocol):
    """A generator that changes training images, where its options of drawing say so (``GeneratorPlugin.edit``)."""

    def edited(self, label: int, seeds: np.ndarray, parents: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """Images uint8 [n, S, S, 3] of one class, made of ``parents`` (such images too), one a seed and by it alone.

        ``masks`` uint8 [n, S, S] are lesion masks where a region is changed; the rest stays to the last bit.
        """
        ...


class Classifier(Protocol):
    """Learns to tell classes apart. ``Classifier(config, classes)``."""

    def fit(
        self,
        view: TrainingView,
        validation: Examples,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
        treatment: Treatment = ...,
    ) -> None:
        """Train on ``view.batches`` and nothing else; whatever is chosen is chosen on ``validation``.

        A loss counts as ``Batch.weights`` says; epochs after ``view.use.num_epochs(...)`` are those of ``view.last``.

        It logs an epoch a line to ``folder/log.jsonl``, with ``num_images`` that were seen, and resumes from there.

        Raises:
            RecipeError: it cannot do what the treatment asks for.
            DataError: inputs of the wrong kind or size.
            DivergedError, CheckpointError: as for generators.
        """
        ...

    def predict(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Logits float32 [N, K]; ``metadata`` float32 [N, M] where it was trained with them."""
        ...

    def features(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """What is under the head, float32 [N, D]."""
        ...

    def save(self, folder: Path) -> None:
        """Write what ``load`` needs."""
        ...

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """As for generators."""
        ...


class Explains(Protocol):
    """A classifier that tells where in an image it looked."""

    def attention(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        metadata: np.ndarray | None = None,
        *,
        shuffled: str = "",
        draw: int = 0,
    ) -> tuple[np.ndarray, int]:
        """Maps float32 [N, S, S] in -1..1 of what speaks for a class (int64 [N]) and against it; cells a side.

        ``pixels`` are uint8 [N, S, S, 3] even where ``predict`` reads embeddings. ``shuffled`` is ``"head"`` or
        ``"network"``: the same with those weights in random order number ``draw``.

        Raises:
            RecipeError: this network has no maps.
        """
        ...


class Module(Protocol):
    """Any plug-in: a module with the class of its options. These protocols say what a module must have."""

    @property
    def Config(self) -> type[plugins.Options]: ...


class GeneratorModule(Module, Protocol):
    """A generator plug-in. Optional: ``Drawing`` (``changes`` in it: ``Edits``), ``ROLE = "null"``, ``NEEDS_MASKS``."""

    @property
    def Generator(self) -> Callable[[Any, tuple[str, ...], int], Generator]: ...


class ClassifierModule(Module, Protocol):
    """A classifier plug-in. Optional: ``METADATA``, ``learns_masks``; ``embed``, ``embed_key``, ``embed_seconds``, and
    beside these ``embed_parts``.
    """

    @property
    def Classifier(self) -> Callable[[Any, tuple[str, ...]], Classifier]: ...


class SelectionModule(Module, Protocol):
    """A rule of selection; see the package ``selection``."""

    def select(
        self, config: Any, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator, /
    ) -> Judgement: ...


class SourceModule(Module, Protocol):
    """A layout of data: labels and file lists are read, no pixels. Optional: ``recognises(path) -> bool``."""

    def read(self, path: Path | None, config: Any, /) -> Catalog: ...


class PreprocessingModule(Module, Protocol):
    """One operation of the pre-processing. Optional: ``needs_mask(config)``, ``check_installed()``, ``VERSION``."""

    def apply(self, config: Any, image: np.ndarray, mask: np.ndarray | None, /) -> Filtered: ...


@dataclass(frozen=True)
class Plugin:
    """One plug-in: its name, and the class of its options."""

    name: str
    Config: type[plugins.Options]

    def configure(self, options: Mapping[str, Any], where: str = "") -> Any:
        """Its options, checked; ``where`` names the place in a recipe for messages."""
        return plugins.validate(self.Config, dict(options), where or self.name)


def explains(classifier: Classifier) -> Explains | None:
    """The classifier, if it tells where it looked."""
    return cast(Explains, classifier) if hasattr(classifier, "attention") else None


def interpolates(generator: Generator) -> Interpolates | None:
    """The generator, if it draws what lies between images."""
    return cast(Interpolates, generator) if hasattr(generator, "between") else None


def check_treatment(classifier: Classifier, treatment: Treatment) -> None:
    """Raise ``RecipeError`` where the classifier says, by a method of this name, that it cannot do this one."""
    found: Any = classifier
    if hasattr(classifier, "check_treatment"):
        found.check_treatment(treatment)


@dataclass(frozen=True)
class GeneratorPlugin(Plugin):
    """A generator. ``is_null``: its images must not help. ``needs_masks``: it draws from lesion masks.

    ``Drawing``: the class of its options of drawing. They decide nothing of a fit, which is drawn from in many ways.
    """

    Drawing: type[plugins.Options]
    Generator: Callable[[Any, tuple[str, ...], int], Generator]
    load: Callable[..., Generator]
    is_null: bool
    needs_masks: bool
    takes_start: bool  # whether a fit can go on from another one's weights

    def configure(self, options: Mapping[str, Any], where: str = "") -> Any:
        """As every plug-in's; an option of drawing is told where it belongs."""
        strange = [key for key in options if key in self.Drawing.model_fields and key not in self.Config.model_fields]
        if strange:
            raise RecipeError(
                f"{where or self.name}: {', '.join(strange)} says how images are drawn, not how {self.name} learns.",
                f"Give it in the generator's or an arm's table, as drawing = {{ {strange[0]} = ... }}, or to "
                f"`moulage sample` as --set {strange[0]}=...; the fit is the same.",
            )
        return super().configure(options, where)

    def drawing(self, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Its options of drawing, checked, each with its value."""
        return plugins.validate(self.Drawing, dict(options), where or f"{self.name}, drawing").model_dump(mode="json")

    def changed(self, drawing: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``drawing`` that are not as the plug-in has them by default."""
        plain = self.drawing({})
        return {key: value for key, value in drawing.items() if value != plain[key]}

    def edit(self, drawing: Mapping[str, Any]) -> Edit:
        """Which part of training images is changed by these options of drawing; it is ``Drawing.changes``."""
        return getattr(plugins.validate(self.Drawing, dict(drawing), f"{self.name}, drawing"), "changes", "")

    def draw_by(self, generator: Generator, drawing: Mapping[str, Any], where: str = "") -> None:
        """Tell a generator of this plug-in how to draw from now on.

        ``RecipeError``: it cannot draw so; one that knows what it can has ``check_drawing(drawing)``.
        """
        found: Any = generator
        found.drawing = plugins.validate(self.Drawing, dict(drawing), where or f"{self.name}, drawing")
        if hasattr(generator, "check_drawing"):
            found.check_drawing(found.drawing)


@dataclass(frozen=True)
class EmbeddingOf:
    """A frozen part of a classifier that each image passes once."""

    embed: Callable[..., np.ndarray]  # ``(config, pixels uint8 [N, S, S, 3], *, device, progress) -> float32 [N, D]``
    key: Callable[[Any], str]  # names the features of a config (network, weights, size); equal keys, equal features
    seconds: Callable[..., float]  # ``(config, num_images, device)``: what it will take
    # configs whose features, side by side, are those of a config: each is kept under its own key
    parts: Callable[[Any], tuple[Any, ...]]


@dataclass(frozen=True)
class ClassifierPlugin(Plugin):
    """A classifier. ``embedding``: where it reads embeddings in place of pixels; ``metadata``: whether it reads any."""

    Classifier: Callable[[Any, tuple[str, ...]], Classifier]
    load: Callable[..., Classifier]
    embedding: EmbeddingOf | None
    metadata: Literal["", "optional", "required"]
    learns_masks: Callable[[Any], bool]


@dataclass(frozen=True)
class BalancePlugin(Plugin):
    """A way to treat imbalance: rows that it adds, how it trains, or an operating point."""

    # ``(config, train, samples, add, rng) -> Catalog``: the extra rows of an arm; None: it adds none
    extend: Callable[[Any, Catalog, Catalog | None, dict[str, int], np.random.Generator], Catalog] | None
    # ``(config, counts int64 [K]) -> Treatment``; None: it trains plainly
    treat: Callable[[Any, np.ndarray], Treatment] | None
    # ``config -> float``: the strength of its operating point; None: that is set as the study says
    strength: Callable[[Any], float] | None
    role: Role | None  # what an arm of it is for; None where the plug-in does not say


@dataclass(frozen=True)
class SelectionPlugin(Plugin):
    """A rule of selection; see the package ``selection``."""

    select: Callable[[Any, ImageSet, ImageSet, dict[str, int], np.random.Generator], Judgement]


@dataclass(frozen=True)
class SourcePlugin(Plugin):
    """A layout of data: labels and file lists are read, no pixels."""

    read: Callable[[Path | None, Any], Catalog]
    # whether what lies at a path that exists is surely of this layout, from names alone; None: it cannot tell
    recognises: Callable[[Path], bool] | None


@dataclass(frozen=True)
class PreprocessingPlugin(Plugin):
    """One operation of the pre-processing."""

    apply: Callable[[Any, np.ndarray, np.ndarray | None], Filtered]
    # ``config -> bool``: whether it refuses images without a lesion mask; None: it looks at no masks
    needs_mask: Callable[[Any], bool] | None
    check_installed: Callable[[], None]  # says which library is missing
    version: int  # raised where it gives other pixels than before


def generator(name: str) -> GeneratorPlugin:
    """The generator plug-in of this name; ``RecipeError`` where there is none."""
    module = plugins.load("generators", name)
    null = getattr(module, "ROLE", "") == "null"
    masks = bool(getattr(module, "NEEDS_MASKS", False))
    drawing = getattr(module, "Drawing", plugins.NoOptions)
    start = bool(getattr(module.Generator, "TAKES_START", False))
    return GeneratorPlugin(name, module.Config, drawing, module.Generator, module.Generator.load, null, masks, start)


def classifier(name: str) -> ClassifierPlugin:
    """The classifier plug-in of this name; ``RecipeError`` where there is none."""
    module = plugins.load("classifiers", name)
    embedding = None
    if hasattr(module, "embed"):
        parts: Callable[[Any], tuple[Any, ...]] = getattr(module, "embed_parts", lambda config: (config,))
        embedding = EmbeddingOf(module.embed, module.embed_key, module.embed_seconds, parts)
    learns: Callable[[Any], bool] = getattr(module, "learns_masks", lambda config: False)
    metadata: Literal["", "optional", "required"] = getattr(module, "METADATA", "")
    return ClassifierPlugin(name, module.Config, module.Classifier, module.Classifier.load, embedding, metadata, learns)


def balance(name: str) -> BalancePlugin:
    """The balance plug-in of this name; ``RecipeError`` where there is none."""
    module = plugins.load("balance", name)
    optional: dict[str, Any] = {key: getattr(module, key, None) for key in ("extend", "treat", "strength", "ROLE")}
    return BalancePlugin(name, module.Config, *optional.values())


def rule(name: str) -> SelectionPlugin:
    """The rule of selection of this name; ``RecipeError`` where there is none."""
    module = plugins.load("selection", name)
    return SelectionPlugin(name, module.Config, module.select)


def source(name: str) -> SourcePlugin:
    """The source of this name; ``RecipeError`` where there is none."""
    module = plugins.load("sources", name)
    return SourcePlugin(name, module.Config, module.read, getattr(module, "recognises", None))


def preprocessing(name: str) -> PreprocessingPlugin:
    """The pre-processing plug-in of this name; ``RecipeError`` where there is none."""
    module = plugins.load("preprocessing", name)
    needs_mask, version = getattr(module, "needs_mask", None), int(getattr(module, "VERSION", 1))
    check_installed: Callable[[], None] = getattr(module, "check_installed", lambda: None)
    return PreprocessingPlugin(name, module.Config, module.apply, needs_mask, check_installed, version)
