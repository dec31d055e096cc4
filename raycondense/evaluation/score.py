"""The one place that reads a test split: check that it fits, read it, score a student on it, say that it was read.

No other file opens the images of a test split, and nothing here trains or chooses anything. A number that guides
a choice (a sweep, an early look) is taken with a validation split, cut from the training images by `prepare`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.data.sidecar import Sidecar
from raycondense.errors import DataError
from raycondense.memory import freed_memory_kept
from raycondense.storage import append_line

logger = logging.getLogger("raycondense")

BATCH = 1000
"""Images of a scoring step. Fixed, because the accuracy of borderline images may depend on it in the last bit."""
CACHE_BYTES = 2**30
"""Decoded images that a process keeps for its next students, at most."""
_CACHE: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
"""uint8 images and int64 labels of splits on the CPU, by (sha256, resolution); the one used last comes last."""


@dataclass(frozen=True, slots=True)
class Score:
    """How many images of a split a student got right, and which split that was."""

    correct: int
    images: int
    split: str
    sha256: str
    """Of the split's beton, from its sidecar."""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.correct / self.images


def check_test_split(path: str | os.PathLike[str], *, classes: Sequence[str], resolution: int) -> Sidecar:
    """The sidecar of a test split that fits students of ``classes`` at ``resolution``; reads no image.

    Raises:
        DataError: the split has other classes, or images smaller than ``resolution``.
    """
    sidecar = Sidecar.load(path)
    if tuple(sidecar.classes) != tuple(classes):
        differ = [f"{a!r} for {b!r}" for a, b in zip(sidecar.classes, classes, strict=False) if a != b]
        detail = f", first difference {differ[0]}" if differ else ""
        raise DataError(
            f"{path}: classes: found {len(sidecar.classes)}{detail}; valid: the artefact's {len(classes)} classes in "
            "the same order (was it prepared from the same dataset?)"
        )
    if sidecar.resolution < resolution:
        raise DataError(
            f"{path}: resolution: found {sidecar.resolution} px, valid: the artefact's {resolution} px or more"
        )
    return sidecar


def score_on_test_split(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    resolution: int,
    normalize: Normalize,
    device: torch.device | str = "cpu",
    reads: str | os.PathLike[str] | None = None,
    who: str = "",
) -> Score:
    """Read a test split and count the images whose largest logit is their label's.

    The decoded images stay in this process for the next student, up to `CACHE_BYTES`.

    Args:
        model: takes standardised images [N, 3, R, R], gives logits [N, C]; it is put in evaluation mode.
        path: beton of the split; images larger than ``resolution`` are scaled down by area.
        classes: names of the model's logits, in order.
        resolution: R, side of the model's images in pixels.
        normalize: standardises uint8 images; the *training* sidecar's mean and std.
        device: where the model is.
        reads: a file that gets one JSON line for this look at the split, before the look; kept images count too.
        who: what is scored, for that line.

    Raises:
        DataError: the split does not fit (see `check_test_split`) or is damaged.
    """
    sidecar = check_test_split(path, classes=classes, resolution=resolution)
    if reads is not None:
        look = {
            "time": time.time(), "path": os.fspath(path), "split": sidecar.split, "sha256": sidecar.sha256,
            "images": sidecar.num_images, "who": who,
        }  # fmt: skip
        append_line(reads, json.dumps(look, ensure_ascii=False))
    logger.debug(
        "test split read: %s (%s, %d images, sha256 %s)", path, sidecar.split, sidecar.num_images, sidecar.sha256[:12]
    )
    device = torch.device(device)
    normalize = normalize.to(device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.eval()
    with torch.inference_mode(), freed_memory_kept(device):
        for images, labels in _batches(path, sidecar, resolution):
            predicted = model(normalize(images.to(device))).argmax(1)
            correct += (predicted == labels.to(device)).sum()
    return Score(int(correct), sidecar.num_images, sidecar.split, sidecar.sha256)


def _batches(path: str | os.PathLike[str], sidecar: Sidecar, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 images and labels of the whole split in order, from memory where they are kept, else from the beton."""
    key = (sidecar.sha256, resolution)
    kept = _CACHE.pop(key, None)
    if kept is not None:
        _CACHE[key] = kept  # now the one used last
        yield from zip(kept[0].split(BATCH), kept[1].split(BATCH), strict=True)
        return
    reader, count = BetonReader(path), sidecar.num_images
    labels = torch.as_tensor(reader.labels)
    fits = count * 3 * resolution**2 <= CACHE_BYTES
    every = torch.empty(count if fits else 0, 3, resolution, resolution, dtype=torch.uint8)
    for start in range(0, count, BATCH):
        part = slice(start, min(start + BATCH, count))
        images = torch.from_numpy(reader.images(np.arange(part.start, part.stop), resolution))
        if fits:
            every[part] = images
        yield images, labels[part]
    if fits:
        while sum(other.nbytes for other, _ in _CACHE.values()) + every.nbytes > CACHE_BYTES:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = every, labels
