"""A temporary store between sources that are read front to back and files that are ordered by class.

Shuffled rows cannot be read class by class without reading nearly everything again for each class. So each
image is decoded once, in the source's order, and put on disk into one of a few buckets, by where it will
stand in the finished file; then bucket after bucket is copied in the final order and given up. Every byte
is written twice and read twice whatever the number of classes, random reads stay inside a bucket that fits
in the page cache, and the spool shrinks as the finished file grows. The buckets are files without a name: a
killed process leaves none behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

_BUCKET_BYTES = 256 << 20
_MOST_BUCKETS = 64


class Spool:
    """Images by their rank in the finished file; a context manager.

    Args:
        folder: where the disk has room.
        number: ranks are 0 to ``number - 1``.
        expected_bytes: rough size of one image.
    """

    def __init__(self, folder: Path, number: int, expected_bytes: int) -> None:
        self._buckets = max(1, min(_MOST_BUCKETS, number * expected_bytes // _BUCKET_BYTES))
        self._folder = folder
        self._offsets = np.zeros(number, np.int64)
        self._sizes = np.zeros(number, np.int64)

    def __enter__(self) -> Spool:
        with ExitStack() as stack:
            self._files = [
                stack.enter_context(tempfile.TemporaryFile(dir=self._folder, buffering=1 << 18))
                for _ in range(self._buckets)
            ]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files:
            # Nothing of the spool is wanted any more: on a full disk, make room for what is left in the buffers.
            os.ftruncate(file.fileno(), 0)
        self._stack.__exit__(kind, error, traceback)

    def _bucket(self, rank: int) -> int:
        return rank * self._buckets // len(self._sizes)

    def add(self, rank: int, data: bytes) -> None:
        """Keep the bytes of one image; a rank may be left out."""
        file = self._files[self._bucket(rank)]
        self._offsets[rank] = file.tell()
        self._sizes[rank] = len(data)
        file.write(data)

    def drain(self) -> Iterator[tuple[int, bytes]]:
        """Every kept (rank, bytes) by ascending rank; buckets are emptied behind it, so it works once."""
        for file in self._files:
            file.flush()
        open_bucket = -1
        for rank in range(len(self._sizes)):
            bucket = self._bucket(rank)
            file = self._files[bucket]
            if bucket != open_bucket:
                if open_bucket >= 0:
                    os.ftruncate(self._files[open_bucket].fileno(), 0)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
                open_bucket = bucket
            if self._sizes[rank]:
                yield rank, os.pread(file.fileno(), int(self._sizes[rank]), int(self._offsets[rank]))
