"""Parquet shards in the Hugging Face layout: an ``image`` or ``img`` column and a ``label`` column.

Row groups of such shards are large and their rows shuffled, so they are read from front to back once, in
small batches; only the labels are read beforehand (Parquet keeps columns apart).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycondense.data.sources.base import Source, check_split, checked_labels, unique_names
from raycondense.errors import DataError
from raycondense.storage import parse_json

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
PREFIXES = {"train": ("train-", "train_"), "val": ("validation-", "val-", "valid-"), "test": ("test-", "test_")}
_BATCH = 64


def find_shards(folder: Path) -> list[Path]:
    """The Parquet files of a folder or of its ``data`` folder, where the Hugging Face hub puts them."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


class ParquetSource(Source):
    """The shards of one split, in the order of their names.

    Files named ``train-…``, ``validation-…`` and ``test-…`` are splits; files with other names are ``train``.
    Class names come from the schema's ``huggingface`` metadata; without it they are ``"0"`` to the largest
    label.

    Raises:
        DataError: a shard or column is missing or unreadable, or there is no such split.
    """

    sequential = True

    def __init__(self, shards: Sequence[Path], split: str, name: str) -> None:
        self.description, self.split = f"parquet {name}", split
        by_split: dict[str, list[Path]] = {}
        for shard in shards:
            by_split.setdefault(_split_of(shard), []).append(shard)
        check_split(name, split, [s for s in PREFIXES if s in by_split])
        self._shards = by_split[split]
        self._image, label = _columns(self._shards[0])
        names = _class_names(self._shards[0], label)
        per_shard = [self._read_labels(shard, label) for shard in self._shards]
        self._starts = np.cumsum([0, *(len(part) for part in per_shard)])
        labels = np.concatenate(per_shard)
        if not names and len(labels):
            names = [str(c) for c in range(min(int(labels.max()) + 1, len(labels)))]
        self.classes = unique_names(names)
        self.labels = checked_labels(labels, len(names), self)

    def _read_labels(self, shard: Path, column: str) -> np.ndarray:
        import pyarrow as pa

        with _readable(shard) as file:
            if _columns(shard) != (self._image, column):
                raise DataError(f"{shard}: its columns are not {self._image}, {column} as in {self._shards[0]}")
            values = _guard(shard, lambda: file.read(columns=[column])).column(column)
        if not pa.types.is_integer(values.type) or values.null_count:
            found = f"{values.null_count} rows without a value" if values.null_count else f"type {values.type}"
            raise DataError(f"{shard}: column {column}: found {found}, valid: an integer in every row")
        return values.to_numpy().astype(np.int64)

    def key(self, index: int) -> str:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return f"{self._shards[shard]} row {index - int(self._starts[shard])}"

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[bytes]:
        wanted = np.asarray(indices, dtype=np.int64)
        for number, shard in enumerate(self._shards):
            first, end = int(self._starts[number]), int(self._starts[number + 1])
            rows = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, end)] - first
            if len(rows):
                yield from self._read_shard(shard, rows)

    def _read_shard(self, shard: Path, rows: np.ndarray) -> Iterator[bytes]:
        with _readable(shard) as file:
            # Only the bytes of the images, not their paths; batches keep a row group out of memory.
            batches = file.iter_batches(_BATCH, columns=[self._image])
            start = at = 0
            while at < len(rows):
                batch = _guard(shard, lambda: next(batches, None))
                if batch is None:
                    raise DataError(f"{shard}: damaged: it ends before row {rows[at]}")
                column = batch.column(0)
                while at < len(rows) and rows[at] < start + len(batch):
                    yield _image_bytes(column[int(rows[at]) - start].as_py())
                    at += 1
                start += len(batch)


def _image_bytes(value: Any) -> bytes:
    """The encoded image of a cell; empty where there is none, which the decoder reports with its row."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else b""


def _split_of(shard: Path) -> str:
    return next((s for s, prefixes in PREFIXES.items() if shard.name.lower().startswith(prefixes)), "train")


def _guard(shard: Path, action: Any) -> Any:
    import pyarrow as pa

    try:
        return action()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{shard}: cannot be read as Parquet: {reason}") from error


def _readable(shard: Path) -> Any:
    import pyarrow.parquet as pq

    # pre_buffer would load whole column chunks, which here are whole shards.
    file = _guard(shard, lambda: pq.ParquetFile(shard, pre_buffer=False, buffer_size=1 << 20))
    # A few bytes can stand for billions of equal labels, but every row has an image.
    rows, size = file.metadata.num_rows, shard.stat().st_size
    if not 0 <= rows <= size:
        file.close()
        raise DataError(f"{shard}: damaged: found {rows} rows in {size} bytes")
    return file


def _columns(shard: Path) -> tuple[str, str]:
    """Names of the image and the label column of a shard."""
    import pyarrow as pa

    with _readable(shard) as file:
        schema = file.schema_arrow
    found = []
    for kind, candidates in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        name = next((c for c in candidates if c in schema.names), None)
        if name is None:
            valid = " or ".join(candidates)
            raise DataError(f"{shard}: found no {kind} column {valid}; its columns are: {', '.join(schema.names)}")
        found.append(name)
    image = schema.field(found[0]).type
    if pa.types.is_struct(image):
        image = image.field("bytes").type if image.get_field_index("bytes") >= 0 else image
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise DataError(f"{shard}: column {found[0]}: found {image}, valid: a struct with bytes and path, or bytes")
    return found[0], found[1]


def _class_names(shard: Path, label: str) -> list[str]:
    """Class names in the ``huggingface`` metadata of the schema, or none."""
    with _readable(shard) as file:
        metadata = file.schema_arrow.metadata or {}
    try:
        feature = parse_json(metadata.get(b"huggingface", b"{}").decode())["info"]["features"][label]
        return [str(name) for name in feature.get("names") or []]
    except KeyError:
        return []
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{shard}: the huggingface metadata of its schema is damaged: {error}") from error
