"""Forwards each image of one set through the frozen part of the classifier, once, whatever is compared."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from moulage import contracts
from moulage.contracts import EmbeddingOf
from moulage.stages.data import Prepared
from moulage.stages.samples import Samples
from moulage.stages.stage import APART, Context, Stage
from moulage.stages.stored import embed_all, pixels_of


@dataclass(frozen=True)
class Embedding(Stage):
    """Embeddings of all real images, of samples, or of a folder of samples that was given."""

    kind: ClassVar[str] = "embedding"
    place: ClassVar[str] = "embeddings"
    of_trial: ClassVar[bool] = False
    is_witnessed: ClassVar[bool] = False

    plugin: str  # the classifier. Its head's settings are in the config too, and do not change the features.
    key: str  # names the features: network, weights, size
    samples: Samples | None  # whose images; None for real or given ones
    given: str  # folder of given samples, and a digest of what it holds; empty for none
    given_digest: str
    config: dict[str, Any] = field(metadata=APART)

    @property
    def label(self) -> str:
        return f"{self.plugin}-{self.samples.label if self.samples else 'samples' if self.given else 'real'}"

    @property
    def takes_time(self) -> str:
        return self.plugin

    @property
    def _plug(self) -> tuple[EmbeddingOf, Any]:
        plug = contracts.classifier(self.plugin)
        assert plug.embedding is not None
        return plug.embedding, plug.configure(self.config)

    def run(self, at: Context) -> None:
        of, config = self._plug
        catalog, array = pixels_of(
            at.prepared, at.run, self.samples.folder if self.samples else self.given, config.size
        )
        embed_all(
            at.run / self.folder, catalog, array, lambda rows: of.embed(config, rows, device=at.device), at.progress
        )

    def num_images(self, prepared: Prepared) -> int:
        if self.given:
            return 0  # their catalog is read when they are embedded
        return sum(self.samples.counts.values()) if self.samples else len(prepared.catalog)

    def alike(self) -> tuple[Any, ...]:
        return self.plugin, self.config

    def seconds(self, num_images: int, device: str) -> float:
        of, config = self._plug
        return of.seconds(config, num_images, device=device)
