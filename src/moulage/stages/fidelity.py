"""Scores how true a generator's images are, on the test part, when it is fitted."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moulage import contracts, openings, runs
from moulage.data.catalog import Catalog
from moulage.evaluation import fidelity
from moulage.runs import seed_of
from moulage.stages.data import Prepared
from moulage.stages.generator import Generator, load
from moulage.stages.network import Network
from moulage.stages.parents import Chooser, Editor
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import labels_of

FILE = "fidelity.json"
CLOSEST = "closest.npz"
FIRST_SEED = 1_000_000_000
"""Images that are scored come from the seeds from here on: other ones than those that arms add."""
MOST_REAL = 2000
"""Real images of a class and part that are compared; of more, some are drawn at random."""
SHOWN_PAIRS = 12
"""Closest pairs of each class that are kept for the report."""
COLUMNS = ("generated", "nearest", "label", "distance", "is_copy")


@dataclass(frozen=True)
class Fidelity(Stage):
    """Scores of one generator in one trial, from ``num_drawn`` images of each class, measured in ``network``.

    ``drawing``: the plug-in's options of drawing, all of them.
    """

    kind: ClassVar[str] = "fidelity"
    place: ClassVar[str] = "fidelity"
    is_witnessed: ClassVar[bool] = False

    generator: Generator
    drawing: dict[str, Any]
    num_drawn: int
    seed: int
    network: Network
    masks: str = ""  # names the lesion masks by which images are edited; empty where none is looked at

    def run(self, at: Context) -> None:
        """Write ``fidelity.json`` (see ``evaluation.fidelity``) and ``closest.npz``.

        Of a class with too few real images nothing is drawn: it is recorded with what it lacks. The test images that
        it reads are an opening of the test part (``openings``), of which it is noted first.
        """
        openings.note(at.run, self.kind, self.folder)
        size, num, learned = self.generator.size, self.num_drawn, self.generator.classes
        parts = [at.prepared.part(self.trial, part).only(label=learned) for part in ("train", "test")]
        short = {name: shortage(parts, name, num) for name in learned}
        classes = tuple(name for name, lack in short.items() if not lack)
        report: dict[str, Any] = {"num_drawn": num, "size": size}
        report["too_few"] = {name: lack for name, lack in short.items() if lack}
        report |= fidelity.Fidelity(self.network.name, {}, {}, None, True).as_dict()
        pairs: list[dict[str, Any]] = []
        if classes:
            rng = np.random.default_rng(seed_of(self.seed, "fidelity"))
            generated = self._drawn(at, classes)
            real = [self._real(at, part, classes, rng) for part in parts]

            def scored(done: int, total: int, note: str) -> None:
                at.progress(total + done, 2 * total, f"scored {note}")

            found = fidelity.judge(
                generated, *real, classes=classes, features=self.network.name, rng=rng, progress=scored
            )
            report |= found.as_dict()
            pairs = _closest(found, generated, real[0], classes)
        columns: dict[str, Any] = {name: np.array([pair[name] for pair in pairs]) for name in COLUMNS}
        with runs.atomic(at.run / self.folder / CLOSEST) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **columns)
        runs.write_json(at.run / self.folder / FILE, report)

    def num_images(self, prepared: Prepared) -> int:
        """Those that pass the feature network: of the classes that have enough to be scored."""
        parts = [prepared.part(self.trial, part).only(label=self.generator.classes) for part in ("train", "test")]
        scored = [name for name in self.generator.classes if not shortage(parts, name, self.num_drawn)]
        return sum(self.num_drawn + sum(min(MOST_REAL, part.counts[name]) for part in parts) for name in scored)

    def alike(self) -> tuple[Any, ...]:
        return self.network.name, self.generator.size

    def seconds(self, num_images: int, device: str) -> float:
        return self.network.seconds(num_images, self.generator.size, device)

    @property
    def takes_time(self) -> str:
        return self.network.name

    def _drawn(self, at: Context, classes: tuple[str, ...]) -> fidelity.Images:
        """Edited images are of their parents' lesions, which are compared with other ones."""
        fitted = self.generator
        drawer: Any = load(at.run / fitted.folder, at.device, self.drawing)
        seeds, chooser = np.arange(FIRST_SEED, FIRST_SEED + self.num_drawn), None
        if edit := contracts.generator(fitted.plugin).edit(self.drawing):
            chooser = Chooser(at.prepared, self.trial, edit, fitted.size)
            drawer = Editor(drawer, fitted.classes, chooser)
        drawn, groups, parents = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        for done, name in enumerate(classes, 1):
            drawn.append(drawer.sample(fitted.classes.index(name), seeds))
            if chooser:
                rows = chooser.rows(name, seeds)
                groups.append(rows.groups)
                parents.append(at.prepared.images(rows, fitted.size))
            at.progress(done, 2 * len(classes), f"drawn {name}")
        pixels, labels = np.concatenate(drawn), np.repeat(np.arange(len(classes)), len(seeds))
        kin = (np.concatenate(groups), np.concatenate(parents)) if chooser else (None, None)
        return fidelity.Images(pixels, self.network.extract(pixels, at.device), labels, *kin)

    def _real(self, at: Context, part: Catalog, classes: tuple[str, ...], rng: np.random.Generator) -> fidelity.Images:
        """Real images of one part with their features, at most ``MOST_REAL`` of each class."""
        names = part.table["label"].to_numpy(object)
        rows = [rng.permutation(np.flatnonzero(names == name))[:MOST_REAL] for name in classes]
        chosen = part.take(np.sort(np.concatenate(rows)))
        pixels = at.prepared.images(chosen, self.generator.size)
        features = self.network.extract(pixels, at.device)
        return fidelity.Images(pixels, features, labels_of(chosen, classes), chosen.groups)


def shortage(parts: list[Catalog], name: str, num_drawn: int) -> str:
    """What a class lacks to be judged, in the training and in the held-out images; empty where nothing."""
    own = [part.only(label=name) for part in parts]
    return fidelity.shortage(num_drawn, *map(len, own), *(len(set(part.groups)) for part in own))


def _closest(
    found: fidelity.Fidelity, generated: fidelity.Images, train: fidelity.Images, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The generated images of each class that are nearest to a training image, beside it."""
    pairs: list[dict[str, Any]] = []
    for k, name in enumerate(classes):
        copies = found.classes[name].near_copies
        own, real = (images.pixels[images.labels == k] for images in (generated, train))
        for row, nearest, distance in copies.pairs(SHOWN_PAIRS) if copies else ():
            pair = {"generated": own[row], "nearest": real[nearest], "label": name}
            pairs.append({**pair, "distance": distance, "is_copy": bool(copies and copies.is_copy[row])})
    return pairs
