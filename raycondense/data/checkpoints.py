"""When `prepare` brings to disk what it has done: images first, then the line of the journal that tells of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from raycondense.data.journal import Journal, Totals

EVERY_IMAGES, EVERY_SECONDS = 1024, 10.0
"""A checkpoint is due after so many images or so long, whichever comes first, once the last one is on disk."""
MOST_IMAGES = 4096
"""So many may be done and not be on disk: then a slow disk is waited for."""


class _Point(NamedTuple):
    """What is done since the last checkpoint: one value, so that no interrupt leaves half of it."""

    start: int
    sizes: list[int]
    reasons: list[str]
    totals: list[Totals]
    seen: str


class Checkpoints:
    """Notes images as they are done; a context manager.

    A thread waits for the disk, so that the decoding processes are not kept waiting. When the block ends well, all is
    on disk; when it is interrupted or an image is bad, all up to the last `note` too; not when the disk itself failed.

    Args:
        journal: what tells of the images.
        flush: gives all images noted so far to the operating system and returns the descriptors to sync.
    """

    def __init__(self, journal: Journal, flush: Callable[[], list[int]]) -> None:
        self._journal, self._flush = journal, flush
        self._point = _Point(journal.images, [], [], [], "")
        self._pending: Future[None] | None = None
        self._on_the_way, self._last = 0, time.monotonic()

    def __enter__(self) -> Checkpoints:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self

    def note(self, sizes: list[int], reasons: list[str], totals: list[Totals], seen: str) -> None:
        """Note the next images, which were given to the files that ``flush`` flushes; see `Journal.add_block`."""
        before = self._point
        self._point = _Point(before.start, before.sizes + sizes, before.reasons + reasons, totals, seen)
        number = len(self._point.sizes)
        due = number >= EVERY_IMAGES or time.monotonic() - self._last >= EVERY_SECONDS
        idle = self._pending is None or self._pending.done()
        if (due and idle) or number + (0 if idle else self._on_the_way) >= MOST_IMAGES:
            self._begin()

    def _begin(self) -> None:
        self._wait()
        point = self._point
        self._pending = self._thread.submit(self._bring_to_disk, self._flush(), point)
        self._on_the_way, self._last = len(point.sizes), time.monotonic()
        self._point = _Point(point.start + len(point.sizes), [], [], point.totals, point.seen)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def _bring_to_disk(self, descriptors: list[int], point: _Point) -> None:
        for descriptor in descriptors:
            os.fsync(descriptor)
        self._journal.add_block(*point)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._thread:
            if kind is None:
                self._begin()
                self._wait()
            elif not issubclass(kind, OSError):
                # What went wrong first is what people have to hear of.
                with contextlib.suppress(OSError):
                    self._begin()
                    self._wait()
