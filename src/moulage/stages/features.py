"""Forwards images once through the feature network that rules of selection measure in."""

from dataclasses import dataclass
from typing import Any, ClassVar

from moulage.stages.data import Prepared
from moulage.stages.network import Network
from moulage.stages.samples import Samples
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import embed_all, pixels_of


@dataclass(frozen=True)
class Features(Stage):
    """Features of all real images, or of samples where there are any, at ``size``; one stage for all who measure."""

    kind: ClassVar[str] = "features"
    place: ClassVar[str] = "features"
    of_trial: ClassVar[bool] = False
    is_witnessed: ClassVar[bool] = False

    network: Network
    size: int
    samples: Samples | None

    @property
    def label(self) -> str:
        return self.samples.label if self.samples else "real"

    @property
    def takes_time(self) -> str:
        return self.network.name

    def run(self, at: Context) -> None:
        catalog, array = pixels_of(at.prepared, at.run, self.samples.folder if self.samples else "", self.size)
        embed_all(at.run / self.folder, catalog, array, lambda rows: self.network.extract(rows, at.device), at.progress)

    def num_images(self, prepared: Prepared) -> int:
        return 0 if self.samples else len(prepared.catalog)

    def alike(self) -> tuple[Any, ...]:
        return self.network.name, self.size

    def seconds(self, num_images: int, device: str) -> float:
        return self.network.seconds(num_images, self.size, device)
