"""Which images a step reads: plans that are pure functions of (seed, step).

Nothing here reads an image or keeps a state, so a run that starts at step s sees what an unbroken run would,
and N workers together see what one worker would.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from raycondense.data.sidecar import Sidecar
from raycondense.errors import ConfigError, DataError
from raycondense.seeds import derive_seed


class IndexPlan(Protocol):
    """What a loader needs to know of a plan."""

    def indices(self, step: int) -> np.ndarray:
        """Positions in the beton that this rank reads in ``step``, int64 [n]."""
        ...

    def size(self, step: int) -> int:
        """How many that are, without making them."""
        ...


def blocked_order(count: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """A random order of ``range(count)`` in which ``block`` neighbours stay together.

    The range is turned by a random offset, cut into blocks (the last one may be shorter) and the blocks are
    permuted. The offset moves the cuts, so that over time every image meets every other one of its
    neighbourhood. ``block`` 1 is a plain permutation.

    Returns:
        int64 [count], a permutation.
    """
    offset = int(rng.integers(count))
    starts = np.arange(0, count, block)
    rng.shuffle(starts)
    order = (starts[:, None] + np.arange(block)).reshape(-1)
    return (order[order < count] + offset) % count


def _kept(order: np.ndarray) -> np.ndarray:
    """``order`` for a cache: whoever gets a part of it must not write into it."""
    order.setflags(write=False)
    return order


def _packed(order: np.ndarray) -> np.ndarray:
    """A permutation in the smallest numbers that hold it: of a million images several are kept."""
    return order.astype(np.min_scalar_type(len(order)))


class ClassPlan:
    """Classes and images of every class-grouped step.

    Class-epoch e is a seeded permutation of all classes, cut into ``steps_per_class_epoch`` nearly equal steps, so that
    each class is visited exactly once in it. A rank takes a contiguous share of each step's classes; as the
    permutation changes, every rank meets every class. At its visit v class c gives ``real_per_class`` images
    without duplicates: window v of a seeded `blocked_order` of its images, which is drawn anew when no whole
    window is left.

    Args:
        sidecar: of the beton that is read.
        seed: of all draws, 0 or more.
        classes_per_step: C, classes in a step, all ranks together.
        real_per_class: M, images a class in a step.
        read_block: images read together from one place of the file.
        rank: this process.
        world_size: number of processes.

    Attributes:
        steps_per_class_epoch: steps in which every class is visited once.

    Raises:
        ConfigError: more classes a step than there are, or a step has fewer classes than there are workers.
        DataError: a class has fewer than ``real_per_class`` images.
    """

    def __init__(
        self,
        sidecar: Sidecar,
        *,
        seed: int,
        classes_per_step: int,
        real_per_class: int,
        read_block: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        num_classes = sidecar.num_classes
        if not 1 <= classes_per_step <= num_classes:
            raise ConfigError(
                f"condense.classes_per_step: found {classes_per_step}, valid: 1 to {num_classes}, the number of classes"
            )
        smallest = min(sidecar.counts)
        if not 1 <= real_per_class <= smallest:
            name = sidecar.classes[sidecar.counts.index(smallest)]
            raise DataError(
                f"condense.real_per_class: found {real_per_class}, valid: 1 to {smallest}, "
                f"the number of images of class {name!r}"
            )
        self.steps_per_class_epoch = -(-num_classes // classes_per_step)
        fewest = num_classes // self.steps_per_class_epoch
        if fewest < world_size:
            raise ConfigError(
                f"condense.classes_per_step: found {classes_per_step}, which cuts {num_classes} classes into steps of "
                f"{fewest} or more, fewer than the {world_size} workers; take more classes a step or fewer workers"
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank: found {rank}, valid: 0 to {world_size - 1}")
        self.seed, self.real_per_class, self.read_block = seed, real_per_class, read_block
        self.rank, self.world_size, self.num_classes = rank, world_size, num_classes
        self._counts = sidecar.counts
        self._starts = np.concatenate([[0], np.cumsum(sidecar.counts)[:-1]])
        # Consecutive steps ask for the same permutation, consecutive visits for the same order: N numbers in all, of
        # 2 bytes where classes have fewer than 65536 images.
        self._epoch_classes = lru_cache(maxsize=2)(self._draw_epoch_classes)
        self._image_order = lru_cache(maxsize=num_classes)(self._draw_image_order)

    def _draw_epoch_classes(self, epoch: int) -> np.ndarray:
        return _kept(np.random.default_rng(derive_seed(self.seed, "class order", epoch)).permutation(self.num_classes))

    def _draw_image_order(self, label: int, image_epoch: int) -> np.ndarray:
        rng = np.random.default_rng(derive_seed(self.seed, "image order", label, image_epoch))
        return _packed(blocked_order(self._counts[label], self.read_block, rng))

    def step_classes(self, step: int) -> np.ndarray:
        """Classes of ``step``, all ranks together, int64 [C], read-only."""
        epoch, position = divmod(step, self.steps_per_class_epoch)
        return np.array_split(self._epoch_classes(epoch), self.steps_per_class_epoch)[position]

    def rank_classes(self, step: int) -> np.ndarray:
        """Classes of ``step`` that this rank takes, int64 [C_rank], 1 or more, read-only."""
        return np.array_split(self.step_classes(step), self.world_size)[self.rank]

    def class_images(self, label: int, visit: int) -> np.ndarray:
        """Positions in the beton of the images that class ``label`` gives at its visit number ``visit``.

        Returns:
            int64 [M], different, ascending (so that they are read forwards).
        """
        wanted = self.real_per_class
        image_epoch, window = divmod(visit, self._counts[label] // wanted)
        order = self._image_order(label, image_epoch)
        return np.sort(order[window * wanted : (window + 1) * wanted]).astype(np.int64) + self._starts[label]

    def indices(self, step: int) -> np.ndarray:
        """Positions in the beton of this rank's images of ``step``, int64 [C_rank · M], class after class."""
        visit = step // self.steps_per_class_epoch
        return np.concatenate([self.class_images(int(label), visit) for label in self.rank_classes(step)])

    def size(self, step: int) -> int:
        """Images that this rank reads in ``step``."""
        return len(self.rank_classes(step)) * self.real_per_class


