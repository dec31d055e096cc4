"""Where evaluations keep what they found, so that nothing is done twice: rows in Parquet, assets as files.

One folder, shared by everybody who evaluates, on one machine or on storage that all machines of a cluster see at the
same path. Writers need no lock: every file is written whole under a name that its content decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raycondense.errors import DataError, choices_message
from raycondense.evaluation.parquet import ParquetTable
from raycondense.evaluation.schemas import SCHEMAS

MOST_FILES = 200
"""Files of a table after which an evaluation merges them: reading thousands of small ones takes seconds."""


class Store:
    """A folder of results.

    Args:
        root: the folder; made on the first write.

    Attributes:
        root: the folder.
        tables: ``results`` (one row a student) and ``diagnostics`` (one row an image set).
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.tables = {name: ParquetTable(self.root / name, name) for name in SCHEMAS}

    def asset(self, key: str, suffix: str = ".safetensors") -> Path:
        """Where the asset of the work ``key`` lies or is to be written (atomically)."""
        return self.root / "assets" / f"{key}{suffix}"

    @property
    def reads(self) -> Path:
        """File with a line for each time that a test split was read."""
        return self.root / "test-reads.jsonl"

    def record(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows as `Work.run` returned them; of rows with the same key the newest counts.

        Raises:
            RunError: the disk is full.
            DataError: a row does not fit its table.
        """
        named: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            values = dict(row)
            table = values.pop("table", None)
            if table not in self.tables:
                raise DataError(choices_message("table", table, self.tables))
            named.setdefault(table, []).append(values)
        for name, members in named.items():
            self.tables[name].append(members)

    def find(self, keys: Iterable[str], table: str = "results") -> dict[str, dict[str, Any]]:
        """The rows of ``table`` among ``keys``, by key."""
        return self.tables[table].find(keys)

    def tidy(self, most: int = MOST_FILES) -> None:
        """Merge the files of a table that has more than ``most`` of them."""
        for table in self.tables.values():
            if table.folder.is_dir() and sum(1 for _ in table.folder.iterdir()) > most:
                table.compact()
