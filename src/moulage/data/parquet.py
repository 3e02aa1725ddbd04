"""Tables on the disk: Parquet files that say what they are and in which format they were written."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moulage.errors import RunError
from moulage.runs import FORMAT, atomic, check_format


def write(path: Path, kind: str, table: pd.DataFrame, **facts: Any) -> None:
    """Write a table whole or not at all, with JSON-like facts beside it."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    about = json.dumps({"format": FORMAT, "kind": kind, **facts}).encode()
    with atomic(path) as temporary:
        pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"moulage": about}), temporary)


def read(path: Path, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and facts that ``write`` wrote; ``RunError``: the file is missing, broken, of another kind or format."""
    again = "Run the command that makes it again."
    try:
        arrow = pq.read_table(path)
        facts = dict(json.loads((arrow.schema.metadata or {})[b"moulage"]))
        table = arrow.to_pandas()
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
        raise RunError(f"{path} is no {kind}: {error}.", again) from None
    check_format(facts.get("format", 1), path)  # catalogs of format 1 do not state it
    if facts.get("kind") != kind:
        raise RunError(f"{path} is no {kind}, but a {facts.get('kind')}.", again)
    return table, facts
