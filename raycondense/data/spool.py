"""A store on disk between sources that are read front to back and files that are ordered by class.

Shuffled rows cannot be read class by class without reading nearly everything again for each class. So each
image is decoded once, in the source's order, and put on disk into one of a few buckets, by where it will
stand in the finished file; then bucket after bucket is copied in the final order and given up. Every byte
is written twice and read twice whatever the number of classes, random reads stay inside a bucket that fits
in the page cache, and the spool shrinks as the finished file grows. The buckets are files of the folder in which
`prepare` works, so that an interrupted one can go on with them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from raycondense.errors import DataError

_BUCKET_BYTES = 256 << 20
_MOST_BUCKETS = 64


class Spool:
    """Images by their rank in the finished file; a context manager.

    Args:
        folder: where the buckets lie, ``spool-00`` and so on.
        number: ranks are 0 to ``number - 1``.
        expected_bytes: rough size of one image.

    Attributes:
        buckets: how many there are; a bucket holds a range of ranks, in their order.
    """

    def __init__(self, folder: Path, number: int, expected_bytes: int) -> None:
        self.buckets = max(1, min(_MOST_BUCKETS, number * expected_bytes // _BUCKET_BYTES))
        self._paths = [folder / f"spool-{bucket:02d}" for bucket in range(self.buckets)]
        self._ends = [0] * self.buckets
        self._offsets = np.zeros(number, np.int64)
        self._sizes = np.zeros(number, np.int64)
        self._first = 0
        self._files: dict[int, BinaryIO] = {}

    def restore(self, ranks: np.ndarray, sizes: np.ndarray, dropped: int) -> None:
        """Say, before the block begins, what an earlier spool was given; it is kept.

        Args:
            ranks: integers [n], in the order in which they were added.
            sizes: bytes of each image, integers [n], 0 for one that was left out.
            dropped: the first buckets, which were given up since.

        Raises:
            DataError: a bucket is missing or too short.
        """
        buckets = ranks * self.buckets // len(self._sizes)
        for bucket, path in enumerate(self._paths):
            members = buckets == bucket
            ends = np.cumsum(sizes[members], dtype=np.int64)
            self._offsets[ranks[members]] = ends - sizes[members]
            self._ends[bucket] = int(ends[-1]) if len(ends) else 0
            found = path.stat().st_size if path.is_file() else 0
            if bucket >= dropped and found < self._ends[bucket]:
                raise DataError(f"{path}: found {found} bytes, valid: {self._ends[bucket]} or more")
        self._sizes[ranks] = sizes
        self._first = dropped

    def __enter__(self) -> Spool:
        try:
            for bucket in range(self._first, self.buckets):
                end = self._ends[bucket]
                file = self._paths[bucket].open("r+b" if end else "w+b", buffering=1 << 18)
                self._files[bucket] = file
                file.truncate(end)
                file.seek(end)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            # What did not fit on the disk is not wanted any more either.
            with contextlib.suppress(OSError):
                file.close()
        self._files.clear()

    def add(self, rank: int, data: bytes) -> None:
        """Keep the bytes of one image; a rank may be left out."""
        bucket = rank * self.buckets // len(self._sizes)
        self._offsets[rank] = self._ends[bucket]
        self._sizes[rank] = len(data)
        self._files[bucket].write(data)
        self._ends[bucket] += len(data)

    def flush(self) -> list[int]:
        """Give all bytes to the operating system; returns what to call ``os.fsync`` with to have them on disk."""
        for file in self._files.values():
            file.flush()
        return [file.fileno() for file in self._files.values()]

    def first_rank(self, bucket: int) -> int:
        """The smallest rank of a bucket; the number of all for the one behind the last."""
        return -(-bucket * len(self._sizes) // self.buckets)

    def images(self, bucket: int) -> Iterator[tuple[int, bytes]]:
        """Every kept (rank, bytes) of a bucket by ascending rank."""
        file = self._files[bucket]
        file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        for rank in range(self.first_rank(bucket), self.first_rank(bucket + 1)):
            if self._sizes[rank]:
                yield rank, os.pread(file.fileno(), int(self._sizes[rank]), int(self._offsets[rank]))

    def drop(self, bucket: int) -> None:
        """Give up a bucket and its place on disk."""
        self._files.pop(bucket).close()
        self._paths[bucket].unlink()
