"""Which stages a recipe takes: each made once, with what it needs, those that others need first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from moulage import contracts, runs
from moulage.arm import Arm, arms_of
from moulage.data import data_sets
from moulage.data.split import RESERVE
from moulage.errors import RecipeError, RunError, nearest
from moulage.recipe import Recipe
from moulage.runs import seed_of
from moulage.stages.classifier import Classifier
from moulage.stages.data import Prepared, filters_of
from moulage.stages.embedding import Embedding
from moulage.stages.features import Features
from moulage.stages.fidelity import Fidelity
from moulage.stages.gallery import Gallery
from moulage.stages.generator import Generator, JudgedBy, digest_of_start, words
from moulage.stages.mask_needs import REGIONS, learns_masks
from moulage.stages.network import Network
from moulage.stages.samples import SEEDS_PER_TRIAL, Samples
from moulage.stages.selection import Rule, Selection
from moulage.stages.stage import Stage, from_json, to_json
from moulage.stages.stored import given_digest

KINDS: tuple[type[Stage], ...] = (
    Generator, Fidelity, Samples, Gallery, Features, Selection, Embedding, Classifier,
)  # fmt: skip
"""Every kind of stage; one more is a file and a place here."""
FILE = "plan.json"
"""In a run folder: every stage of the study by its folder, all that an engine on another machine needs."""

Kind = TypeVar("Kind", bound=Stage)


def check(recipe: Recipe) -> None:
    """Check everything that needs no data: every plug-in exists and takes its options, weights can be loaded.

    Raises:
        RecipeError: naming the place and the nearest valid name.
    """
    data_sets.check(recipe)
    filters_of(recipe)
    plug = contracts.classifier(recipe.classifier.plugin)
    plug.configure(recipe.classifier.options, "classifier.options")
    for kind in KINDS:
        kind.check_recipe(recipe)


def plan(recipe: Recipe, prepared: Prepared) -> list[Stage]:
    """All stages of a study, those that others need first.

    Raises:
        RecipeError: an arm asks its generator for a class that it does not learn.
        LeakError: the samples that an arm is given come from a generator that saw another split.
    """
    return _Planner(recipe, prepared).stages()


def save(stages: Sequence[Stage], run: Path) -> None:
    """Write ``plan.json``."""
    runs.write_json(run / FILE, {stage.folder: {"kind": stage.kind, **to_json(stage)} for stage in stages})


def find(run: Path, name: str) -> Stage:
    """A stage of a run by its folder, such as ``classifiers/none-0-1a2b3c4d5e6f``, or by the end of it that is unique.

    Raises:
        RunError: the run has no plan, no such stage, or several.
    """
    with runs.reading(run / FILE):
        known: dict[str, Any] = dict(runs.read_json(run / FILE))
    found = [folder for folder in known if folder == name.rstrip("/")] or [f for f in known if f.endswith(name)]
    if len(found) != 1:
        what = f"{len(found)} stages are called" if found else "There is no stage"
        raise RunError(f'{run}: {what} "{name}".', nearest(name, known))
    with runs.reading(run / FILE):
        values = dict(known[found[0]])
        kind = {kind.kind: kind for kind in KINDS}[values.pop("kind")]
    return from_json(kind, values, str(run / FILE))


def of_kind(stages: Sequence[Stage], kind: type[Kind]) -> list[Kind]:
    """The stages of one kind, in order."""
    return [stage for stage in stages if isinstance(stage, kind)]


@dataclass
class _Planner:
    recipe: Recipe
    prepared: Prepared
    found: dict[str, Stage] = field(default_factory=dict[str, Stage])
    networks: dict[str, Network] = field(default_factory=dict[str, Network])
    given: dict[Path, str] = field(default_factory=dict[Path, str])

    @cached_property
    def arms(self) -> dict[str, Arm]:
        return arms_of(self.recipe)

    @cached_property
    def counts(self) -> list[dict[str, int]]:
        """Images of each class in the training part, for each split, of which folds have several."""
        return [self.prepared.part(trial, "train").counts for trial in range(len(self.prepared.splits))]

    @cached_property
    def additions(self) -> list[dict[str, dict[str, int]]]:
        """Images that each arm adds, for each split."""
        return [{name: arm.additions(of) for name, arm in self.arms.items()} for of in self.counts]

    @cached_property
    def num_slots(self) -> list[int]:
        """The most that any arm needs, for each split: all arms see as many images.

        Under planted scarcity at least what is held back, so that an epoch is as long as if nothing were scarce, at
        every level of it.
        """
        most = [max((arm.num_slots(of) for arm in self.arms.values()), default=0) for of in self.counts]
        if not self.recipe.split.scarcity:
            return most
        return [max(number, len(self.prepared.part(trial, RESERVE))) for trial, number in enumerate(most)]

    def _number(self, trial: int) -> int:
        """Which of the splits this trial uses."""
        return trial if len(self.prepared.splits) > 1 else 0

    def stages(self) -> list[Stage]:
        for name, options in self.recipe.generators.items():
            for trial in range(self.recipe.num_trials if options.refit == "trial" else 1):
                self.generator(name, trial)
        for trial in range(self.recipe.num_trials if self.recipe.arms else 0):
            for arm in self.arms:
                self.classifier(arm, trial)
        return list(self.found.values())

    def _once(self, stage: Kind) -> Kind:
        """The stage, or the same one that was asked for before."""
        found = self.found.setdefault(stage.folder, stage)
        assert isinstance(found, type(stage))
        return found

    def network(self, place: str) -> Network:
        """The feature network of ``fidelity`` or of a selection; its weights are looked at once."""
        if place not in self.networks:
            of = self.recipe.fidelity if place == "fidelity" else self.recipe.selections[place]
            self.networks[place] = Network.of(of.features, "fidelity.features" if place == "fidelity" else "features")
        return self.networks[place]

    def generator(self, name: str, trial: int) -> Generator:
        options, wanted = self.recipe.generators[name], self.recipe.fidelity
        plug = contracts.generator(options.plugin)
        judged = wanted.judge_images and not plug.is_null
        data, start = self.prepared.digest, options.start
        from_elsewhere: dict[str, Any] = {}
        if start and start not in self.recipe.generators:
            path = Path(start).absolute()
            found = digest_of_start(path, data, self.prepared.split(trial).digest)
            from_elsewhere = {"start_digest": found, "start_path": str(path)}
        stage = self._once(
            Generator(
                name,
                trial,
                data,
                plugin=options.plugin,
                config=plug.configure(options.options, f"generators.{name}.options").model_dump(mode="json"),
                classes=options.classes,
                size=options.size,
                seed=seed_of(self.recipe.study.seed, "generator", name, trial),
                split=self.prepared.split(trial).digest,
                judge=JudgedBy(wanted.judge_images, self.network("fidelity")) if judged else None,
                masks=self.prepared.masks if plug.needs_masks else "",
                start=self.fit_of(start, trial) if start in self.recipe.generators else None,
                **from_elsewhere,
            )
        )
        self.fidelity(name, stage, self.drawing(name))
        return stage

    def fit_of(self, name: str, trial: int) -> Generator:
        """The fit of a generator that a trial uses: its own, or that of the whole study."""
        return self.generator(name, trial if self.recipe.generators[name].refit == "trial" else 0)

    def fidelity(self, name: str, fitted: Generator, drawing: dict[str, Any]) -> None:
        """Images of a fit are scored as they are drawn, where any are scored."""
        num_drawn = self.recipe.fidelity.num_images
        if num_drawn and not contracts.generator(fitted.plugin).is_null:
            at, network, of = (fitted.trial, fitted.data), self.network("fidelity"), self.masks(fitted, drawing)
            about: dict[str, Any] = {"num_drawn": num_drawn, "seed": fitted.seed, "network": network, "masks": of}
            self._once(Fidelity(name, *at, fitted, drawing, **about))

    def masks(self, fitted: Generator, drawing: dict[str, Any]) -> str:
        """Names the lesion masks by which images are edited that are drawn so; empty where none is looked at."""
        return self.prepared.masks if contracts.generator(fitted.plugin).edit(drawing) in REGIONS else ""

    def drawing(self, generator: str, arm: str = "") -> dict[str, Any]:
        """The options by which images of a generator are drawn, for an arm if one is named."""
        options = self.recipe.generators[generator]
        own = self.recipe.arms[arm].drawing if arm else {}
        where = f"arms.{arm}.drawing" if own else f"generators.{generator}.drawing"
        return contracts.generator(options.plugin).drawing({**options.drawing, **own}, where)

    def series(self, generator: str, drawing: dict[str, Any]) -> str:
        """What images that are drawn so are called: as their generator, with what differs from its own drawing."""
        usual = self.drawing(generator)
        return "-".join([generator, *words({key: v for key, v in drawing.items() if v != usual[key]})])

    def drawn(self, arm: str, add: dict[str, int]) -> dict[str, int]:
        """How many images of each class are drawn for an arm that adds ``add`` of them."""
        chosen = self.recipe.arms[arm].selection
        factor = self.recipe.selections[chosen].draw if chosen else 1
        return {label: math.ceil(factor * number) for label, number in add.items()}

    def samples(self, arm: str, trial: int, add: dict[str, int]) -> Samples:
        """Samples for all arms that draw from a generator as this one does: as many of each class as the greediest
        adds or selects from.
        """
        name, arms = self.recipe.arms[arm].generator, self.recipe.arms
        options, drawing = self.recipe.generators[name], self.drawing(name, arm)
        for wanted in add:
            if wanted not in options.classes:
                raise RecipeError(f'Generator "{name}" does not learn "{wanted}".', nearest(wanted, options.classes))
        counts = dict.fromkeys(options.classes, 0)
        for each, other in self.additions[self._number(trial)].items():
            if arms[each].generator == name and self.drawing(name, each) == drawing:
                drawn = self.drawn(each, other)
                counts = {label: max(counts[label], drawn.get(label, 0)) for label in options.classes}
        fitted = self.fit_of(name, trial)
        series, data = self.series(name, drawing), self.prepared.digest
        self.fidelity(series, fitted, drawing)
        first, of = trial * SEEDS_PER_TRIAL, self.masks(fitted, drawing)
        stage = self._once(Samples(series, trial, data, fitted, drawing, counts=counts, first_seed=first, masks=of))
        if self.recipe.split.scheme != "folds" or trial == 0:
            self._once(Gallery(series, trial, data, samples=stage))
        return stage

    def features(self, network: Network, size: int, samples: Samples | None = None) -> Features:
        name = f"features of {samples.label if samples else 'real images'}"
        return self._once(Features(name, samples.trial if samples else 0, self.prepared.digest, network, size, samples))

    def selection(self, arm: str, trial: int, samples: Samples) -> Selection:
        name, size, arm = self.recipe.arms[arm].selection, samples.generator.size, self.arms[arm].selects_for
        add = self.additions[self._number(trial)][arm]
        rules = [
            Rule(rule.plugin, contracts.rule(rule.plugin).configure(rule.options).model_dump(mode="json"))
            for rule in self.recipe.selections[name].rules
        ]
        network = self.network(name)
        return self._once(
            Selection(
                name,
                trial,
                self.prepared.digest,
                samples=samples,
                real=self.features(network, size),
                drawn=self.features(network, size, samples),
                rules=tuple(rules),
                want=add,
                first=self.drawn(arm, add),
                seed=seed_of(self.recipe.study.seed, "selection", name, trial),
                split=self.prepared.split(trial).digest,
            )
        )

    @cached_property
    def embedding_parts(self) -> dict[str, dict[str, Any]]:
        """Options under names of the features that the classifier reads, those of each network under their own; none
        where it reads pixels. It needs the networks' weights.
        """
        of = contracts.classifier(self.recipe.classifier.plugin).embedding
        parts = of.parts(self.configured) if of else ()
        return {of.key(part): part.model_dump(mode="json") for part in parts} if of else {}

    @cached_property
    def configured(self) -> Any:
        """The options of the classifier."""
        options = self.recipe.classifier
        return contracts.classifier(options.plugin).configure(options.options, "classifier.options")

    def embeddings(self, samples: Samples | None, given: str, given_digest: str) -> tuple[Embedding, ...]:
        """Embeddings of the real images and of what an arm adds, where the classifier reads any."""
        plugin, parts = self.recipe.classifier.plugin, self.embedding_parts

        def embedding(name: str, samples: Samples | None = None, given: str = "") -> tuple[Embedding, ...]:
            trial = samples.trial if samples else 0
            content = given_digest if given else ""
            # All have one name, which is part of the folder's: a recipe that adds a network keeps what is there.
            return tuple(
                self._once(Embedding(name, trial, self.prepared.digest, plugin, key, samples, given, content, config))
                for key, config in parts.items()
            )

        real = embedding("real images")
        if samples:
            return real + embedding(f"samples of {samples.label}", samples)
        return real + embedding("given samples", given=given) if given else real

    def classifier(self, arm: str, trial: int) -> Classifier:
        options, number, chosen = self.recipe.arms[arm], self._number(trial), self.recipe.classifier
        add = self.additions[number][arm]
        if self.arms[arm].ways.is_positive:
            self._check_reserve(arm, trial, add)
        samples = self.samples(arm, trial, add) if options.generator else None
        given = str(options.samples.resolve()) if options.samples else ""
        return self._once(
            Classifier(
                arm,
                trial,
                self.prepared.digest,
                plugin=chosen.plugin,
                config=self.configured.model_dump(mode="json"),
                classes=self.prepared.catalog.classes,
                seed=seed_of(self.recipe.study.seed, "classifier", trial),
                split=self.prepared.split(trial).digest,
                ways=self.arms[arm].ways,
                use=self.arms[arm].use,
                add=add,
                num_slots=self.num_slots[number],
                samples=samples,
                selection=self.selection(arm, trial, samples) if samples and options.selection else None,
                given=given,
                given_digest=self._given(options.samples),
                embeddings=self.embeddings(samples, given, self._given(options.samples)),
                weights=self.recipe.data.weights,
                metadata=chosen.metadata,
                masks=self.prepared.masks if learns_masks(self.recipe) else "",
            )
        )

    def _check_reserve(self, arm: str, trial: int, add: dict[str, int]) -> None:
        """As many images were held back as the arm adds: one that came twice would be a copy."""
        reserve = self.prepared.part(trial, RESERVE)
        for label, number in add.items():
            held = reserve.only(label=label)
            if len(held) < number:
                lesions = len(set(held.groups))
                raise RecipeError(
                    f"arms.{arm} adds {number:,} held-back images of {label}, and the reserve of trial {trial} holds "
                    f"{len(held):,} (of {lesions:,} lesions).",
                    "Add fewer of them (in a curve: real_doses), or hold more back: split.scarcity or split.reserve.",
                )

    def _given(self, folder: Path | None) -> str:
        """``given_digest`` of a folder of samples, so that other samples are another stage; empty for none."""
        if folder is None:
            return ""
        if folder not in self.given:
            self.given[folder] = given_digest(folder, self.prepared.split(0).digest)
        return self.given[folder]
