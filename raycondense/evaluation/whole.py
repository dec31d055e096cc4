"""All training images, in memory that does not grow with their number.

Up to `KEPT_BYTES` of decoded images are kept in the process. Larger sets stay in their beton: a step of a training
reads its own images, and measures and choices go class by class, on at most `CLASS_IMAGES` of a class. What is found
is the same, bit for bit, but for the classes that are larger than that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raycondense.data.beton import BetonReader
from raycondense.data.sidecar import Sidecar
from raycondense.evaluation.images import ImageSet, StoredSet
from raycondense.seeds import derive_seed

KEPT_BYTES = 2**30
"""Decoded images that a process keeps, at most: 350 000 of 32 px, 87 000 of 64 px."""
CLASS_IMAGES = 5000
"""Of a set that is not kept: images of a class that are looked at together, at most. Their features are 40 MB."""


def image_bytes(images: int, resolution: int) -> int:
    """Bytes of ``images`` uint8 images of ``resolution`` pixels a side."""
    return images * 3 * resolution**2


def class_limit(sidecar: Sidecar, resolution: int) -> int:
    """How many images of a class are looked at, at most, where a set is measured or chosen from; 0 is all.

    Works hash it, so it is 0 wherever it would change nothing.
    """
    large = image_bytes(sidecar.num_images, resolution) > KEPT_BYTES
    return CLASS_IMAGES if large and max(sidecar.counts) > CLASS_IMAGES else 0


def some_of(members: np.ndarray, most: int, label: int) -> np.ndarray:
    """At most ``most`` of the ``members`` [n] of a class, ascending: a function of the arguments; 0 is all of them."""
    if not most or len(members) <= most:
        return members
    draw = np.random.default_rng(derive_seed("some of a class", label))
    return np.sort(draw.choice(members, most, replace=False))


@functools.lru_cache(maxsize=1)
def whole_set(train: str, sha256: str, resolution: int) -> ImageSet | StoredSet:
    """All real images of a beton, ordered by class; kept by this process, because many works of a pool want them.

    Args:
        train: the beton.
        sha256: its content's, because the file may be another one the next time.
        resolution: side of the images in pixels; larger ones are scaled down by area.

    Returns:
        The images in memory where they take at most `KEPT_BYTES`, else a set that reads them.

    Raises:
        DataError: the beton is missing or damaged.
    """
    reader = BetonReader(train)
    labels = torch.from_numpy(reader.labels)
    if image_bytes(len(reader), resolution) <= KEPT_BYTES:
        return ImageSet(torch.from_numpy(reader.images(np.arange(len(reader)), resolution)), labels)
    return StoredSet(
        labels, resolution, read=lambda positions: torch.from_numpy(reader.images(positions.numpy(), resolution))
    )


def classes_of(images: ImageSet | StoredSet, most: int = 0) -> Callable[[int], Tensor]:
    """A function from a label to the images of its class, uint8 [n, 3, R, R].

    Args:
        images: all of them.
        most: of a class, see `class_limit`.
    """

    def of_class(label: int) -> Tensor:
        members = (images.labels == label).nonzero().flatten()
        return images.taken(torch.from_numpy(some_of(members.numpy(), most, label)))[0]

    return of_class
