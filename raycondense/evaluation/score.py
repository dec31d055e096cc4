"""The one place that reads a test split: check that it fits, read it, score a student on it, say that it was read.

No other file opens the images of a test split, and nothing here trains or chooses anything. A number that guides
a choice (a sweep, an early look) is taken with a validation split, cut from the training images by `prepare`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.data.sidecar import Sidecar
from raycondense.errors import DataError

logger = logging.getLogger("raycondense")

BATCH = 1000
"""Images of a scoring step. Fixed, because the accuracy of borderline images may depend on it in the last bit."""


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
) -> Score:
    """Read a test split and count the images whose largest logit is their label's.

    Args:
        model: takes standardised images [N, 3, R, R], gives logits [N, C]; it is put in evaluation mode.
        path: beton of the split; images larger than ``resolution`` are scaled down by area.
        classes: names of the model's logits, in order.
        resolution: R, side of the model's images in pixels.
        normalize: standardises uint8 images; the *training* sidecar's mean and std.
        device: where the model is.

    Raises:
        DataError: the split does not fit (see `check_test_split`) or is damaged.
    """
    sidecar = check_test_split(path, classes=classes, resolution=resolution)
    reader = BetonReader(path)
    logger.debug(
        "test split read: %s (%s, %d images, sha256 %s)", path, sidecar.split, sidecar.num_images, sidecar.sha256[:12]
    )
    normalize = normalize.to(device)
    labels = torch.as_tensor(reader.labels, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.eval()
    with torch.inference_mode():
        for start in range(0, sidecar.num_images, BATCH):
            indices = np.arange(start, min(start + BATCH, sidecar.num_images))
            images: Tensor = torch.from_numpy(reader.images(indices, resolution)).to(device)
            predicted = model(normalize(images)).argmax(1)
            correct += (predicted == labels[start : start + BATCH]).sum()
    return Score(int(correct), sidecar.num_images, sidecar.split, sidecar.sha256)
