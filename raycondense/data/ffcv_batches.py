"""Batches that FFCV decodes in the plan's order, one step ahead of the one that is being computed on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from raycondense.data.batches import Batches, ClassBatches, PlanT, ShuffledBatches, check_resolution
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.sidecar import Sidecar

# An FFCV epoch: bounds the plan in memory and the time until the first batch, and makes gaps between epochs rare.
PLANNED_IMAGES, PLANNED_STEPS = 1 << 18, 1 << 10
CACHE_BYTES = 1 << 30  # pages that an epoch may touch when FFCV, not the operating system, keeps them
BATCH_BYTES = 1 << 24  # an FFCV batch; `BATCHES_AHEAD` + 2 of them are in memory
SMALLEST_BATCH, LARGEST_BATCH = 32, 1024


class FfcvBatches(Batches[PlanT]):
    """Batches that FFCV decodes.

    Args:
        path: the beton.
        plan: made for its sidecar.
        resolution: side of the images in pixels.
        device: where batches are wanted. For a GPU they are copied through pinned memory while the step before is
            computed.
        workers: decoding threads; as many as there are usable CPUs at most.
        os_cache: see ``data.os_cache``.
        jit: compile FFCV's code, which takes about 2 s a process; without it decoding is slower.

    Raises:
        DataError: the beton is damaged or its images are smaller than ``resolution``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: PlanT,
        *,
        resolution: int,
        device: torch.device | str = "cpu",
        workers: int = 1,
        os_cache: bool = True,
        jit: bool = True,
    ) -> None:
        from raycondense.data.ffcv_loader import open_ffcv

        super().__init__(Sidecar.load(path), plan, resolution=resolution, device=device)
        check_resolution(path, self.sidecar, resolution)
        self._ffcv = open_ffcv(path, resolution=resolution, workers=workers, os_cache=os_cache, jit=jit)
        self._steps_an_epoch = max(1, min(PLANNED_STEPS, PLANNED_IMAGES // plan.size(0)))
        if not os_cache:
            self._steps_an_epoch = self._steps_within(CACHE_BYTES // self._ffcv.page_size)
        at_once = min(plan.size(0), BATCH_BYTES // (3 * resolution**2), LARGEST_BATCH)
        self._batch = max(at_once, SMALLEST_BATCH)

    def _steps_within(self, pages: int) -> int:
        """Steps in one FFCV epoch that touch at most so many pages (but one step at least).

        FFCV's process cache holds a page from its first use in an epoch to its last, so an epoch that comes back to
        a class would hold everything read in between.
        """
        touched: set[int] = set()
        for step in range(self._steps_an_epoch):
            touched.update(np.unique(self._ffcv.page_of[self.plan.indices(step)]).tolist())
            if len(touched) > pages:
                return max(1, step)
        return self._steps_an_epoch

    def _images(self, start: int) -> Generator[Tensor, None, None]:
        host = self._host_images(start, pinned=self.device.type == "cuda")
        try:
            yield from host if self.device.type == "cpu" else _uploaded(host, self.device)
        finally:
            host.close()

    def _host_images(self, start: int, *, pinned: bool) -> Generator[Tensor, None, None]:
        """Each step's images on the CPU, uint8 [n, 3, R, R], copied out of FFCV's buffers."""
        length = self._steps_an_epoch

        def order(epoch: int) -> np.ndarray:
            first = start + epoch * length
            return np.concatenate([self.plan.indices(step) for step in range(first, first + length)])

        shape = (3, self.resolution, self.resolution)
        for epoch in itertools.count():
            first = start + epoch * length
            stream = _Stream(self._ffcv.batches(order, start=epoch, batch=self._batch))
            try:
                for step in range(first, first + length):
                    images = torch.empty(self.plan.size(step), *shape, dtype=torch.uint8, pin_memory=pinned)
                    stream.fill(images)
                    yield images
            finally:
                stream.close()


class _Stream:
    """FFCV's batches as one row of images, since a step need not be a whole number of batches."""

    def __init__(self, batches: Generator[Tensor, None, None]) -> None:
        self._batches = batches
        self._rest: Tensor | None = None

    def fill(self, out: Tensor) -> None:
        """Copy the next ``len(out)`` images to ``out``."""
        filled = 0
        while filled < len(out):
            if self._rest is None or len(self._rest) == 0:
                self._rest = next(self._batches)
            part = self._rest[: len(out) - filled]
            out[filled : filled + len(part)].copy_(part)
            filled, self._rest = filled + len(part), self._rest[len(part) :]

    def close(self) -> None:
        self._rest = None
        self._batches.close()


def _uploaded(host: Iterator[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """The same images on a GPU. Each is on its way while the one before is being computed on."""
    side = torch.cuda.Stream(device)
    ahead: tuple[Tensor, torch.cuda.Event] | None = None
    for images in host:
        with torch.cuda.stream(side):
            copy = images.to(device, non_blocking=True)
            event = side.record_event()
        # Pinned memory goes back to torch's cache when `images` is dropped; torch waits for the copy before it is
        # used again.
        if ahead is not None:
            yield _received(*ahead)
        ahead = copy, event


def _received(images: Tensor, event: torch.cuda.Event) -> Tensor:
    stream = torch.cuda.current_stream(images.device)
    stream.wait_event(event)
    # Made on another stream: its memory must not be given away before this stream is done with it.
    images.record_stream(stream)
    return images


class FfcvClassBatches(FfcvBatches[ClassPlan], ClassBatches):
    """Class-grouped batches that FFCV decodes."""


class FfcvShuffledBatches(FfcvBatches[ShuffledPlan], ShuffledBatches):
    """Shuffled batches that FFCV decodes."""
