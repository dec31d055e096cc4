"""One table as a folder of Parquet files that many processes append to, read and compact at the same time.

Every file is whole from the moment that it has its name, and no file is ever changed. A name is a hash of the keys in
the file, so two writers of the same result write the same name. The same key may lie in several files: readers keep
the newest. Nothing here relies on locks, which networked storage may not have.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from raycondense.errors import DataError
from raycondense.evaluation.schemas import (
    FORMAT_VERSION,
    KEY,
    SCHEMAS,
    TABLE_KEY,
    TIME,
    VERSION_KEY,
    arrow_schema,
    check_row,
    to_arrow,
    to_rows,
)
from raycondense.storage import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa

PART, MERGED = "part-", "merged-"
"""How names of files begin: rows of one `append`, rows of one `compact`."""
ATTEMPTS = 50
"""How often a reader starts anew because a compaction took files away under it."""

DAY_NS = 24 * 3600 * 10**9


class _Stamp(NamedTuple):
    """What tells that a file under the same name is another one."""

    mtime_ns: int
    size: int


_Files: TypeAlias = "dict[str, tuple[_Stamp, pa.Table]]"
"""File name → stamp and rows."""
_Index: TypeAlias = dict[str, tuple[str, int]]
"""Key → file name and position of the row in it."""


class ParquetTable:
    """Rows by key, in files of a folder; what was read is kept as long as its file stands.

    Args:
        folder: the folder; made on the first write.
        name: a table of `SCHEMAS`.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str) -> None:
        self.folder = Path(folder)
        self.name = name
        self._files: _Files = {}
        self._index: tuple[dict[str, _Stamp], _Index] = ({}, {})

    def __reduce__(self) -> tuple[Any, ...]:
        """What was read stays here when the table travels to another process."""
        return type(self), (self.folder, self.name)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, all or none. Rows with the same key are the same result: one of them, mostly the newest, stays.

        Raises:
            DataError: a row does not fit the table.
            RunError: the disk is full.
        """
        checked = {row[KEY]: row for row in (check_row(self.name, row) for row in rows)}
        if checked:
            self._write(PART, to_arrow(self.name, checked.values()))

    def keys(self) -> frozenset[str]:
        """The keys of all rows.

        Raises:
            DataError: a file is damaged or from a newer version.
        """
        return frozenset(self._load()[1])

    def find(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The rows with these keys, by key, as `append` got them; keys without a row are left out.

        Raises:
            DataError: a file is damaged or from a newer version.
        """
        files, index = self._load()
        wanted = {key: index[key] for key in keys if key in index}
        return {row[KEY]: row for row in to_rows(self._pick(files, wanted))}

    def read(self) -> pa.Table:
        """All rows, one a key, oldest first, with the columns of `arrow_schema`.

        Raises:
            DataError: a file is damaged or from a newer version.
        """
        import pyarrow as pa

        whole = self._pick(*self._load()).sort_by([(TIME, "ascending"), (KEY, "ascending")]).combine_chunks()
        return pa.Table.from_arrays(whole.columns, schema=arrow_schema(self.name))

    def _pick(self, files: _Files, index: _Index) -> pa.Table:
        """The rows at the places of ``index``, in no order."""
        import pyarrow as pa

        positions: dict[str, list[int]] = {}
        for name, position in index.values():
            positions.setdefault(name, []).append(position)
        parts = []
        for name, wanted in positions.items():
            table = files[name][1]
            parts.append(table if len(wanted) == len(table) else table.take(wanted))
        return pa.concat_tables(parts) if parts else arrow_schema(self.name).empty_table()

    def compact(self) -> int:
        """Merge all files into one; readers and writers may go on meanwhile, and a kill loses nothing.

        Returns:
            How many files were merged; 0 where there was nothing to do or another process is at it.

        Raises:
            DataError: a file is damaged or from a newer version.
            RunError: the disk is full.
        """
        from filelock import FileLock, Timeout

        if not self.folder.is_dir():
            return 0
        # The lock only saves work: two compactions at once keep every row too, as each takes away only what it merged.
        lock = FileLock(self.folder / ".compact.lock")
        try:
            with lock.acquire(timeout=0):
                return self._compact()
        except Timeout:
            return 0

    def _compact(self) -> int:
        files, index = self._load()
        if len(files) < 2:
            return 0
        merged = self._write(MERGED, self._pick(files, index).combine_chunks())
        for name, (read, _) in files.items():
            path = self.folder / name
            # A writer may have replaced the file since; then it stays, for the next time.
            if path != merged and _stamp(path) == read:
                path.unlink(missing_ok=True)
        for leftover in self.folder.glob(f".{PART}*.tmp"):
            # Of a writer that was killed; one that is alive needs milliseconds.
            stamp = _stamp(leftover)
            if stamp is not None and time.time_ns() - stamp.mtime_ns > DAY_NS:
                leftover.unlink(missing_ok=True)
        return len(files)

    def _write(self, prefix: str, table: pa.Table) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        keys = sorted(table[KEY].to_pylist())
        path = self.folder / f"{prefix}{hashlib.sha256(chr(10).join(keys).encode()).hexdigest()[:32]}.parquet"
        # Through memory: so a full disk is Python's OSError, which `atomic_path` knows.
        sink = pa.BufferOutputStream()
        merged = prefix == MERGED
        # A part has few rows: dictionaries and compression would make it larger and three times slower to read.
        compression = "zstd" if merged else "none"
        pq.write_table(table, sink, compression=compression, use_dictionary=merged, write_statistics=merged)
        with atomic_path(path) as temporary:
            temporary.write_bytes(sink.getvalue())
        return path

    def _list(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{self.folder}: {error.strerror}; valid: a folder of table {self.name}") from error
        return sorted(name for name in names if name.startswith((PART, MERGED)) and name.endswith(".parquet"))

    def _load(self) -> tuple[_Files, _Index]:
        """Read what is new: all files, and where in them the newest row of every key is."""
        for _ in range(ATTEMPTS):
            names = self._list()
            files = self._read_files(names)
            # A listing that ran during a compaction may lack both a merged file and those that it replaced.
            again = self._list()
            if files is None or not set(names) <= set(again) or _merged(names) != _merged(again):
                time.sleep(0.01)
                continue
            stamps = {name: stamp for name, (stamp, _) in files.items()}
            known, index = self._index
            if stamps != known:
                index = _newest(files)
                self._files, self._index = files, (stamps, index)
            return files, index
        raise DataError(f"{self.folder}: its files kept changing while they were read; try again")

    def _read_files(self, names: list[str]) -> _Files | None:
        """Name → stamp and rows; None when a file has vanished."""
        files: _Files = {}
        for name in names:
            path = self.folder / name
            stamp = _stamp(path)
            known = self._files.get(name)
            if stamp is None:
                return None
            if known is None or known[0] != stamp:
                table = _read_file(path, self.name)
                if table is None:
                    return None
                known = stamp, table
            files[name] = known
        return files


def _merged(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(MERGED)]


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _Stamp(found.st_mtime_ns, found.st_size)


def _newest(files: _Files) -> _Index:
    import pyarrow as pa

    index: _Index = {}
    times: dict[str, int] = {}
    for name, (_, table) in files.items():
        moments = table[TIME].cast(pa.int64()).to_pylist()
        for position, (key, moment) in enumerate(zip(table[KEY].to_pylist(), moments, strict=True)):
            if key not in times or moment > times[key]:
                index[key], times[key] = (name, position), moment
    return index


def _read_file(path: Path, name: str) -> pa.Table | None:
    """The rows of one file in the columns of today; None when the file has vanished.

    Raises:
        DataError: the file is damaged, of another table, or from a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise DataError(f"{path}: {error.strerror}; valid: a Parquet file that can be read") from error
    mend = "delete it, and what it held is evaluated again"
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        if not 0 <= file.metadata.num_rows <= len(data):
            raise ValueError(f"{file.metadata.num_rows} rows in {len(data)} bytes")
        table = file.read(use_threads=False)
        table.validate(full=True)  # lengths and texts, which whatever uses them takes for granted
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: damaged Parquet file ({reason}); {mend}") from error
    metadata = table.schema.metadata or {}
    if metadata.get(TABLE_KEY) != name.encode():
        raise DataError(f"{path}: not a file of the table {name} of raycondense; move it out of this folder")
    version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise DataError(
            f"{path}: format version: found {version or 'none'}, valid: up to {FORMAT_VERSION}; "
            "it was written by a newer raycondense, upgrade this one"
        )
    schema = arrow_schema(name)
    if table.schema.equals(schema):
        return table
    for column in SCHEMAS[name].values():
        if column.name not in table.column_names:
            if not column.nullable:
                raise DataError(f"{path}: column {column.name}: missing; {mend}")
            table = table.append_column(column.name, pa.nulls(len(table), schema.field(column.name).type))
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{path}: columns of other types than table {name} has ({error}); {mend}") from error
