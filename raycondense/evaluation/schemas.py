"""Columns of the tables of results, with types, units and meanings: the one description of the files' format.

Light on purpose: the Arrow schemas are made where a file is read or written. A new column is added with
``nullable=True`` (older files read as None there); any other change needs a new `FORMAT_VERSION`.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from raycondense.errors import DataError, choices_message

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
VERSION_KEY, TABLE_KEY = b"raycondense.format_version", b"raycondense.table"
"""Names of the version and of the table in a file's schema metadata."""
KEY, TIME = "key", "finished_at"
"""The column that identifies a row, and the one that tells which of two with the same key is newer."""

Type = Literal["string", "int64", "float64", "bool", "timestamp"]
INT64 = 2**63
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: Type
    """``timestamp`` is unix seconds (float) in rows, milliseconds UTC in files."""
    unit: str
    """``fraction`` lies in [0, 1]; ``s``, ``bytes``, ``count`` and ``px`` are not negative; ``1`` has no unit."""
    description: str
    nullable: bool = False

    @property
    def valid(self) -> str:
        """What the column takes, for messages."""
        names = {"string": "text", "int64": "an int", "float64": "a finite float", "bool": "a bool"}
        what = names.get(self.type, "unix seconds (float)")
        if self.unit == "fraction":
            what += " in [0, 1]"
        elif self.unit in ("s", "bytes", "count", "px"):
            what += " >= 0"
        return what + (" or None" if self.nullable else "")

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` can stand in this column."""
        if value is None:
            return self.nullable
        if self.type in ("string", "bool"):
            return isinstance(value, str if self.type == "string" else bool)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        if self.type == "int64" and not (isinstance(value, numbers.Integral) and -INT64 <= int(value) < INT64):
            return False
        if not math.isfinite(value):
            return False
        if self.unit == "fraction":
            # A mean of ones may be the next number after one.
            return -SLACK <= float(value) <= 1 + SLACK
        return float(value) >= 0 or self.unit not in ("s", "bytes", "count", "px")


def _columns(*described: tuple[str, Type, str, str], nullable: Iterable[str] = ()) -> dict[str, Column]:
    optional = set(nullable)
    return {name: Column(name, kind, unit, what, name in optional) for name, kind, unit, what in described}


RESULTS = _columns(
    ("key", "string", "sha256", "content hash of the work: same key, same result"),
    ("finished_at", "timestamp", "s", "when the student was scored, UTC"),
    ("method", "string", "1", "where the images come from: raycondense, random, herding, kmeans, pixel-dm, ..."),
    ("architecture", "string", "1", "the student's architecture"),
    ("ipc", "int64", "count", "images per class; 0 is the whole training set"),
    ("accounting", "string", "1", "how images are counted: bank, bytes, stream"),
    ("labels", "string", "1", "labels of the training: hard, soft"),
    ("augmented", "bool", "1", "whether the student was trained with augmentation"),
    ("student", "int64", "1", "the student's number, from which its seed is derived"),
    ("protocol", "string", "1", "name of the training recipe"),
    ("recipe_sha256", "string", "sha256", "hash of everything in the training recipe"),
    ("schedule_sha256", "string", "sha256", "hash of the recipe apart from labels and augmentation"),
    ("accuracy", "float64", "fraction", "top-1 accuracy on the scored images after the last step"),
    ("correct", "int64", "count", "scored images that were classified correctly"),
    ("test_images", "int64", "count", "scored images"),
    ("split", "string", "1", "split of the scored images: test, val, train"),
    ("test_sha256", "string", "sha256", "hash of the scored images' file"),
    ("train_sha256", "string", "sha256", "hash of the file that real images were drawn from"),
    ("source", "string", "1", "folder or file that the training images come from"),
    ("source_sha256", "string", "sha256", "hash of the source"),
    ("set_sha256", "string", "sha256", "hash of how the images are made or found, the seed of a draw apart"),
    ("artifact_sha256", "string", "sha256", "hash of the artefact; none for real images"),
    ("dataset", "string", "1", "name of the dataset"),
    ("classes", "int64", "count", "classes of the dataset"),
    ("resolution", "int64", "px", "side of the student's square input"),
    ("images", "int64", "count", "distinct images that the student was trained on"),
    ("bytes", "int64", "bytes", "what has to be kept to have these images"),
    ("teacher_bytes", "int64", "bytes", "what has to be kept of the teacher; 0 with hard labels"),
    ("label_bytes", "int64", "bytes", "what has to be kept of soft labels; 0 with hard labels"),
    ("steps", "int64", "count", "training steps"),
    ("loss", "float64", "1", "loss of the last step; none where the training diverged"),
    ("seconds", "float64", "s", "wall-clock time of the student: images, training, scoring"),
    ("train_seconds", "float64", "s", "wall-clock time of the training"),
    ("generation_seconds", "float64", "s", "wall-clock time of making the images"),
    ("device", "string", "1", "device of the training"),
    ("torch", "string", "1", "version of torch"),
    ("raycondense", "string", "1", "version of raycondense"),
    ("attempt", "int64", "count", "how often the work was started, this time included"),
    nullable=("schedule_sha256", "train_sha256", "set_sha256", "artifact_sha256", "loss"),
)

MEASURES = (
    "spread_ratio", "center_margin", "positive_margin", "center_cosine",
    "coverage", "expected_coverage", "density", "nearest_real",
)  # fmt: skip
"""What `raycondense.evaluation.diagnostics` finds of an image set; None where it cannot be known."""
DIAGNOSTICS = _columns(
    ("key", "string", "sha256", "content hash of the work: same key, same result"),
    ("finished_at", "timestamp", "s", "when the images were measured, UTC"),
    ("method", "string", "1", "where the images come from: raycondense, random, herding, kmeans, pixel-dm, ..."),
    ("ipc", "int64", "count", "images per class"),
    ("accounting", "string", "1", "how images are counted: bank, bytes, stream"),
    ("source", "string", "1", "folder or file that the images come from"),
    ("source_sha256", "string", "sha256", "hash of the source"),
    ("train_sha256", "string", "sha256", "hash of the file of the real images compared with"),
    ("classes", "int64", "count", "classes of the dataset"),
    ("resolution", "int64", "px", "side of the square images"),
    ("images", "int64", "count", "images measured"),
    ("spread_ratio", "float64", "1", "squared distance to the own class's mean, over that of real images"),
    ("center_margin", "float64", "1", "how much nearer the own class's real center is than the nearest other, -1 to 1"),
    ("positive_margin", "float64", "fraction", "images nearer to their own class's real center than to any other"),
    ("center_cosine", "float64", "1", "cosine of a class's center with the most similar other one, -1 to 1"),
    ("coverage", "float64", "fraction", "real images with an image of the set in their neighbourhood"),
    ("expected_coverage", "float64", "fraction", "the coverage that as many new real images would have"),
    ("density", "float64", "1", "real neighbourhoods that an image lies in, over the number expected of real ones"),
    ("nearest_real", "float64", "1", "distance to the nearest real image of the class, over that between real images"),
    ("reference", "string", "1", "the network whose features were compared"),
    ("seconds", "float64", "s", "wall-clock time of the measuring"),
    nullable=("train_sha256", *MEASURES),
)

SCHEMAS: dict[str, dict[str, Column]] = {"results": RESULTS, "diagnostics": DIAGNOSTICS}
"""Table → column name → column, in the order of the files."""


def check_row(table: str, row: Mapping[str, Any], columns: Mapping[str, Column] | None = None) -> dict[str, Any]:
    """A row with every column of its table; nullable ones that it lacks are None.

    Raises:
        DataError: a column is missing, unknown, or has a value that does not fit.
    """
    columns = SCHEMAS[table] if columns is None else columns
    for name in row:
        if name not in columns:
            raise DataError(f"table {table}: {choices_message('column', name, columns)}")
    for name, column in columns.items():
        if name not in row and not column.nullable:
            raise DataError(f"table {table}, column {name}: missing; valid: {column.valid}")
        if not column.accepts(row.get(name)):
            raise DataError(f"table {table}, column {name}: found {row.get(name)!r}, valid: {column.valid}")
    return {name: row.get(name) for name in columns}


@functools.cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table: every field's metadata has its unit and description, the schema's its version."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("ms", tz="UTC"),
    }
    fields = [
        pa.field(
            column.name,
            types[column.type],
            nullable=column.nullable,
            metadata={b"unit": column.unit.encode(), b"description": column.description.encode()},
        )
        for column in SCHEMAS[table].values()
    ]
    return pa.schema(fields, metadata={VERSION_KEY: str(FORMAT_VERSION).encode(), TABLE_KEY: table.encode()})


def to_arrow(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows that `check_row` has checked as an Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist([{**row, TIME: round(row[TIME] * 1000)} for row in rows], schema=arrow_schema(table))


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """An Arrow table as plain rows, times as unix seconds."""
    import pyarrow as pa

    milliseconds = table[TIME].cast(pa.int64())
    rows = table.set_column(table.schema.get_field_index(TIME), TIME, milliseconds).to_pylist()
    for row in rows:
        row[TIME] /= 1000
    return rows
