"""Made-up rows of the tables of results, for whoever tests what writes or reads them."""

from __future__ import annotations

import hashlib
from typing import Any

from raycondense.evaluation.schemas import SCHEMAS

_VALUES = {"string": "x", "int64": 3, "float64": 0.5, "bool": True, "timestamp": 1_700_000_000.125}


def made_row(number: int, table: str = "results", **values: Any) -> dict[str, Any]:
    """A row that is valid, with every column of its table.

    Args:
        number: rows with the same number have the same key; in ``results`` it is also the student's.
        table: a key of `SCHEMAS`.
        values: columns that matter to the test.
    """
    row = {column.name: _VALUES[column.type] for column in SCHEMAS[table].values()}
    row["key"] = hashlib.sha256(str(number).encode()).hexdigest()
    if "student" in row:
        row["student"] = number
    return {**row, **values}
