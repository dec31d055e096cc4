"""Diversity and realism of an image set, in the features of a reference network: why it is worth what it is worth.

No student is trained here and no test split is read. All measures are ratios, so the scale of the features does not
matter; the features themselves do: numbers of two reference networks cannot be compared. The work goes class by class,
and real images are embedded once for all sets that are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raycondense.errors import DataError
from raycondense.evaluation.neighbours import CHUNK, nearest, squared_distances
from raycondense.evaluation.train import ImageSet
from raycondense.seeds import seeded_generator

Embed = Callable[[Tensor], Tensor]
"""uint8 images [N, 3, R, R] → floating-point features [N, d] on the CPU."""
RealImages = ImageSet | Callable[[int], Tensor]
"""A set in memory, or a function that gives the uint8 images [n, 3, R, R] of a label."""

NEIGHBOURS = 5
"""k of density and coverage, as in the paper's experiments; a class of n real images takes at most n − 1."""
TIE = 1e-9
"""Relative: a squared distance this little below a radius is on the sphere and not inside it."""
COLUMNS = (
    "spread_ratio", "center_margin", "positive_margin", "center_cosine", "coverage", "expected_coverage", "density",
    "nearest_real",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostics:
    """What was found of one image set; None where it cannot be known. Random real images give the numbers to compare
    with: most of these depend on how many images there are."""

    spread_ratio: float | None
    """Diversity: squared distance to the own class's mean, over that of real images (n − 1 in both denominators), mean
    over classes. 1 is as diverse as real images, 0 is one image again and again. None with one image per class."""
    center_margin: float | None
    """Realism: how much nearer an image is to the real center of its class than to the nearest other one,
    ``(d_other − d_own) / ‖μ_own − μ_other‖``, mean over images. In [-1, 1]: 1 at its own center and beyond, 0 half-way.
    None with one class."""
    positive_margin: float | None
    """Share of images whose margin is positive: that a classifier by nearest real centers puts into their class."""
    center_cosine: float | None
    """How little classes stand apart: cosine of a class's center with the most similar other one, seen from the mean of
    the real centers; mean over classes. In [-1, 1]; −1 / (classes − 1) where all are equally far apart, smaller is
    further. Centers of few images are noisy, so compare with as many random ones. None with one class."""
    coverage: float | None
    """Diversity: share of real images with an image of the set inside the sphere through their k-th real neighbour
    (Naeem et al. 2020, arXiv 2002.09797, k = 5), per class, mean over classes. In [0, 1]."""
    expected_coverage: float | None
    """The coverage that as many new real images would have, on average (Lemma 2 of the same paper): small for small
    sets."""
    density: float | None
    """Realism: how many of those spheres an image is in, over k (same paper), mean over classes. 0 or more; 1 is what
    real images have on average, more is nearer to where real images are dense."""
    nearest_real: float | None
    """Memorisation: distance to the nearest real image of the class over the median such distance of real images;
    median over images. 0: at least half of them are copies. 1: as far from all real images as these from each other."""

    def to_dict(self) -> dict[str, float | None]:
        """The columns of the table of diagnostics (`raycondense.evaluation.schemas`) that are measured here."""
        return {name: getattr(self, name) for name in COLUMNS}


def diagnose(
    synthetic: ImageSet, real: RealImages, embed: Embed, *, num_classes: int, seed: int = 0, most_real: int = 1000
) -> Diagnostics:
    """Measure one image set; `diagnose_all` of it alone, with the same arguments."""
    return diagnose_all([synthetic], real, embed, num_classes=num_classes, seed=seed, most_real=most_real)[0]


def diagnose_all(
    synthetic: Sequence[ImageSet],
    real: RealImages,
    embed: Embed,
    *,
    num_classes: int,
    seed: int = 0,
    most_real: int = 1000,
) -> list[Diagnostics]:
    """Measure image sets against the same real images.

    One class is in memory at a time: its images and features, real and synthetic, and a block of distances. What stays
    of it is written into rows that are there from the beginning: small tensors that are kept between the large ones of
    thousands of classes would leave the C library's heap full of holes.

    Args:
        synthetic: the sets; a class without images in a set does not count for it.
        real: the training images: all of them, or memorisation will be missed.
        embed: makes the features; called on images of one class.
        num_classes: labels are 0 to ``num_classes - 1``.
        seed: of the draw of ``most_real`` images.
        most_real: at most so many real images of a class have a sphere in density and coverage, and a nearest
            neighbour in the scale of ``nearest_real``.

    Raises:
        DataError: a set is empty or has a label out of range, a class has no real images, or features are not finite.
    """
    for data in synthetic:
        _check_labels(data.labels, num_classes)
    sets = [_Sums(_Rows(data.labels.unique().numel()), _Rows(len(data.labels))) for data in synthetic]
    centers = _Rows(num_classes)
    for label in range(num_classes):
        images = real.images[real.labels == label] if isinstance(real, ImageSet) else real(label)
        if not len(images):
            raise DataError(f"real images of class {label}: found 0, valid: 1 or more")
        reality = _Class.of(_features(embed, images, label), most_real, seed, label)
        centers.append(reality.center[None])
        for sums, data in zip(sets, synthetic, strict=True):
            chosen = data.images[data.labels == label]
            if len(chosen):
                sums.add(_features(embed, chosen, label), reality)
    # The margins take all real centers. Few images are embedded twice, so that no features have to be kept.
    real_centers = centers.filled
    found = []
    for sums, data in zip(sets, synthetic, strict=True):
        margins = _Rows(len(data.labels))
        if num_classes > 1:
            for label in data.labels.unique().tolist():
                margins.append(
                    _margins(_features(embed, data.images[data.labels == label], label), real_centers, label)
                )
        found.append(sums.result(real_centers, margins.filled if num_classes > 1 else None))
    return found


class _Rows:
    """At most ``count`` float64 rows, filled bit by bit."""

    def __init__(self, count: int) -> None:
        self._count, self._end = count, 0
        self._rows = torch.empty(0, dtype=torch.float64)

    def append(self, rows: Tensor) -> None:
        """Add float64 rows [n, …], all of one shape."""
        if not self._end:
            self._rows = rows.new_empty((self._count, *rows.shape[1:]))
        self._rows[self._end : self._end + len(rows)] = rows
        self._end += len(rows)

    @property
    def filled(self) -> Tensor:
        """What was added, [at most ``count``, …]."""
        return self._rows[: self._end]


@dataclass(frozen=True, slots=True)
class _Class:
    """What is known of the real images of one class."""

    features: Tensor
    center: Tensor
    spread: float | None
    manifold: Tensor
    """The features of at most ``most_real`` of them."""
    radii: Tensor
    """Squared distances of the manifold's images to their k-th neighbour in it."""
    k: int
    scale: float
    """Median distance of the manifold's images to their nearest other real image; 0 with one image."""

    @classmethod
    def of(cls, features: Tensor, most_real: int, seed: int, label: int) -> _Class:
        order = torch.randperm(len(features), generator=seeded_generator(seed, "diagnostics", label))
        manifold = features[order[:most_real].sort().values]
        k = min(NEIGHBOURS, len(manifold) - 1)
        # Each image is its own first neighbour.
        radii = nearest(manifold, manifold, k + 1)[0][:, k].square()
        scale = _median(nearest(manifold, features, 2)[0][:, 1]) if len(features) > 1 else 0.0
        return cls(features, features.double().mean(0), _spread(features), manifold, radii, k, scale)


@dataclass(slots=True)
class _Sums:
    """Measures of one image set, class by class."""

    centers: _Rows
    distances: _Rows
    spreads: list[float] = field(default_factory=list)
    coverages: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)

    def add(self, features: Tensor, real: _Class) -> None:
        """Measure the images of one class."""
        self.centers.append(features.double().mean(0, keepdim=True))
        spread = _spread(features)
        if spread is not None and real.spread:
            self.spreads.append(spread / real.spread)
        if real.k:
            coverage, density = _coverage_density(features, real)
            self.coverages.append(coverage)
            self.densities.append(density)
            self.expected.append(expected_coverage(len(real.manifold), len(features), real.k))
        if real.scale:
            self.distances.append(nearest(features, real.features)[0].flatten() / real.scale)

    def result(self, real_centers: Tensor, margins: Tensor | None) -> Diagnostics:
        """What was found in all classes."""
        return Diagnostics(
            spread_ratio=_mean(self.spreads),
            center_margin=None if margins is None else float(margins.mean()),
            positive_margin=None if margins is None else float((margins > 0).double().mean()),
            center_cosine=_center_cosine(self.centers.filled, real_centers),
            coverage=_mean(self.coverages),
            expected_coverage=_mean(self.expected),
            density=_mean(self.densities),
            nearest_real=_median(self.distances.filled) if len(self.distances.filled) else None,
        )


