"""The resident loader: the whole set as one uint8 tensor on the device. For small sets, and where FFCV is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from raycondense.data.batches import ClassBatch, ClassBatches, ShuffledBatch, ShuffledBatches
from raycondense.data.beton import BetonReader
from raycondense.data.class_plan import ClassPlan, ShuffledPlan

READ_AT_ONCE = 4096  # images; bounds the memory beside the tensor itself


def resident_images(reader: BetonReader, resolution: int, device: torch.device) -> Tensor:
    """All images of a beton, uint8 [N, 3, R, R] on ``device``."""
    images = torch.empty(len(reader), 3, resolution, resolution, dtype=torch.uint8, device=device)
    for start in range(0, len(reader), READ_AT_ONCE):
        part = np.arange(start, min(start + READ_AT_ONCE, len(reader)))
        images[start : start + len(part)] = torch.from_numpy(reader.images(part, resolution))
    return images


class ResidentClassBatches(ClassBatches):
    """Class batches gathered from the tensor of all images.

    Args:
        reader: the open beton.
        plan: what each step sees.
        resolution: side of the images in pixels.
        device: where the tensor lives.
    """

    def __init__(self, reader: BetonReader, plan: ClassPlan, *, resolution: int, device: torch.device) -> None:
        self.sidecar, self.plan = reader.sidecar, plan
        self._device = device
        self._images = resident_images(reader, resolution, device)

    def steps(self, start: int = 0) -> Iterator[ClassBatch]:
        for step in itertools.count(start):
            classes, positions = self.plan.rank_images(step)
            where = torch.from_numpy(positions).to(self._device)
            yield ClassBatch(torch.from_numpy(classes).to(self._device), self._images[where], step)

    def close(self) -> None:
        self._images = self._images[:0].clone()


class ResidentShuffledBatches(ShuffledBatches):
    """Shuffled batches gathered from the tensor of all images; arguments as for `ResidentClassBatches`."""

    def __init__(self, reader: BetonReader, plan: ShuffledPlan, *, resolution: int, device: torch.device) -> None:
        self.sidecar, self.plan = reader.sidecar, plan
        self._device = device
        self._images = resident_images(reader, resolution, device)
        self._labels = torch.as_tensor(np.asarray(reader.labels), dtype=torch.int64).to(device)

    def steps(self, start: int = 0) -> Iterator[ShuffledBatch]:
        for step in itertools.count(start):
            where = torch.from_numpy(self.plan.rank_images(step)).to(self._device)
            yield ShuffledBatch(self._images[where], self._labels[where])

    def close(self) -> None:
        self._images = self._images[:0].clone()
