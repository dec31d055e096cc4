"""Which classes and which images each step of the condensation sees: a function of the seed and the step alone.

Nothing is remembered between steps. A loader that goes on at step s reads the plan from s, and N workers that take
their shards of a step together see what one worker would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from raycondense.errors import ConfigError, DataError
from raycondense.seeds import derive_seed


class ClassPlan:
    """The order of classes and of the images in a class.

    A *class epoch* visits every class once, in a random order, cut into steps of about ``classes_per_step`` classes. At
    each visit a class shows ``real_per_class`` different images; an *image epoch* of a class shows each of its images
    at most once (a remainder that fills no visit waits for another epoch).

    Args:
        counts: images of each class; class c's samples are at ``sum(counts[:c])`` and after.
        seed: the run's seed.
        classes_per_step: classes of a step, all ranks together.
        real_per_class: images M of a class in a step.
        read_block: neighbours in the file that stay together; 1 is a fully random order.
        rank: this worker.
        world_size: number of workers.
        names: class names for messages; numbers by default.

    Raises:
        ConfigError: more classes a step than there are, or fewer classes in a step than workers.
        DataError: a class has fewer than ``real_per_class`` images.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        seed: int,
        classes_per_step: int,
        real_per_class: int,
        read_block: int = 1,
        rank: int = 0,
        world_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self.seed = seed
        self.real_per_class = real_per_class
        self.read_block = read_block
        self.rank = rank
        self.world_size = world_size
        if classes_per_step > self.num_classes:
            raise ConfigError(
                f"condense.classes_per_step: found {classes_per_step}, valid: 1 to {self.num_classes}, the classes there are"
            )
        self.steps_per_class_epoch = math.ceil(self.num_classes / classes_per_step)
        fewest = self.num_classes // self.steps_per_class_epoch
        if fewest < world_size:
            raise ConfigError(
                f"condense.classes_per_step: found {classes_per_step}, which gives steps of {fewest} classes, valid: "
                f"at least one class for each of {world_size} workers"
            )
        if int(self.counts.min()) < real_per_class:
            poorest = int(self.counts.argmin())
            name = names[poorest] if names is not None else poorest
            raise DataError(
                f"condense.real_per_class: found {real_per_class}, class {name!r} has {self.counts[poorest]} images; "
                f"valid: 1 to {self.counts[poorest]}"
            )
        # A class epoch's order serves all of its steps, and a class's order several of its visits.
        self._class_order = lru_cache(maxsize=4)(self._draw_class_order)
        self._image_order = lru_cache(maxsize=2 * self.num_classes)(self._draw_image_order)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    def step_classes(self, step: int) -> np.ndarray:
        """Classes int64 of a step, all ranks together; every class is there once a class epoch."""
        epoch, place = divmod(step, self.steps_per_class_epoch)
        return np.array_split(self._class_order(epoch), self.steps_per_class_epoch)[place]

    def rank_classes(self, step: int) -> np.ndarray:
        """This rank's share of `step_classes`; ranks' shares are disjoint and rotate over all classes."""
        return np.array_split(self.step_classes(step), self.world_size)[self.rank]

    def images(self, label: int, visit: int) -> np.ndarray:
        """Positions int64 [M] in the beton of the images that class ``label`` shows at its ``visit``-th visit."""
        epoch, window = divmod(visit, int(self.counts[label]) // self.real_per_class)
        order = self._image_order(label, epoch)
        return self.starts[label] + order[window * self.real_per_class : (window + 1) * self.real_per_class]

    def rank_images(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """This rank's classes [C] of a step and the positions [C, M] of their images."""
        classes = self.rank_classes(step)
        visit = step // self.steps_per_class_epoch
        return classes, np.stack([self.images(int(label), visit) for label in classes])

    def _draw_class_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, "class order", epoch)).permutation(self.num_classes)

    def _draw_image_order(self, label: int, epoch: int) -> np.ndarray:
        """Blocks of neighbours in a random order; where blocks begin differs from epoch to epoch."""
        count = int(self.counts[label])
        random = np.random.default_rng(derive_seed(self.seed, "image order", label, epoch))
        if self.read_block == 1:
            return random.permutation(count)
        rotated = np.roll(np.arange(count), int(random.integers(count)))
        blocks = [rotated[start : start + self.read_block] for start in range(0, count, self.read_block)]
        return np.concatenate([blocks[i] for i in random.permutation(len(blocks))])


class ShuffledPlan:
    """Ordinary shuffled batches: every epoch a permutation of all images, cut in batches (a remainder is dropped).

    Args:
        images: number of images N.
        seed: seed of the order.
        batch: images of a batch, all ranks together.
        rank: this worker.
        world_size: number of workers; each takes an equal part of a batch (to one).

    Raises:
        ConfigError: the batch is larger than the set, or smaller than the number of workers.
    """

    def __init__(self, images: int, *, seed: int, batch: int, rank: int = 0, world_size: int = 1) -> None:
        if not world_size <= batch <= images:
            raise ConfigError(
                f"batch of shuffled images: found {batch}, valid: {world_size} (the workers) to {images} (the images)"
            )
        self.num_images, self.seed, self.batch = images, seed, batch
        self.rank, self.world_size = rank, world_size
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def rank_images(self, step: int) -> np.ndarray:
        """Positions int64 in the beton of this rank's part of the ``step``-th batch."""
        epoch, place = divmod(step, self.num_images // self.batch)
        whole = self._order(epoch)[place * self.batch : (place + 1) * self.batch]
        return np.array_split(whole, self.world_size)[self.rank]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, "shuffle", epoch)).permutation(self.num_images)
