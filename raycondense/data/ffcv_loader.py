"""A careful hand on FFCV 1.0.2: images come back in the order that was asked for, and nothing hangs or leaks.

What needs care, all of it handled here: a Loader compiles for seconds, so one is kept a process and its order is
swapped; an abandoned epoch's thread lives for ever; a consumer waits for ever for a producer that died; batches
are decoded to buffers that are used again; more threads than CPUs are refused; torch's thread count is changed
behind one's back; one of numba's threading layers dies of two decoding threads.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycondense.data.beton import BetonReader
from raycondense.data.cpus import usable_cpus
from raycondense.data.ffcv_decoder import make_decoder
from raycondense.errors import DataError

BATCHES_AHEAD = 3
_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0
_DECODING = threading.Lock()  # numba's workqueue layer aborts the process when two threads run parallel code
logger = logging.getLogger("raycondense")


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """FFCV sets torch's thread count when it is imported, built and iterated: inside the block it may."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        page_of: page of the file in which each image lies, int64 [N].
        page_size: bytes of a page.

    Raises:
        DataError: the beton is damaged.
    """

    def __init__(self, path: str, *, resolution: int, workers: int, os_cache: bool, jit: bool) -> None:
        # The reader checks every offset in the file: FFCV follows them blindly, in compiled code.
        reader = BetonReader(path, threads=1)
        self.path, self.resolution = path, resolution
        with torch_threads_kept():
            self._loader = _make_loader(reader, resolution, workers, os_cache, jit)
        self._lock = threading.Lock()
        self.page_size = int(self._loader.reader.page_size)
        starts = self._loader.reader.metadata["f0"]["data_ptr"].astype(np.int64)
        self.page_of: np.ndarray = starts // self.page_size

    def batches(
        self, order: Callable[[int], np.ndarray], *, start: int, batch: int, pinned: bool = False
    ) -> Generator[Tensor, None, None]:
        """One FFCV epoch.

        Args:
            order: positions of epoch e, int64 [n]; becomes FFCV's traversal order.
            start: the epoch to read.
            batch: images of a batch; the last one may have fewer.
            pinned: put them in page-locked memory, from which a GPU copies by itself.

        Yields:
            uint8 [b, 3, R, R], contiguous, the receiver's own. Closing ends FFCV's thread.

        Raises:
            DataError: an image is damaged or the file cannot be read any more.
        """
        epoch = None
        try:
            # FFCV's thread changes torch's thread count as well, before its first batch.
            with torch_threads_kept():
                epoch, positions = self._epoch(order, start, batch, pinned)
                images = epoch.wait(self.path)
            done = 0
            while images is not None:
                failed = epoch.failures(len(images)).nonzero()[0]
                if len(failed):
                    raise DataError(
                        f"{self.path}: image {positions[done + failed[0]]} is damaged; prepare or copy it again"
                    )
                done += len(images)
                yield images
                images = epoch.wait(self.path)
        finally:
            if epoch is not None:
                epoch.close()

    def _epoch(
        self, order: Callable[[int], np.ndarray], start: int, batch: int, pinned: bool
    ) -> tuple[Any, np.ndarray]:
        with self._lock:
            loader = self._loader
            loader.batch_size, loader.next_epoch = batch, start
            # The constructor of FFCV 1.0.2 refuses every traversal order of one's own, so it is set here.
            loader.traversal_order = _traversal_order_type()(loader, order)
            positions = loader.next_traversal_order()
            memory = FreshMemory((batch, 3, self.resolution, self.resolution), pinned)
            return _epoch_type()(loader, positions, memory), positions


class FreshMemory:
    """Takes the place of FFCV's ring of buffers: each batch is decoded to memory of its own, so none is copied."""

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned

    def __getitem__(self, slot: int) -> np.ndarray:
        memory: np.ndarray = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned).numpy()
        return memory


