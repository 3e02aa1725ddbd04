"""What a study costs on this machine: its own stages, planned without a pixel, at the pace of a few timed steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from moulage import contracts
from moulage.data.catalog import Catalog
from moulage.data.pixels import Pixels
from moulage.data.split import Split
from moulage.devices import pick_device
from moulage.recipe import Recipe
from moulage.stages import plan as plans
from moulage.stages.data import Prepared, filters_of, split_all
from moulage.stages.features import Features
from moulage.stages.generator import MIN_JUDGED, Generator
from moulage.stages.stage import Stage
from moulage.stages.timing import time_steps

TIMED_IMAGES = 1000
"""Stages whose time grows with their images are timed for so many."""
AUDIT_SECONDS, PAIR_SECONDS = 2.5e-3, 5e-8
"""CPU-seconds of the audit, of which most go to near-duplicates: an image, and a pair of images in each order."""
STAGE_SECONDS = 0.5
"""CPU-seconds that any stage takes to find its data and to write what it made."""
STARTING_SECONDS = 10.0
"""CPU-seconds in which a process loads its libraries; the study's own and each worker's."""
FINISHING_SECONDS, FIT_SECONDS, SCORED_SECONDS = 10.0, 0.05, 2e-6
"""CPU-seconds to prove, compare and report: of any study, of each classifier, and of each image that it scored."""


@dataclass(frozen=True)
class Cost:
    """Core-seconds of a study by what they are spent on, and hours on the clock of a machine that does nothing else."""

    core_seconds: dict[str, float]
    hours: float
    num_workers: int

    @property
    def total(self) -> float:
        """All core-seconds."""
        return sum(self.core_seconds.values())


@dataclass
class Clock:
    """Times steps on this machine, and each kind of them once."""

    device: str
    num_workers: int
    catalog: Catalog  # the data, before the audit
    decode_seconds: float  # CPU-seconds to read and decode an image
    # what was timed, by all that decides it: words, and seconds an image or a step; and what the last recipe used of it
    paces: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    used: set[str] = field(default_factory=set[str])
    splits: dict[str, tuple[Split, ...]] = field(default_factory=dict[str, tuple[Split, ...]])
    # held-back images for one that stays, of the class and training part that have the fewest
    held: dict[str, float] = field(default_factory=dict[str, float])

    def cost(self, recipe: Recipe) -> Cost:
        """What a study by this recipe takes.

        ``MoulageError`` where the recipe cannot be planned on these data: it is checked and planned as a study is.
        """
        plans.check(recipe)
        self.used.clear()
        prepared = self.prepared(recipe)
        stages = plans.plan(recipe, prepared)
        each = [self.seconds(stage, prepared) + STAGE_SECONDS for stage in stages]
        spent: dict[str, float] = {}
        for stage, seconds in zip(stages, each, strict=True):
            spent[stage.kind] = spent.get(stage.kind, 0.0) + seconds
        decoding, auditing = self.decode_seconds * len(self.catalog), AUDIT_SECONDS * len(self.catalog)
        auditing += PAIR_SECONDS * len(self.catalog) ** 2
        fits = len(recipe.arms) * recipe.num_trials
        finishing = FINISHING_SECONDS + FIT_SECONDS * fits + SCORED_SECONDS * fits * len(self.catalog)
        alone = STARTING_SECONDS + auditing + finishing
        workers = STARTING_SECONDS * self.num_workers
        wall = alone + STARTING_SECONDS + decoding / self.num_workers + _makespan(each, self.num_workers)
        spent = {"reading": decoding, "audit": auditing, **spent, "comparing": finishing}
        spent["libraries"] = STARTING_SECONDS + workers
        return Cost(spent, wall / 3600, self.num_workers)

    def prepared(self, recipe: Recipe) -> Prepared:
        """The data as a study would have them after an audit that finds nothing, without their pixels."""
        catalog = self.learned(recipe)
        pixels = Pixels(Path("not-decoded"), pd.DataFrame())
        return Prepared(catalog, self.dealt(recipe), pixels, recipe.data.fit, filters_of(recipe))

    def dealt(self, recipe: Recipe) -> tuple[Split, ...]:
        """The recipe's splits of these data."""
        key = repr((recipe.split, recipe.data.unknown, recipe.study.target_classes))
        if key not in self.splits:
            self.splits[key] = split_all(recipe, self.learned(recipe))
        return self.splits[key]

    def learned(self, recipe: Recipe) -> Catalog:
        """The images of the classes that the study learns."""
        catalog = self.catalog.only(label=[n for n in self.catalog.classes if n not in recipe.data.unknown])
        classes = tuple(name for name in catalog.classes if name not in recipe.data.unknown)
        return replace(catalog, classes=classes)

    def seconds(self, stage: Stage, prepared: Prepared) -> float:
        """What a stage takes, by the pace of its kind."""
        if isinstance(stage, Generator):
            return self._fit(stage, prepared)
        num_images = stage.num_images(prepared)
        return num_images * self._pace(stage) if num_images else 0.0

    def _pace(self, stage: Stage) -> float:
        """Seconds an image."""
        words = f"{stage.kind} ({stage.takes_time}), an image"
        return self._timed(words, lambda: time_steps(stage, TIMED_IMAGES, self.device) / TIMED_IMAGES, stage.alike())

    def _timed(self, words: str, time_it: Callable[[], float], about: Any) -> float:
        """What was timed before of the same, or is now."""
        key = f"{words} {about!r}"
        if key not in self.paces:
            self.paces[key] = (words, time_it())
        self.used.add(key)
        return self.paces[key][1]

    def _fit(self, stage: Generator, prepared: Prepared) -> float:
        """Steps at the pace of a step, and the previews that are judged; ``images`` of the options says how many."""
        options = stage.config
        if "images" not in options:  # a null, which learns nothing
            return 0.0
        num_steps = -(-options["images"] // options["batch_size"])
        judged = prepared.part(stage.trial, "validation").only(label=stage.classes).counts
        share = sum(judged[name] >= MIN_JUDGED for name in stage.classes) / len(stage.classes)
        seconds = num_steps * self.step_seconds(stage)
        if stage.judge and share:
            scored = Features("judge", 0, stage.data, stage.judge.network, stage.size, None)
            seconds += share * stage.num_judged(num_steps) * self._pace(scored)
        return seconds

    def step_seconds(self, stage: Generator) -> float:
        """Seconds of a step, which does not depend on how many there are."""
        length = ("images", "ema_images", "preview_every")
        about = {key: value for key, value in stage.config.items() if key not in length}, stage.size, stage.classes
        plug, device = contracts.generator(stage.plugin), str(pick_device(self.device))
        model = plug.Generator(plug.configure(stage.config), stage.classes, stage.size)
        words = f"generator ({stage.plugin}), a step"
        return self._timed(words, lambda: model.steps_and_seconds(1, device=device)[1], about)


def _makespan(seconds: Sequence[float], num_workers: int) -> float:
    """Seconds until all are done where each goes to the worker that is free first, the longest first."""
    busy = [0.0] * num_workers
    for each in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += each
    return max(busy)
