"""What a study has to compute: tasks, what they need, and the folders that their settings hash to."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moulage import plugins, runs
from moulage.data.catalog import Catalog
from moulage.data.samples import check_provenance
from moulage.errors import RecipeError, nearest
from moulage.recipe import Recipe
from moulage.recipe_tables import SelectionOptions
from moulage.tasks.arms import adjusts, feature_network, role_of
from moulage.tasks.prepare import Prepared, learns_masks, needs_masks

SEEDS_PER_TRIAL = 1_000_000
"""Samples of trial t are drawn from the seeds t * SEEDS_PER_TRIAL + 0, 1, 2 ..."""


@dataclass(frozen=True)
class Task:
    """One thing to compute.

    Attributes:
        kind: ``generator``, ``samples``, ``gallery``, ``features``, ``selection``, ``embedding`` or ``classifier``.
        name: the generator's or arm's name, or what is embedded.
        trial: which trial it belongs to; 0 for what serves the whole study.
        folder: where its result goes, relative to the run folder; ends in a hash of everything that it depends on.
        needs: folders of the tasks that must be done before.
        settings: plain values that ``execute`` reads.
    """

    kind: str
    name: str
    trial: int
    folder: str
    needs: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def is_done(self, run: Path) -> bool:
        """Whether its folder is finished."""
        return runs.is_done(run / self.folder)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (
            f", trial {self.trial}" if self.kind not in ("embedding", "features") else ""
        )


def plan(recipe: Recipe, prepared: Prepared) -> list[Task]:
    """All tasks of a study, those that others need first.

    Raises:
        RecipeError: an arm asks its generator for a class that it does not learn.
        LeakError: the samples that an arm is given come from a generator that saw another split.
    """
    return _Planner(recipe, prepared).tasks()


def roles(recipe: Recipe) -> dict[str, str]:
    """What each arm is for: ``reference``, ``rival``, ``null``, ``positive`` or ``synthetic``."""
    return {arm: role_of(recipe, arm) for arm in recipe.arms}


class _Planner:
    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        self.recipe, self.prepared = recipe, prepared
        # Ratios count the training part, which each trial of repeated folds has of its own.
        self.additions = [
            {arm: recipe.additions(arm, counts) for arm in recipe.arms}
            for counts in (split.part(prepared.catalog, "train").counts for split in prepared.splits)
        ]
        self.num_slots = [max((sum(n.values()) for n in arms.values()), default=0) for arms in self.additions]
        self.found: dict[str, Task] = {}

    def _number(self, trial: int) -> int:
        """Which of the splits this trial uses."""
        return trial if len(self.prepared.splits) > 1 else 0

    def tasks(self) -> list[Task]:
        for name in self.recipe.generators:
            for trial in range(self._num_fits(name)):
                self._generator(name, trial)
        for trial in range(self.recipe.num_trials if self.recipe.arms else 0):
            for arm in self.recipe.arms:
                self._classifier(arm, trial)
        return list(self.found.values())

    def _num_fits(self, name: str) -> int:
        return self.recipe.num_trials if self.recipe.generators[name].refit == "trial" else 1

    def _add(
        self,
        kind: str,
        name: str,
        trial: int,
        settings: dict[str, Any],
        needs: tuple[str, ...] = (),
        label: str = "",
        identity: tuple[str, ...] | None = None,
        split: str = "",
        **unhashed: Any,
    ) -> Task:
        """A task whose folder hashes its settings, the data, and what it needs (or ``identity`` in place of that).

        ``split`` is the digest of the split, for a task that depends on it otherwise than through what it needs.
        ``unhashed`` settings go along without deciding the folder. The same task asked for twice is one task.
        """
        place = {"gallery": "galleries"}.get(kind, kind if kind in ("samples", "features", "fidelity") else f"{kind}s")
        known = needs if identity is None else identity
        key = runs.digest(runs.FORMAT, kind, settings, known, self.prepared.digest, split)
        folder = f"{place}/{label or f'{name}-{trial}'}-{key}"
        task = Task(kind, name, trial, folder, needs, {**settings, **unhashed})
        return self.found.setdefault(task.folder, task)

    def _generator(self, name: str, trial: int) -> Task:
        options = self.recipe.generators[name]
        config = plugins.configure("generators", options.plugin, options.options, f"generators.{name}.options")
        settings = {
            "plugin": options.plugin,
            "classes": options.classes,
            "size": options.size,
            "config": config.model_dump(mode="json"),
            "seed": seed_of(self.recipe.study.seed, "generator", name, trial),
        }
        if needs_masks(plugins.load("generators", options.plugin)):
            settings["masks"] = self.prepared.masks
        wanted = self.recipe.fidelity
        network = feature_network(wanted.features, "fidelity.features")
        is_null = getattr(plugins.load("generators", options.plugin), "ROLE", "") == "null"
        if wanted.judge_images and not is_null:
            settings["judge"] = {"num_images": wanted.judge_images, **network}
        task = self._add("generator", name, trial, settings, split=self.prepared.split(trial).digest)
        if wanted.num_images and not is_null:
            scoring = {"num_images": wanted.num_images, "seed": settings["seed"], **network}
            self._add("fidelity", name, trial, scoring, (task.folder,))
        return task

    def _samples(self, name: str, trial: int, add: dict[str, int]) -> Task:
        """Samples for all arms that use this generator: as many of each class as the greediest adds or selects from."""
        learned = self.recipe.generators[name].classes
        for wanted in add:
            if wanted not in learned:
                raise RecipeError(f'Generator "{name}" does not learn "{wanted}".', nearest(wanted, learned))
        counts = dict.fromkeys(learned, 0)
        for arm, other in self.additions[self._number(trial)].items():
            if self.recipe.arms[arm].generator == name:
                drawn = self._drawn(arm, other)
                counts = {label: max(counts[label], drawn.get(label, 0)) for label in learned}
        fitted = self._generator(name, trial if self.recipe.generators[name].refit == "trial" else 0)
        settings = {"counts": counts, "first_seed": trial * SEEDS_PER_TRIAL}
        task = self._add("samples", name, trial, settings, (fitted.folder,))
        if self.recipe.split.scheme != "folds" or trial == 0:
            self._add("gallery", name, trial, {}, (fitted.folder, task.folder))
        return task

    def _drawn(self, arm: str, add: dict[str, int]) -> dict[str, int]:
        """How many images of each class are drawn for an arm that adds ``add`` of them."""
        chosen = self.recipe.arms[arm].selection
        factor = self.recipe.selections[chosen].draw if chosen else 1
        return {label: math.ceil(factor * number) for label, number in add.items()}

    def _features(self, options: SelectionOptions, size: int, samples: Task | None = None) -> Task:
        """Features of all real images, or of samples, at the generator's size; one task for all who measure in them."""
        network = feature_network(options.features, "features")
        of = samples.folder if samples else "real"
        label = f"{samples.name}-{samples.trial}" if samples else "real"
        name, trial = (f"features of {label}", samples.trial) if samples else ("features of real images", 0)
        needs = (samples.folder,) if samples else ()
        settings = {"network": network["network"], "size": size, "of": of}
        return self._add("features", name, trial, settings, needs, label, config=network["features"])

    def _selection(self, arm: str, trial: int, add: dict[str, int], samples: Task) -> Task:
        """What is kept of the first samples of each class; arms that want as many of one selection share it."""
        name, generator = self.recipe.arms[arm].selection, self.recipe.arms[arm].generator
        options, size = self.recipe.selections[name], self.recipe.generators[generator].size
        real, drawn = self._features(options, size), self._features(options, size, samples)
        configs = [plugins.configure("selection", rule.plugin, rule.options) for rule in options.rules]
        rules = [
            {"plugin": rule.plugin, "config": config.model_dump(mode="json")}
            for rule, config in zip(options.rules, configs, strict=True)
        ]
        settings = {
            "rules": rules,
            "generator": generator,
            "size": size,
            "network": real.settings["network"],
            "want": add,
            "drawn": self._drawn(arm, add),
            "seed": seed_of(self.recipe.study.seed, "selection", name, trial),
        }
        needs = (samples.folder, real.folder, drawn.folder)
        # Named by the generator, like a classifier: it sees the first samples, however many others ask for.
        identity, split = samples.needs, self.prepared.split(trial).digest
        return self._add("selection", name, trial, settings, needs, identity=identity, split=split)

    def _embedding(self, samples: Task | None, external: str) -> tuple[str, ...]:
        """The embeddings that a classifier needs where its plug-in embeds: of the real images, and of the samples."""
        options = self.recipe.classifier
        module = plugins.load("classifiers", options.plugin)
        if not hasattr(module, "embed"):
            return ()
        config = plugins.configure("classifiers", options.plugin, options.options, "classifier.options")
        settings = {"plugin": options.plugin, "key": module.embed_key(config)}

        def embedding(name: str, of: str, label: str, trial: int = 0, needs: tuple[str, ...] = ()) -> str:
            known, label = {**settings, "of": of}, f"{options.plugin}-{label}"
            # The head's settings are in the config too, but do not change the features: ``key`` names those.
            return self._add(
                "embedding", name, trial, known, needs, label, config=config.model_dump(mode="json")
            ).folder

        found = [embedding("real images", "real", "real")]
        if samples:
            name, label = f"samples of {samples.name}-{samples.trial}", f"{samples.name}-{samples.trial}"
            found.append(embedding(name, samples.folder, label, samples.trial, (samples.folder,)))
        elif external:
            found.append(embedding("given samples", external, "samples"))
        return tuple(found)

    def _classifier(self, arm: str, trial: int) -> Task:
        options, number = self.recipe.arms[arm], self._number(trial)
        add, split = self.additions[number][arm], self.prepared.split(trial).digest
        samples = self._samples(options.generator, trial, add) if options.generator else None
        selection = self._selection(arm, trial, add, samples) if samples and options.selection else None
        external = str(options.samples.resolve()) if options.samples else ""
        chosen = self.recipe.classifier
        config = plugins.configure("classifiers", chosen.plugin, chosen.options, "classifier.options")
        settings = {
            "plugin": chosen.plugin,
            "config": config.model_dump(mode="json"),
            "seed": seed_of(self.recipe.study.seed, "classifier", trial),
            **self._treatment(arm),
            "add": add,
            "num_slots": self.num_slots[number],
            "embedded": hasattr(plugins.load("classifiers", chosen.plugin), "embed"),
            "given": [external, self._given(options.samples)],
        }
        if self.recipe.data.weights:
            settings["weights"] = self.recipe.data.weights
        if learns_masks(self.recipe):
            settings["masks"] = self.prepared.masks
        if chosen.metadata:  # left out where there are none: a study without metadata keeps its folders
            settings["metadata"] = chosen.metadata
        chosen_from = tuple(task.folder for task in (samples, selection) if task)
        needs = (*chosen_from, *self._embedding(samples, external))
        # An arm is named by the generator that drew its images, not by the folder of samples: another arm that asks the
        # same generator for more images changes that folder, but not the first images in it.
        identity = (*(samples.needs if samples else ()), *((selection.folder,) if selection else ()))
        return self._add("classifier", arm, trial, settings, needs, identity=identity, split=split)

    def _treatment(self, arm: str) -> dict[str, Any]:
        """The arm's balance and treatment with their options, and whether its logits are adjusted."""
        options = self.recipe.arms[arm]
        balance = plugins.configure("balance", options.balance, options.options, f"arms.{arm}.options")
        found: dict[str, Any] = {"balance": options.balance, "balance_config": balance.model_dump(mode="json")}
        found |= {"treatment": options.treatment, "treatment_config": {}, "adjust": adjusts(self.recipe, arm)}
        if options.treatment:
            where = f"arms.{arm}.treatment_options"
            treatment = plugins.configure("balance", options.treatment, options.treatment_options, where)
            found["treatment_config"] = treatment.model_dump(mode="json")
        return found

    def _given(self, folder: Path | None) -> str:
        """Digest of a given samples folder, so that other samples are another task; refused if of another split."""
        if folder is None:
            return ""
        samples = Catalog.load(folder / "catalog.parquet")
        check_provenance(samples, self.prepared.split(0).digest)
        return samples.digest


def seed_of(*parts: Any) -> int:
    """A seed in 0..2**31 - 1 for one purpose, from the study's seed and the purpose's name."""
    return int(runs.digest(*parts), 16) % 2**31
