"""Real and generated images of a few classes in a network's features: nearest neighbours, and a plane to look at."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.artifact.load import Artifact
from raycondense.data.beton import BetonReader
from raycondense.evaluation.diagnostics import Embed
from raycondense.evaluation.neighbours import nearest
from raycondense.report.images import spread_out

MOST_REAL = 20_000
"""Real images that are looked at, over all classes shown: a page should not take longer than a student."""
MOST_POINTS = 200
"""Points of a class and kind in the plane."""
RANDOM_WIDTH = 32
"""Channels of the network whose features are taken where there is no trained one."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A generated image and the training image of its class that is nearest to it."""

    name: str
    """Of the class."""
    generated: Tensor
    """uint8 [3, R, R]."""
    real: Tensor
    """uint8 [3, R, R]."""
    distance: float
    """Euclidean, in features."""
    ratio: float | None
    """Over the median distance of a real image of the class to the nearest other one; None where that is 0."""


@dataclass(frozen=True, slots=True)
class PlaneClass:
    """One class in the plane."""

    name: str
    real: Tensor
    """float [n, 2], at most `MOST_POINTS`."""
    generated: Tensor
    """float [k, 2], at most `MOST_POINTS`."""
    real_center: tuple[float, float]
    """Mean of all real images looked at."""
    generated_center: tuple[float, float]
    """Mean of all images of the bank."""


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """Real and generated images of some classes in features."""

    neighbours: tuple[Neighbour, ...]
    """The generated images that are nearest to a training image, ordered by class, then by distance."""
    plane: tuple[PlaneClass, ...]
    """The classes on the two directions in which real images vary most."""
    explained: float
    """Share of the variance of the real images on the plane, in [0, 1]."""
    searched: int
    """Real images that neighbours were searched among."""
    available: int
    """Real images of the classes shown."""


class _Seen(NamedTuple):
    """Features of one class that the plane needs."""

    name: str
    real: Tensor
    """[n, d], at most `MOST_POINTS`."""
    generated: Tensor
    """[k, d]."""
    center: Tensor
    """[d]: mean of all real images looked at."""


def feature_space(
    artifact: Artifact, train_data: str | os.PathLike[str], embed: Embed, *, classes: int = 10, pairs: int = 2
) -> FeatureSpace:
    """Look at the largest bank beside the training images.

    What is looked at of one class, images and features, is in memory at a time.

    Args:
        artifact: decodes the generated images.
        train_data: beton of the training images.
        embed: uint8 images [N, 3, R, R] to features [N, d].
        classes: most classes, spread evenly over all.
        pairs: most neighbours of a class.

    Raises:
        DataError: the beton is missing or damaged.
    """
    shown = spread_out(artifact.num_classes, classes)
    bank = artifact.bank(classes=shown, normalize=False)
    generator = torch.Generator().manual_seed(0)
    reader = BetonReader(train_data)
    found: list[_Seen] = []
    neighbours: list[Neighbour] = []
    searched = available = 0
    for label in shown:
        # Random of them, so that a file's order does not choose.
        every = reader.sidecar.class_range(label)
        available += len(every)
        drawn = torch.randperm(len(every), generator=generator)[: max(2, MOST_REAL // len(shown))]
        chosen = torch.from_numpy(reader.images(every.start + drawn.numpy(), artifact.resolution))
        searched += len(chosen)
        generated = bank.images[bank.labels == label]
        real_features, features = embed(chosen).double(), embed(generated).double()
        name = artifact.classes[label]
        neighbours += _neighbours(name, generated, features, chosen, real_features, pairs)
        found.append(_Seen(name, real_features[:MOST_POINTS].clone(), features, real_features.mean(0)))
    plane, explained = _plane(found)
    return FeatureSpace(tuple(neighbours), plane, explained, searched, available)


def _neighbours(
    name: str, generated: Tensor, features: Tensor, real: Tensor, real_features: Tensor, pairs: int
) -> list[Neighbour]:
    distances, indices = nearest(features, real_features, 1)
    usual = 0.0
    if len(real) > 1:
        # The first of two is the image itself.
        some = real_features[:MOST_POINTS]
        usual = float(nearest(some, real_features, 2)[0][:, 1].median())
    order = distances[:, 0].argsort(stable=True)[:pairs].tolist()
    return [
        Neighbour(
            name=name,
            generated=generated[i],
            real=real[int(indices[i, 0])],
            distance=float(distances[i, 0]),
            ratio=float(distances[i, 0]) / usual if usual else None,
        )
        for i in order
    ]


def _plane(found: Sequence[_Seen]) -> tuple[tuple[PlaneClass, ...], float]:
    """The classes on the first two principal components of their real images, with as many of each class.

    Generated images have no part in where the plane lies: it shows them as real images see them.
    """
    real = torch.cat([one.real for one in found])
    mean = real.mean(0)
    centered = real - mean
    values, vectors = _principal(centered)
    total = float(centered.square().sum())

    def project(features: Tensor) -> Tensor:
        return (features - mean) @ vectors

    def place(features: Tensor) -> tuple[float, float]:
        x, y = project(features[None])[0].tolist()
        return x, y

    classes = tuple(
        PlaneClass(
            name=one.name,
            real=project(one.real),
            generated=project(one.generated[:MOST_POINTS]),
            real_center=place(one.center),
            generated_center=place(one.generated.mean(0)),
        )
        for one in found
    )
    return classes, float(values.sum()) / total if total else 0.0


def _principal(centered: Tensor) -> tuple[Tensor, Tensor]:
    """The two largest eigenvalues [2] of ``XᵀX`` and their vectors [d, 2]; signs are fixed by the largest entry."""
    count, size = centered.shape
    if count < size:
        # The same spectrum in a smaller matrix: XXᵀ u = λ u gives the vector Xᵀ u of XᵀX.
        values, left = torch.linalg.eigh(centered @ centered.T)
        vectors = F.normalize(centered.T @ left[:, -2:], dim=0)
    else:
        values, vectors = torch.linalg.eigh(centered.T @ centered)
        vectors = vectors[:, -2:]
    values, vectors = values[-2:].flip(0).clamp(min=0), vectors.flip(1)
    if vectors.shape[1] < 2:
        values, vectors = F.pad(values, (0, 1)), F.pad(vectors, (0, 1))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return values, vectors * torch.where(largest < 0, -1.0, 1.0)


def random_features(artifact: Artifact) -> Embed:
    """Features of an untrained ConvNet (blocks of 3x3 convolution, instance norm, ReLU and average pooling).

    Its weights are drawn from a fixed seed with He's standard deviation, so every report sees through the same one.

    Args:
        artifact: says how images are standardised.
    """
    draw = torch.Generator().manual_seed(0)
    depth = max(2, artifact.resolution.bit_length() - 3)
    channels = [3, *[RANDOM_WIDTH] * depth]
    weights = [
        torch.randn(out, into, 3, 3, generator=draw) * (2 / (9 * into)) ** 0.5
        for into, out in itertools.pairwise(channels)
    ]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (artifact.config.mean, artifact.config.std))

    def features(images: Tensor) -> Tensor:
        x = (images.cpu().float() / 255 - mean) / std
        for weight in weights:
            x = F.avg_pool2d(F.relu(F.instance_norm(F.conv2d(x, weight, padding=1))), 2)
        return x.flatten(1)

    def embed(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([features(part) for part in images.split(_BATCH)]).clone()

    return embed
