"""The work of `prepare`: one pass over a source into the betons of its parts, which may go on from an earlier one."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from raycondense.data.checkpoints import Checkpoints
from raycondense.data.dataset_writer import DatasetFile
from raycondense.data.encoding import Encoding, encode_in_order
from raycondense.data.identity import Seen
from raycondense.data.journal import Done, Journal, JournalError
from raycondense.data.sidecar import Sidecar
from raycondense.data.sources import Source
from raycondense.data.spool import Spool
from raycondense.errors import DataError

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


class Job:
    """One pass over a source. What it writes does not depend on the number of workers, nor on where it was interrupted.

    Args:
        images: the source.
        encoding: how images are stored.
        workers: decoding processes.
        orders: for each part, the source's indices in the order of the finished file.
        parts: the file of each part.
        folder: where a spool may lie.
        skip_bad: note images that cannot be decoded instead of stopping at them.
        progress: called as images are done.

    Attributes:
        bad: index and reason of the images that were left out.
    """

    def __init__(
        self,
        images: Source,
        encoding: Encoding,
        workers: int,
        orders: list[np.ndarray],
        parts: list[DatasetFile],
        folder: Path,
        skip_bad: bool,
        progress: Progress | None,
    ) -> None:
        self._images, self._encoding, self._workers = images, encoding, workers
        # The parts one after the other: the rank of an image says in which file it stands and where.
        self._order = np.concatenate(orders)
        self._ends = np.cumsum([len(order) for order in orders]).tolist()
        # In the order of reading.
        self._ranks = np.argsort(self._order) if images.sequential else np.arange(len(self._order))
        self._parts, self._skip_bad, self._progress = parts, skip_bad, progress
        self._spool = Spool(folder, len(self._order), encoding.raw_bytes) if images.sequential else None
        self._done = self._drained = 0
        self._seen = Seen()
        self.bad: list[tuple[int, str]] = []

    def restore(self, done: Done) -> None:
        """Go on from what an earlier job of the same identity did, which left its files.

        Raises:
            JournalError: they are damaged, or images that were read have changed since.
        """
        number = self._done = len(done.sizes)
        whole = number == len(self._ranks)
        if number > len(self._ranks) or ((done.drained or done.finished) and not whole):
            raise JournalError("its journal is damaged")
        ranks = self._ranks[:number]
        self._seen.add_files(self._images, self._order[ranks])
        if number and self._seen.hexdigest() != done.seen:
            raise JournalError("images that were read have changed since")
        left_out = ranks[done.sizes == 0]
        self.bad = list(zip(self._order[left_out].tolist(), done.reasons, strict=True))
        if self.bad and not self._skip_bad:
            raise JournalError(f"it left out {len(self.bad)} images, and skip_bad is off now")
        if not done.finished and number:
            self._restore_files(ranks, left_out, done)

    def _restore_files(self, ranks: np.ndarray, left_out: np.ndarray, done: Done) -> None:
        if len(done.totals) != len(self._parts):
            raise JournalError("its journal is damaged")
        written = len(ranks)
        try:
            if self._spool is not None:
                if done.drained > self._spool.buckets:
                    raise JournalError("its journal is damaged")
                self._spool.restore(ranks, done.sizes, done.drained)
                self._drained, written = done.drained, self._spool.first_rank(done.drained)
            sizes = np.zeros(len(self._order), done.sizes.dtype)
            sizes[ranks] = done.sizes
            first = 0
            for part, end, totals in zip(self._parts, self._ends, done.totals, strict=True):
                stored = first + np.flatnonzero(sizes[first : min(end, written)])
                part.restore(sizes[stored], self._images.labels[self._order[stored]])
                part.skipped = int(((left_out >= first) & (left_out < end)).sum())
                part.totals = totals
                first = end
        except DataError as error:
            raise JournalError(f"its files are damaged ({error})") from error

    def run(self, journal: Journal) -> list[Sidecar]:
        """Decode every image that is not done and write it to its place; returns the parts' sidecars.

        Raises:
            DataError: an image cannot be decoded and ``skip_bad`` is off, or a class has no image that can be.
            RunError: a worker process died.
            OSError: the disk is full.
        """
        with ExitStack() as stack:
            for part in self._parts:
                stack.callback(part.close)
                part.open()
            if self._spool is None:
                self._decode(journal, self._write, self._flush)
            else:
                with self._spool as spool:
                    self._decode(journal, spool.add, spool.flush)
                    self._drain(journal, spool)
            return [part.finish() for part in self._parts]

    def _drain(self, journal: Journal, spool: Spool) -> None:
        """Copy the buckets to their places, from the first one that is not there yet."""
        for bucket in range(self._drained, spool.buckets):
            for rank, data in spool.images(bucket):
                self._write(rank, data)
            for descriptor in self._flush():
                os.fsync(descriptor)
            journal.add_drained(bucket + 1)
            spool.drop(bucket)

    def _part(self, rank: int) -> DatasetFile:
        return self._parts[0 if rank < self._ends[0] else 1]

    def _write(self, rank: int, data: bytes) -> None:
        self._part(rank).add_stored(data, int(self._images.labels[self._order[rank]]))

    def _flush(self) -> list[int]:
        return [descriptor for part in self._parts for descriptor in part.flush()]

    def _decode(self, journal: Journal, keep: Callable[[int, bytes], None], flush: Callable[[], list[int]]) -> None:
        """Give the images that are not done to ``keep``; the bad ones are noted."""
        self._tell()
        if self._done == len(self._ranks):
            return
        payloads = self._images.read(self._order[self._ranks[self._done :]])
        with (
            Checkpoints(journal, flush) as checkpoints,
            closing(encode_in_order(payloads, self._encoding, self._workers)) as chunks,
        ):
            for chunk in chunks:
                sizes, reasons = [], []
                ranks = self._ranks[self._done : self._done + len(chunk)].tolist()
                for rank, (result, _) in zip(ranks, chunk, strict=True):
                    if isinstance(result, str):
                        self._note_bad(rank, result)
                        reasons.append(result)
                        sizes.append(0)
                    else:
                        self._part(rank).add_statistics(result)
                        keep(rank, result.data)
                        sizes.append(len(result.data))
                self._seen.add(stamp for _, stamp in chunk)
                checkpoints.note(sizes, reasons, [part.totals for part in self._parts], self._seen.hexdigest())
                self._done += len(chunk)
                self._tell()

    def _note_bad(self, rank: int, reason: str) -> None:
        index = int(self._order[rank])
        if not self._skip_bad:
            # In a shard or an archive, an image is repaired by writing all of them again.
            goes_on = "" if self._images.sequential else " (repaired in its place, the same command goes on from here)"
            raise DataError(
                f"{self._images.key(index)}: this image cannot be decoded ({reason}); repair or remove it, or leave "
                f"such images out with --skip-bad{goes_on}"
            )
        self.bad.append((index, reason))
        self._part(rank).skipped += 1

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done, len(self._order))
