"""The interface between the data room and everything that learns: batches of real images on the device.

`ClassBatches` gives class-grouped steps (C classes × M images), `ShuffledBatches` ordinary shuffled ones. Each
has an implementation on FFCV and one that is resident on the device; `raycondense.data.open` chooses.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from raycondense.data.class_plan import ClassPlan, IndexPlan, ShuffledPlan
from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError

PlanT = TypeVar("PlanT", bound=IndexPlan)


@dataclass(frozen=True, slots=True)
class ClassBatch:
    """Real images of one step, grouped by class.

    Attributes:
        classes: int64 [C], the different classes of this rank's share of the step.
        images: uint8 [C, M, 3, R, R], contiguous, the receiver's own; row i is of ``classes[i]``.
        step: number of the step.
    """

    classes: Tensor
    images: Tensor
    step: int


class ShuffledBatch(NamedTuple):
    """Real images uint8 [B, 3, R, R], contiguous, the receiver's own, and their classes int64 [B]."""

    images: Tensor
    labels: Tensor


class Batches(ABC, Generic[PlanT]):
    """What both kinds share: the images of a plan's steps, open iterators that `close` ends, ``with``.

    Args:
        sidecar: of the beton that is read.
        plan: which images each step has.
        resolution: side R of the images in pixels.
        device: where batches are.

    Attributes:
        sidecar, plan, resolution, device: as given.
        loader: what reads, as ``data.loader`` names it.
    """

    loader: ClassVar[str]

    def __init__(self, sidecar: Sidecar, plan: PlanT, *, resolution: int, device: torch.device | str) -> None:
        self.sidecar, self.plan, self.resolution, self.device = sidecar, plan, resolution, torch.device(device)
        self._closed = False
        self._open: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()

    @abstractmethod
    def _images(self, start: int) -> Generator[Tensor, None, None]:
        """This rank's images of steps ``start``, ``start + 1``, … without end: uint8 [n, 3, R, R] on the device,
        each tensor new. Ends its threads when it is closed."""

    def _started(self, start: int) -> Generator[Tensor, None, None]:
        if self._closed:
            raise RuntimeError("these batches were closed")
        if start < 0:
            raise ConfigError(f"start: found step {start}, valid: 0 or more")
        images = self._images(start)
        self._open.add(images)
        return images

    def close(self) -> None:
        """End all iterators and their threads. Closing twice is closing once."""
        self._closed = True
        for images in list(self._open):
            images.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ClassBatches(Batches[ClassPlan]):
    """Class-grouped batches, endless, a function of (plan, step).

    An implementation gives `_images`; `raycondense.testing.class_batches` checks it.
    """

    def steps(self, start: int = 0) -> Iterator[ClassBatch]:
        """Steps ``start``, ``start + 1``, … without end; leaving the loop early or closing ends its threads.

        Raises:
            DataError: the file turned out to be damaged.
        """
        images = self._started(start)

        def generate() -> Iterator[ClassBatch]:
            try:
                for step, batch in enumerate(images, start):
                    classes = torch.tensor(self.plan.rank_classes(step), device=self.device)
                    shape = (len(classes), self.plan.real_per_class, *batch.shape[1:])
                    yield ClassBatch(classes, batch.view(shape), step)
            finally:
                images.close()

        return generate()


class ShuffledBatches(Batches[ShuffledPlan]):
    """Ordinary shuffled batches, endless, a function of (plan, step)."""

    def steps(self, start: int = 0) -> Iterator[ShuffledBatch]:
        """Steps ``start``, ``start + 1``, … without end; leaving the loop early or closing ends its threads.

        Raises:
            DataError: the file turned out to be damaged.
        """
        images = self._started(start)
        ends = torch.tensor(self.sidecar.counts).cumsum(0)

        def generate() -> Iterator[ShuffledBatch]:
            try:
                for step, batch in enumerate(images, start):
                    # Samples are ordered by class: a position alone tells the label.
                    labels = torch.bucketize(torch.from_numpy(self.plan.indices(step)), ends, right=True)
                    yield ShuffledBatch(batch, labels.to(self.device))
            finally:
                images.close()

        return generate()
