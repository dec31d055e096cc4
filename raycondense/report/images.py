"""Real beside generated images of each class, as small PNG files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raycondense.artifact.load import Artifact
from raycondense.artifact.preview import encode_png
from raycondense.evaluation.baselines import baseline_set

MOST_SIDE = 96
"""Larger images are scaled down to this many pixels: a report is to be sent around."""


@dataclass(frozen=True, slots=True)
class ClassSheet:
    """Images of one class as PNG files."""

    name: str
    real: tuple[bytes, ...]
    """Random real images; empty where the training images are not at hand."""
    generated: tuple[bytes, ...]
    """The first images of the largest bank."""


def class_sheets(
    artifact: Artifact, train_data: str | os.PathLike[str] | None, *, classes: int = 20, images: int = 10
) -> list[ClassSheet]:
    """Sheets of up to ``classes`` classes, spread evenly over all, with up to ``images`` images of each kind.

    Args:
        artifact: decodes the generated images.
        train_data: beton of the training images, or None.
        classes: most classes.
        images: most images of a class and kind.

    Raises:
        DataError: the beton is missing, damaged, or has a class with fewer images than are shown.
    """
    shown = spread_out(artifact.num_classes, classes)
    bank = artifact.bank(classes=shown, normalize=False)
    count = min(images, bank.ipc)
    generated = bank.images.unflatten(0, (len(shown), bank.ipc))[:, :count]
    real: Sequence[Tensor] = [torch.empty(0, 3, 1, 1, dtype=torch.uint8)] * len(shown)
    if train_data is not None:
        drawn = baseline_set("random", train_data, ipc=count, seed=0, resolution=artifact.resolution, classes=shown)
        real = list(drawn.images.unflatten(0, (len(shown), count)))
    return [
        ClassSheet(artifact.classes[label], small_pngs(real[i]), small_pngs(generated[i]))
        for i, label in enumerate(shown)
    ]


def spread_out(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to ``count - 1``, evenly spread, ascending."""
    return torch.linspace(0, count - 1, min(most, count)).round().long().tolist()


def small_pngs(images: Tensor) -> tuple[bytes, ...]:
    """PNG files of uint8 images [N, 3, R, R], of at most `MOST_SIDE` pixels a side."""
    if images.shape[-1] > MOST_SIDE:
        small = functional.interpolate(images.float(), size=MOST_SIDE, mode="area")
        images = small.round().clamp(0, 255).to(torch.uint8)
    return tuple(encode_png(image) for image in images)