class ShuffledPlan:
    """Ordinary shuffled batches: one endless row of seeded permutations of all images, cut into batches.

    Every image comes once an epoch; a batch may lie across two epochs, so no image is ever dropped and a batch may
    be larger than the set.

    Args:
        num_images: images in the beton.
        seed: of the permutations, 0 or more.
        batch: images in a step, all ranks together.
        rank: this process, which takes a contiguous share of each batch.
        world_size: number of processes.

    Raises:
        ConfigError: a batch has fewer images than there are workers.
    """

    def __init__(self, num_images: int, *, seed: int, batch: int, rank: int = 0, world_size: int = 1) -> None:
        if batch < world_size:
            raise ConfigError(f"batch: found {batch} images, valid: {world_size} or more, one for each worker")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank: found {rank}, valid: 0 to {world_size - 1}")
        self.seed, self.batch, self.num_images = seed, batch, num_images
        self.rank, self.world_size = rank, world_size
        self._first, self._last = batch * rank // world_size, batch * (rank + 1) // world_size
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return _packed(np.random.default_rng(derive_seed(self.seed, "shuffle", epoch)).permutation(self.num_images))

    def indices(self, step: int) -> np.ndarray:
        """Positions in the beton of this rank's images of ``step``, int64 [n]."""
        start, end = step * self.batch + self._first, step * self.batch + self._last
        parts = []
        while start < end:
            epoch, position = divmod(start, self.num_images)
            part = self._permutation(epoch)[position : position + end - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts, dtype=np.int64)

    def size(self, step: int) -> int:
        """Images that this rank reads in ``step``."""
        return self._last - self._first
