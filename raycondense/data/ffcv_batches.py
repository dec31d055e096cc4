"""Batches that FFCV decodes in the plan's order, one step ahead of the one that is being computed on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from raycondense.data.batches import Batches, ClassBatches, PlanT, ShuffledBatches
from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.sidecar import Sidecar, check_resolution

# An FFCV epoch, of which there are some only where FFCV keeps the pages: bounds the plan in memory, and the time that
# FFCV takes to think about it.
PLANNED_IMAGES, PLANNED_STEPS = 1 << 17, 1 << 10
CACHE_BYTES = 1 << 30  # pages that FFCV may keep; an epoch has half of them, because its end overlaps with the next
# An FFCV batch is a whole step, several small ones, or a part of a large one. `BATCHES_AHEAD` + 2 are in memory.
SMALL_BATCH, BATCH_BYTES = 256, 24 << 20


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

    loader = "ffcv"

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
            self._steps_an_epoch = self._steps_within(CACHE_BYTES // 2 // self._ffcv.page_size)
        self._batch = batch_size(plan.size(0), 3 * resolution**2)

    def _steps_within(self, pages: int) -> int:
        """Steps in one FFCV epoch that touch at most so many pages (but one step at least).

        FFCV's process cache holds a page from its first use in an epoch to its last, so an epoch that comes back to
        a class would hold everything read in between.
        """
        touched: set[int] = set()
        for step in range(self._steps_an_epoch):
            touched.update(np.unique(self._ffcv.pages(self.plan.indices(step))).tolist())
            if len(touched) > pages:
                return max(1, step)
        return self._steps_an_epoch

    def _images(self, start: int) -> Generator[Tensor, None, None]:
        host = self._host_images(start, pinned=self.device.type == "cuda")
        try:
            if self.device.type == "cuda":
                yield from _uploaded(host, self.device)
            else:
                yield from (images.to(self.device) for images in host)
        finally:
            host.close()

    def _host_images(self, start: int, *, pinned: bool) -> Generator[Tensor, None, None]:
        """Each step's images on the CPU, uint8 [n, 3, R, R]."""
        steps = (self.plan.indices(step) for step in itertools.count(start))
        batches = self._ffcv.batches(steps, batch=self._batch, epoch_steps=self._steps_an_epoch, pinned=pinned)
        try:
            yield from regroup(batches, (self.plan.size(step) for step in itertools.count(start)))
        finally:
            batches.close()


def batch_size(step: int, image_bytes: int) -> int:
    """Images of an FFCV batch for steps of ``step`` images."""
    if step < SMALL_BATCH:
        return step * (SMALL_BATCH // step)
    parts = -(-step * image_bytes // BATCH_BYTES)
    return -(-step // parts)


def regroup(batches: Iterator[Tensor], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Cut a row of batches into others of the given ``sizes``; only those that straddle two are copied."""
    rest = torch.empty(0)
    for size in sizes:
        parts: list[Tensor] = []
        wanted = size
        while wanted:
            if len(rest) == 0:
                rest = next(batches)
            parts.append(rest[:wanted])
            wanted, rest = wanted - len(parts[-1]), rest[wanted:]
        yield parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    out = torch.empty(shape, dtype=parts[0].dtype, pin_memory=parts[0].is_pinned())
    return torch.cat(parts, out=out)


def _uploaded(host: Iterator[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """The same images on a GPU. Each is on its way while the one before is being computed on."""
    side = torch.cuda.Stream(device)
    ahead: tuple[Tensor, Tensor, torch.cuda.Event] | None = None
    for images in host:
        with torch.cuda.stream(side):
            copy = images.to(device, non_blocking=True)
            event = side.record_event()
        if ahead is not None:
            source, ready, done = ahead
            yield _received(ready, done)
            done.synchronize()  # long since; before it the memory of `source` must not be given away
            del source
        ahead = images, copy, event


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