def _make_loader(reader: BetonReader, resolution: int, workers: int, os_cache: bool, jit: bool) -> Any:
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.compiler import Compiler
    from ffcv.transforms import ToTensor

    sidecar = reader.sidecar
    decoder = make_decoder(stored=sidecar.resolution, resolution=resolution, jpeg=sidecar.encoding == "jpeg")
    enabled = Compiler.is_enabled
    Compiler.set_enabled(jit)
    try:
        loader = Loader(
            str(reader.path),
            batch_size=1,
            num_workers=min(workers, usable_cpus()),
            os_cache=os_cache,
            order=OrderOption.SEQUENTIAL,
            pipelines={"image": [decoder, ToTensor()], "label": None},
            batches_ahead=BATCHES_AHEAD,
            drop_last=False,
        )
    finally:
        Compiler.set_enabled(enabled)
    if os_cache:
        # Tables from images to pages, of which only its process cache makes use: 0.7 GB at a million images.
        manager = loader.memory_manager
        manager.ptr_to_size, manager.sample_to_pages, manager.page_to_samples = {}, {}, {}
    return loader


@cache
def _traversal_order_type() -> type:
    from ffcv.traversal_order.base import TraversalOrder

    class PlannedOrder(TraversalOrder):
        """FFCV's traversal order for what a plan decided."""

        def __init__(self, loader: Any, order: Callable[[int], np.ndarray]) -> None:
            super().__init__(loader)
            self._order = order

        def sample_order(self, epoch: int) -> np.ndarray:
            return self._order(epoch)

    return PlannedOrder


@cache
def _epoch_type() -> type:
    from ffcv.loader.epoch_iterator import EpochIterator

    class CarefulEpoch(EpochIterator):
        """FFCV's epoch: a thread that decodes ahead. This one tells when it fails and ends when it is closed."""

        failure: BaseException | None = None
        closed: bool

        def __init__(self, loader: Any, positions: np.ndarray, memory: FreshMemory) -> None:
            self._memory = memory
            super().__init__(loader, positions)

        def start(self) -> None:
            # The last thing that FFCV's constructor does. The decoder is the only operation with two memories.
            memories = self.memory_allocations["operation"]
            [decoder] = [node for node, memory in memories.items() if isinstance(memory, tuple)]
            self._failures: np.ndarray = memories[decoder][1]
            memories[decoder] = (self._memory, self._failures)
            super().start()

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:  # handed over to the thread that waits for batches
                self.failure = error

        def run_pipeline(self, *arguments: Any) -> Any:
            if self.terminate_event.is_set():
                raise StopIteration
            with _DECODING:
                return super().run_pipeline(*arguments)

        def wait(self, path: str) -> Tensor | None:
            """The next batch, None at the end."""
            for waited in itertools.count(1):
                with suppress(queue.Empty):
                    item = self.output_queue.get(timeout=_POLL_SECONDS)
                    if item is None:
                        return None
                    self._slot, images = item[0], item[1][0]
                    return images
                if self.failure is not None:
                    raise DataError(f"{path}: FFCV stopped reading: {self.failure!r}") from self.failure
                if not (self.is_alive() and all(reader.is_alive() for reader in self._page_readers())):
                    if self.output_queue.empty():
                        raise DataError(f"{path}: FFCV stopped reading; is the file still there?")
                elif waited * _POLL_SECONDS == _PATIENCE_SECONDS:
                    logger.warning("%s: no image for %d s; still waiting for the disk", path, _PATIENCE_SECONDS)
            raise AssertionError("unreachable")

        def failures(self, number: int) -> np.ndarray:
            """For each of the ``number`` images of the batch that came last: 1 where it could not be decoded."""
            return self._failures[self._slot, :number, 0]

        def _page_readers(self) -> list[threading.Thread]:
            """Threads of FFCV's process cache; they die without a word when the file cannot be opened any more."""
            executor = getattr(self.memory_context, "executor", None)
            return [] if executor is None else list(executor.threads)

        def close(self) -> None:
            self.terminate_event.set()
            if not all(reader.is_alive() for reader in self._page_readers()):
                # Its thread waits for pages that nobody brings any more: say that they came, it stops after them.
                for page in self.memory_context.schedule.page_to_slot:
                    self.memory_context.executor.loaded_queue.put(page)
            for _ in range(100):
                if not self.is_alive() or threading.current_thread() is self:
                    break
                # It may be waiting for room in the queue.
                with suppress(queue.Empty):
                    self.output_queue.get(timeout=0.05)
            else:
                logger.warning("FFCV's reading thread did not end; it is left behind")
            if not self.closed:
                # Once: a second time would send the ends of its page readers to nobody.
                self.closed = True
                self.memory_context.__exit__(None, None, None)
                for reader in self._page_readers():
                    reader.join(_POLL_SECONDS)

    return CarefulEpoch


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
