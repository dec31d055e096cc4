"""One epoch of FFCV 1.0.2, handled with care: a thread decodes ahead, tells when it fails and ends when asked to."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycondense.errors import DataError

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


class FreshMemory:
    """Takes the place of FFCV's ring of buffers: each batch is decoded to memory of its own, so none is copied."""

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self._shape, self._pinned = shape, pinned

    def __getitem__(self, slot: int) -> np.ndarray:
        memory: np.ndarray = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pinned).numpy()
        return memory


def start_epoch(
    loader: Any,
    memory: FreshMemory,
    *,
    order: np.ndarray | None = None,
    batches: Iterator[np.ndarray] | None = None,
    ahead: Callable[[float], Any] | None = None,
) -> Any:
    """A running epoch of an ``ffcv.Loader``, its thread already decoding.

    Args:
        loader: with the ``batch_size`` that is wanted.
        memory: where batches are decoded to.
        order: positions of a finite epoch, int64 [n]; FFCV cuts them into batches and plans which pages it keeps.
        batches: or the positions of each batch, at most ``batch_size``, for as long as they come. They are asked for
            one at a time, by FFCV's thread. Where the operating system keeps the pages FFCV need not know them before.
        ahead: called by FFCV's thread with the share of a finite ``order`` that was read, up to 1. Then it returns the
            epoch that follows, which is found under ``successor``.
    """
    return _epoch_type()(loader, memory, order, batches, ahead)


@cache
def _epoch_type() -> type:
    """The class is made at use, because its base comes from FFCV, which may not be there."""
    from ffcv.loader.epoch_iterator import EpochIterator

    class CarefulEpoch(EpochIterator):
        failure: BaseException | None = None
        successor: Any = None
        closed: bool
        iter_ixes: Iterator[np.ndarray]

        def __init__(self, loader: Any, memory: FreshMemory, order: Any, batches: Any, ahead: Any) -> None:
            self._memory, self._ahead, self._batches = memory, ahead, batches
            self._positions: dict[int, np.ndarray] = {}
            self._received = threading.Event()
            self._torch_threads = torch.get_num_threads()
            # FFCV makes CUDA streams on the device of the thread that starts an epoch, which may be another epoch's.
            self._cuda_device = torch.cuda.current_device() if torch.cuda.is_available() else None
            super().__init__(loader, [] if order is None else order)

        def start(self) -> None:
            # The last thing that FFCV's constructor does. The decoder is the only operation with two memories.
            memories = self.memory_allocations["operation"]
            [decoder] = [node for node, memory in memories.items() if isinstance(memory, tuple)]
            self._failures: np.ndarray = memories[decoder][1]
            memories[decoder] = (self._memory, self._failures)
            self.iter_ixes = self._all_batches(self.iter_ixes)
            super().start()

        def _all_batches(self, cut: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            # What FFCV's thread asks for first, after it has set torch's thread count.
            torch.set_num_threads(self._torch_threads)
            if self._cuda_device is not None:
                torch.cuda.set_device(self._cuda_device)
            if self._batches is not None:
                yield from self._batches
                return
            batches = list(cut)
            for number, batch in enumerate(batches, 1):
                yield batch
                if number == len(batches):
                    # All but the last few batches are with the receiver: time to go on before they are used up. But
                    # not if it still reads the epoch before, or short epochs would start one another without end.
                    self._received.wait()
                if self._ahead is not None and not self.terminate_event.is_set():
                    self.successor = self._ahead(number / len(batches))

        def run(self) -> None:
            try:
                super().run()
            except BaseException as error:  # handed over to the thread that waits for batches
                self.failure = error

        def run_pipeline(self, number: int, positions: np.ndarray, slot: int, event: Any) -> Any:
            if self.terminate_event.is_set():
                raise StopIteration
            self._positions[slot] = positions
            with _DECODING:
                return super().run_pipeline(number, positions, slot, event)

        def wait(self, path: str) -> Tensor | None:
            """The next batch, None at the end."""
            self._received.set()
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

        def damaged(self, number: int) -> np.ndarray:
            """Positions of those of the ``number`` images of the batch that came last that could not be decoded."""
            return self._positions[self._slot][self._failures[self._slot, :number, 0].nonzero()[0]]

        def _page_readers(self) -> list[threading.Thread]:
            """Threads of FFCV's process cache; they die without a word when the file cannot be opened any more."""
            executor = getattr(self.memory_context, "executor", None)
            return [] if executor is None else list(executor.threads)

        def close(self) -> None:
            self.terminate_event.set()
            self._received.set()
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
                self.iter_ixes = iter(())  # it knows this object: the pair and its pages would stay for long
                self.memory_context.__exit__(None, None, None)
                for reader in self._page_readers():
                    reader.join(_POLL_SECONDS)
            # Not before its thread has ended, which may just have started it.
            successor, self.successor = self.successor, None
            if successor is not None:
                successor.close()

    return CarefulEpoch
