"""Decode and encode images in worker processes, in order.

The workers import this module and nothing heavier (no torch), so they start in a fraction of a second. What
comes back does not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from raycondense.data.decode import decode_image, encode_jpeg
from raycondense.data.sources.base import Payload
from raycondense.errors import DataError, RunError

_CHUNK_BYTES = 4 << 20
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How images are stored: side in pixels, ``raw`` or ``jpeg``, JPEG quality (ignored for raw)."""

    resolution: int
    kind: Literal["raw", "jpeg"]
    quality: int

    @property
    def raw_bytes(self) -> int:
        """Bytes of the pixels of one image."""
        return 3 * self.resolution**2


class Encoded(NamedTuple):
    """One stored image: its bytes, and per channel (R, G, B) the sums of its pixels and of their squares."""

    data: bytes
    sums: tuple[int, int, int]
    squares: tuple[int, int, int]


def encode_pixels(pixels: np.ndarray, encoding: Encoding) -> Encoded:
    """Encode uint8 RGB pixels [R, R, 3] with R = ``encoding.resolution``.

    The sums are those of the pixels before JPEG changes them.
    """
    # float64 holds every sum of 256 * 256 squares exactly.
    flat = pixels.reshape(-1, 3).astype(np.float64)
    sums, squares = flat.sum(0), np.square(flat, out=flat).sum(0)
    data = pixels.tobytes() if encoding.kind == "raw" else encode_jpeg(pixels, encoding.quality)
    return Encoded(data, _three(sums), _three(squares))


def _three(values: np.ndarray) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


Stamp = tuple[int, int]
"""Bytes of a file and when it was changed last, in ns; both -1 for one that cannot be looked at."""


class Outcome(NamedTuple):
    """What became of one image: its stored form, or as text why it cannot be decoded; and its file's stamp, if it has
    a file of its own."""

    result: Encoded | str
    stamp: Stamp | None


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def encode_payloads(payloads: list[Payload], encoding: Encoding) -> list[Outcome]:
    """Decode and encode some images."""
    outcomes: list[Outcome] = []
    with warnings.catch_warnings():
        # Pillow warns about odd metadata around good pixels; what it cannot decode it raises.
        warnings.simplefilter("ignore")
        for payload in payloads:
            # Before it is read: a file that changes in between is then known to have changed.
            stamp = stamp_of(payload) if isinstance(payload, Path) else None
            result: Encoded | str
            try:
                image = payload.read_bytes() if isinstance(payload, Path) else payload
                result = encode_pixels(decode_image(image, encoding.resolution), encoding)
            except (DataError, OSError) as error:
                # An address in memory would make each list of bad images another one.
                result = _ADDRESS.sub("", str(error))
            outcomes.append(Outcome(result, stamp))
    return outcomes


def encode_in_order(payloads: Iterable[Payload], encoding: Encoding, workers: int) -> Generator[list[Outcome]]:
    """Encode a stream of images; the results come in its order, some at a time.

    Only a few chunks of images are in memory at once. With one worker the work is done in this process.

    Raises:
        RunError: a worker process died.
    """
    stream = iter(payloads)
    size = max(1, min(64, _CHUNK_BYTES // encoding.raw_bytes))
    chunks = iter(lambda: list(islice(stream, size)), [])
    if workers == 1:
        for chunk in chunks:
            yield encode_payloads(chunk, encoding)
        return
    # "spawn": a fork of a process with threads (torch, Arrow) may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    waiting: deque[Future[list[Outcome]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(encode_payloads, chunk, encoding))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "a decoding process died: out of memory (use fewer workers), or a script that calls prepare() "
            'outside of `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
