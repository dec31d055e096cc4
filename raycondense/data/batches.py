"""What a step of training sees, whoever loads it: class-grouped batches for condensation, shuffled ones for the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

from torch import Tensor

from raycondense.data.class_plan import ClassPlan, ShuffledPlan
from raycondense.data.sidecar import Sidecar


class ClassBatch(NamedTuple):
    """Real images of one rank's classes of a step."""

    classes: Tensor
    """Class numbers int64 [C], on the loader's device."""
    images: Tensor
    """uint8 [C, M, 3, R, R], on the loader's device."""
    step: int
    """Number of the step."""


class ShuffledBatch(NamedTuple):
    """One rank's part of an ordinary batch."""

    images: Tensor
    """uint8 [B, 3, R, R], on the loader's device."""
    labels: Tensor
    """int64 [B], on the loader's device."""


class Batches(ABC):
    """Something open that is closed at the end, by ``with`` or by `close`.

    Attributes:
        sidecar: what the beton holds.
    """

    sidecar: Sidecar

    def close(self) -> None:
        """Free threads, files and memory; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ClassBatches(Batches):
    """C classes x M real images a step, as `ClassPlan` says.

    Attributes:
        plan: which classes and images each step sees.
    """

    plan: ClassPlan

    @abstractmethod
    def steps(self, start: int = 0) -> Iterator[ClassBatch]:
        """Endless batches from step ``start`` on; an earlier iterator ends its life when a new one is asked for.

        A batch is valid for ever: its memory is not reused.

        Raises:
            DataError: the beton is damaged.
        """


class ShuffledBatches(Batches):
    """Ordinary shuffled batches, as `ShuffledPlan` says.

    Attributes:
        plan: which images each step sees.
    """

    plan: ShuffledPlan

    @abstractmethod
    def steps(self, start: int = 0) -> Iterator[ShuffledBatch]:
        """Endless batches from step ``start`` on; see `ClassBatches.steps`."""