def expected_coverage(real: int, synthetic: int, k: int = NEIGHBOURS) -> float:
    """Coverage of ``real`` images by ``synthetic`` ones of the same distribution, on average.

    ``1 − Π_{j=1…k} (N − j) / (M + N − j)`` for N real and M synthetic images (Naeem et al. 2020, Lemma 2): an image is
    not covered where its k nearest others of both kinds are all real.

    Args:
        real: N, more than ``k``.
        synthetic: M, 0 or more.
        k: neighbours, 1 or more.
    """
    j = np.arange(1, k + 1)
    return float(1 - np.prod((real - j) / (synthetic + real - j)))


def _coverage_density(features: Tensor, real: _Class) -> tuple[float, float]:
    """Strictly inside, as in the paper's code: so copies of all real images have density 1 and not (k + 1) / k."""
    covered = torch.zeros(len(real.manifold), dtype=torch.bool)
    spheres = 0
    for rows in features.split(CHUNK):
        for start, squared in squared_distances(rows, real.manifold):
            stop = start + squared.shape[1]
            inside = squared < real.radii[start:stop] * (1 - TIE)
            covered[start:stop] |= inside.any(0)
            spheres += int(inside.sum())
    return float(covered.double().mean()), spheres / (real.k * len(features))


def _margins(features: Tensor, centers: Tensor, label: int) -> Tensor:
    """Margins [n] (see `Diagnostics.center_margin`). By the triangle inequality they are in [-1, 1]."""
    distances = torch.cat([block for _, block in squared_distances(features, centers)], 1).sqrt()
    own = distances[:, label].clone()
    distances[:, label] = torch.inf
    other, which = distances.min(1)
    apart = (centers - centers[label]).square().sum(1).sqrt()[which]
    # Classes with the same center (untrained or dead features) cannot be told apart: half-way.
    return torch.where(apart > 0, (other - own) / apart, torch.zeros(())).clamp(-1, 1)


def _center_cosine(centers: Tensor, real_centers: Tensor) -> float | None:
    if len(centers) < 2:
        return None
    directions = functional.normalize(centers - real_centers.mean(0), dim=1)
    similarity = directions @ directions.T
    return float(similarity.fill_diagonal_(-torch.inf).max(1).values.mean())


def _spread(features: Tensor) -> float | None:
    """Unbiased mean squared distance to the mean; None of one vector."""
    return float(features.double().var(0).sum()) if len(features) > 1 else None


def _features(embed: Embed, images: Tensor, label: int) -> Tensor:
    features = embed(images).flatten(1)
    if not torch.isfinite(features).all():
        raise DataError(f"reference network: found features of class {label} that are not finite; was it trained?")
    return features


def _median(values: Tensor) -> float:
    # Not torch's, which takes the lower one of two in the middle.
    return float(np.median(values.numpy()))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if not len(labels):
        raise DataError("image set to diagnose: found 0 images, valid: 1 or more")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(f"labels of an image set: found {lowest} to {highest}, valid: 0 to {num_classes - 1}")
