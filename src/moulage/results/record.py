"""What all typed records of a run have in common: they are frozen, and read back strictly."""

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from moulage import runs
from moulage.errors import RunError

Number = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]
"""A finite number; None where there is none or it is not finite, which JSON cannot hold."""

Kind = TypeVar("Kind")


class Record(BaseModel):
    """Base of what stands in a run's JSON files: frozen; a key that is unknown or missing is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked(kind: type[Kind], values: Any, path: Path) -> Kind:
    """What was read from a JSON file, as ``kind``; ``RunError`` names the file and the place that is something else."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        parts = (str(path), ".".join(map(str, problem["loc"])), problem["msg"])
        raise RunError(
            f"{': '.join(filter(None, parts))}.", "Run the study again with this version of moulage to rewrite it."
        ) from None


def read(kind: type[Kind], path: Path) -> Kind:
    """A JSON file that says its ``format``, as ``kind``.

    ``RunError``: it is of another version, missing or broken, or not what this version writes.
    """
    values = runs.read_json(path)
    version = cast("dict[str, object]", values).get("format") if isinstance(values, dict) else None
    if version != runs.FORMAT:
        raise RunError(
            f"{path} was written in format {version}; this moulage reads format {runs.FORMAT}.",
            "Use the moulage version that wrote it, or run the study again in another folder.",
        )
    return checked(kind, values, path)
