"""Sets of labelled images that students are trained on: in memory, in a file, or made without end.

Nothing here knows a file's format: `raycondense.evaluation.whole` makes the sets that lie in one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class ImageSet(NamedTuple):
    """A labelled set of images in memory."""

    images: Tensor
    """uint8 [N, 3, R, R]."""
    labels: Tensor
    """int64 [N]."""

    @property
    def resolution(self) -> int:
        """R, side of the images in pixels."""
        return self.images.shape[-1]

    def taken(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, 3, R, R] and labels [n] at ``positions``, int64 [n] on the device of the labels."""
        return self.images[positions], self.labels[positions]


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A labelled set whose images are read each time that they are wanted: all together take too much memory.

    A student of it sees what one of the same images in memory sees, in the same order.
    """

    labels: Tensor
    """int64 [N], on the CPU."""
    resolution: int
    """R, side of the images in pixels."""
    read: Callable[[Tensor], Tensor]
    """Positions, int64 [n] on the CPU → uint8 images [n, 3, R, R] on the CPU."""

    def taken(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, 3, R, R] and labels [n] at ``positions``, int64 [n], all on the CPU."""
        return self.read(positions), self.labels[positions]


class Stream(Protocol):
    """Fresh images without end (`raycondense.evaluation.stream.ImageStream`)."""

    @property
    def resolution(self) -> int:
        """R, side of the images in pixels."""

    @property
    def images_per_epoch(self) -> int:
        """Images that count as one epoch: those of the bank whose students take as many steps."""

    @property
    def generation_seconds(self) -> float:
        """Wall-clock seconds that all batches so far took to make."""

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """``size`` new images, uint8 [size, 3, R, R], and their labels, int64 [size]: a function of the step."""


TrainingSet = ImageSet | StoredSet | Stream
