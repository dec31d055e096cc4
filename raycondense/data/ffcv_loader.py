"""A careful hand on FFCV 1.0.2: images come back in the order that was asked for, and nothing hangs or leaks.

What needs care, here, in `ffcv_epoch` and in `ffcv_tables`: a Loader compiles for seconds, so one is kept a process and
its order is swapped; an abandoned epoch's thread lives for ever; a consumer waits for ever for a producer that died;
batches are decoded to buffers that are used again; between epochs nothing is decoded; more threads than CPUs are
refused; torch's thread count is changed behind one's back; one of numba's threading layers dies of two threads that
decode.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Generator, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from raycondense.data.beton import BetonReader
from raycondense.data.cpus import usable_cpus
from raycondense.data.ffcv_decoder import make_decoder
from raycondense.data.ffcv_epoch import FreshMemory, start_epoch, torch_threads_kept
from raycondense.data.ffcv_tables import make_loader
from raycondense.errors import DataError


class FfcvImages:
    """Decoded images of one beton through one ``ffcv.Loader``. Make it with `open_ffcv`.

    Args:
        path: the beton.
        resolution: side of the decoded images in pixels, at most the stored one.
        workers: decoding threads; as many as there are usable CPUs at most.
        os_cache: leave caching to the operating system; or read whole pages as they are needed, for files larger
            than memory.
        jit: compile FFCV's code. That takes about 2 s; without it decoding is slower but starts at once.

    Attributes:
        page_size: bytes of a page.

    Raises:
        DataError: the beton is damaged.
    """

    def __init__(self, path: str, *, resolution: int, workers: int, os_cache: bool, jit: bool) -> None:
        # The reader checks every offset in the file: FFCV follows them blindly, in compiled code.
        sidecar = BetonReader(path, threads=1).sidecar
        self.path, self.resolution, self.os_cache = path, resolution, os_cache
        decoder = make_decoder(stored=sidecar.resolution, resolution=resolution, jpeg=sidecar.encoding == "jpeg")
        with torch_threads_kept():
            self._loader = _make_loader(path, decoder, workers, os_cache, jit)
        self._lock = threading.Lock()
        self.page_size = int(self._loader.reader.page_size)

    def pages(self, positions: np.ndarray) -> np.ndarray:
        """Page of the file in which each of the images at ``positions`` lies, uint64 [n]."""
        places: np.ndarray = self._loader.reader.metadata["f0"]["data_ptr"][positions]
        return places // np.uint64(self.page_size)

    def batches(
        self, steps: Iterator[np.ndarray], *, batch: int, epoch_steps: int, pinned: bool = False
    ) -> Generator[Tensor, None, None]:
        """The images of all steps, in their order, in batches that need not end where steps end.

        With ``os_cache`` this is one endless epoch of FFCV. Without it FFCV plans which pages it keeps, so there are
        epochs, of which the next one starts while the last batches of the one before are used.

        Args:
            steps: positions of each step's images, int64 [n], without end; drawn some batches ahead, by a thread.
            batch: most images of a batch.
            epoch_steps: steps of an epoch, where there are epochs.
            pinned: put them in page-locked memory, from which a GPU copies by itself.

        Yields:
            uint8 [b, 3, R, R], contiguous, the receiver's own. Closing ends FFCV's threads.

        Raises:
            DataError: an image is damaged or the file cannot be read any more.
        """
        memory = FreshMemory((batch, 3, self.resolution, self.resolution), pinned)
        epoch = self._endless(steps, batch, memory) if self.os_cache else self._epoch(steps, batch, epoch_steps, memory)
        try:
            while epoch is not None:
                images = epoch.wait(self.path)
                if images is None:
                    following, epoch.successor = epoch.successor, None
                    epoch.close()
                    epoch = following
                    continue
                damaged = epoch.damaged(len(images))
                if len(damaged):
                    raise DataError(f"{self.path}: image {damaged[0]} is damaged; prepare or copy it again")
                yield images
        finally:
            if epoch is not None:
                epoch.close()

    def _endless(self, steps: Iterator[np.ndarray], batch: int, memory: FreshMemory) -> Any:
        with self._lock, torch_threads_kept():
            self._loader.batch_size = batch
            return start_epoch(self._loader, memory, batches=cut(steps, batch))

    def _epoch(self, steps: Iterator[np.ndarray], batch: int, length: int, memory: FreshMemory) -> Any:
        """An epoch of the next ``length`` steps that starts the following one at its end."""
        planned: list[np.ndarray] = []

        def plan(share: float) -> None:
            # Little by little: 1000 steps at once would take as long as several batches.
            planned.extend(islice(steps, math.ceil(share * length) - len(planned)))

        def start() -> Any:
            plan(1.0)
            order = np.concatenate(planned)
            planned.clear()
            with self._lock:
                self._loader.batch_size = batch
                return start_epoch(self._loader, memory, order=order, ahead=ahead)

        def ahead(share: float) -> Any:
            plan(share)
            return start() if share == 1 else None

        with torch_threads_kept():
            return start()


def cut(steps: Iterator[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    """The positions of FFCV's batches: several steps where they fit into ``batch`` images, or even parts of one."""
    waiting: list[np.ndarray] = []
    for step in steps:
        if waiting and sum(map(len, waiting)) + len(step) > batch:
            yield np.concatenate(waiting)
            waiting = []
        if len(step) > batch:
            yield from np.array_split(step, -(-len(step) // batch))
        else:
            waiting.append(step)
        if sum(map(len, waiting)) == batch:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _make_loader(path: str, decoder: Any, workers: int, os_cache: bool, jit: bool) -> Any:
    from ffcv.pipeline.compiler import Compiler
    from ffcv.transforms import ToTensor

    enabled = Compiler.is_enabled
    Compiler.set_enabled(jit)
    try:
        return make_loader(path, [decoder, ToTensor()], workers=min(workers, usable_cpus()), os_cache=os_cache)
    finally:
        Compiler.set_enabled(enabled)


@lru_cache(maxsize=2)
def _kept(identity: tuple[int, ...], path: str, **settings: Any) -> FfcvImages:
    return FfcvImages(path, **settings)


def open_ffcv(
    path: str | os.PathLike[str], *, resolution: int, workers: int, os_cache: bool = True, jit: bool = True
) -> FfcvImages:
    """The images of a beton as FFCV decodes them; arguments as of `FfcvImages`.

    The last two are kept, so that a process compiles once for the stages that read the same file.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise DataError(f"{path}: no such file; `raycondense prepare SOURCE {path}` makes one")
    status = file.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _kept(identity, str(file), resolution=resolution, workers=workers, os_cache=os_cache, jit=jit)
