"""Scores that compare a row of an evaluation with its reference rows: HLR, IOR, LRS and ARS of DD-Ranking.

Source of the formulas: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025, arXiv
2505.13300. Everything here is a fraction: the released code of DD-Ranking feeds percentages into ``exp``, so its
numbers are on another scale and cannot be put beside these.

An accuracy tells how good a student is; part of it comes from the recipe (teacher labels, augmentation) and not from
the images. The scores take that part out, by comparing with real images under the same recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar

RANDOM = "random"
WHOLE = "whole"


def hlr(full_hard: float, synthetic_hard: float) -> float:
    """Hard-label recovery: what is lost against the whole set when both train with hard labels. Smaller is better.

    Args:
        full_hard: accuracy with the whole training set and hard labels, in [0, 1].
        synthetic_hard: accuracy with the synthetic images and hard labels, in [0, 1].

    Returns:
        ``full_hard − synthetic_hard``, in [-1, 1].

    Raises:
        ValueError: an argument is outside its range.
    """
    _check("full_hard", full_hard, 0)
    _check("synthetic_hard", synthetic_hard, 0)
    return full_hard - synthetic_hard


def ior(synthetic: float, random: float) -> float:
    """Improvement over random: what is won against as many random real images under the same recipe. Larger is better.

    Args:
        synthetic: accuracy with the synthetic images, in [0, 1].
        random: accuracy with random real images, labelled and augmented in the same way, in [0, 1].

    Returns:
        ``synthetic − random``, in [-1, 1].

    Raises:
        ValueError: an argument is outside its range.
    """
    _check("synthetic", synthetic, 0)
    _check("random", random, 0)
    return synthetic - random


def lrs(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Label-robust score: ``α = weight · IOR − (1 − weight) · HLR``, then `normalised`. Larger is better.

    Args:
        hlr: hard-label recovery, in [-1, 1].
        ior: improvement over random, in [-1, 1].
        weight: of the improvement over random, in [0, 1].

    Returns:
        A number in [0, 1]; 0.269 stands for ``α = 0``.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check("hlr", hlr, -1)
    _check("ior", ior, -1)
    _check("weight", weight, 0)
    return normalised(weight * ior - (1 - weight) * hlr)


def ars(
    synthetic_augmented: float, random_augmented: float, synthetic_plain: float, random_plain: float,
    weight: float = 0.5,
) -> float:  # fmt: skip
    """Augmentation-robust score: ``β = γ · IOR with augmentation + (1 − γ) · IOR without``, then `normalised`.

    Args:
        synthetic_augmented: accuracy with the synthetic images under augmentation, in [0, 1].
        random_augmented: the same of as many random real images.
        synthetic_plain: accuracy with the synthetic images without augmentation, in [0, 1].
        random_plain: the same of as many random real images.
        weight: γ, in [0, 1].

    Returns:
        A number in [0, 1]; 0.269 is what random real images have. Larger is better.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check("synthetic_augmented", synthetic_augmented, 0)
    _check("random_augmented", random_augmented, 0)
    _check("synthetic_plain", synthetic_plain, 0)
    _check("random_plain", random_plain, 0)
    _check("weight", weight, 0)
    with_augmentation = synthetic_augmented - random_augmented
    without = synthetic_plain - random_plain
    return normalised(weight * with_augmentation + (1 - weight) * without)


def normalised(value: float) -> float:
    """``(e^x − e^−1) / (e − e^−1)``: takes [-1, 1] to [0, 1], and 0 to 0.2689.

    Raises:
        ValueError: ``value`` is outside [-1, 1].
    """
    _check("value", value, -1)
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(name: str, value: float, lowest: int) -> None:
    # Written so that it also refuses NaN.
    if not lowest <= value <= 1:
        raise ValueError(f"{name}: found {value}, valid: {lowest} to 1 (a fraction, not per cent)")


class ScoredRow(Protocol):
    """What `scores_of` reads of a row: the mean accuracy of some students and what they were trained on."""

    @property
    def method(self) -> str:
        """Key of the method: raycondense, random, …, whole."""
        ...

    @property
    def architecture(self) -> str:
        """Of the students."""
        ...

    @property
    def ipc(self) -> int:
        """Images per class, or of the budget in bytes; 0 is the whole set."""
        ...

    @property
    def accounting(self) -> str:
        """bank, bytes or stream."""
        ...

    @property
    def labels(self) -> str:
        """hard or soft."""
        ...

    @property
    def augmented(self) -> bool:
        """False: trained without augmentation."""
        ...

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        ...


class Scores(TypedDict):
    """Scores of one row; None where a row that it takes was not measured."""

    hlr: float | None
    """Hard-label recovery, in [-1, 1]; smaller is better."""
    ior: float | None
    """Improvement over random, in [-1, 1]; larger is better."""
    lrs: float | None
    """Label-robust score, in [0, 1]; larger is better."""
    ars: float | None
    """Augmentation-robust score, in [0, 1]; larger is better."""


R = TypeVar("R", bound=ScoredRow)


def _alone(row: Any) -> Hashable:
    return None


def scores_of(
    rows: Iterable[R], *, group: Callable[[R], Hashable] = _alone, origin: Callable[[R], Hashable] = _alone
) -> list[Scores]:
    """The scores of each row, from the rows that it has to be compared with.

    - HLR takes the whole set with hard labels, and the row's own images with hard labels; same architecture, both with
      or both without augmentation.
    - IOR takes random real images of the same architecture, images per class, accounting, labels and augmentation. So
      a row by bytes or by stream has one only where random images were measured under that accounting.
    - LRS takes both.
    - ARS takes the row and its random real images, both with and without augmentation.

    The whole set is what others are measured against and has no scores. Random real images have IOR 0 and ARS 0.269:
    the zero of both scales.

    Args:
        rows: all rows of one evaluation, or of several with ``group``.
        group: rows are compared only with rows for which this is the same: where there are several, the dataset, split
            and protocol.
        origin: what tells sets of images of one method apart where there are several, such as the artefact.

    Returns:
        As many scores as rows, in their order.

    Raises:
        ValueError: two rows cannot be told apart, or an accuracy is no fraction.
    """
    listed = list(rows)
    own: dict[Hashable, float] = {}
    random: dict[Hashable, float] = {}
    whole: dict[Hashable, float] = {}

    def put(where: dict[Hashable, float], key: Hashable, row: R) -> None:
        if key in where:
            what = f"{row.method}, {row.architecture}, ipc {row.ipc}, {row.accounting}, {row.labels} labels"
            raise ValueError(f"rows: found two of {what}, augmented {row.augmented}; valid: one in each group")
        where[key] = row.accuracy

    for row in listed:
        recipe = _Recipe(group(row), row.architecture, row.labels, row.augmented)
        size = row.ipc, row.accounting
        put(own, (recipe, size, row.method, origin(row)), row)
        if row.method == RANDOM:
            put(random, (recipe, size), row)
        if row.method == WHOLE:
            put(whole, recipe, row)

    def scores(row: R) -> Scores:
        if row.method == WHOLE:
            return Scores(hlr=None, ior=None, lrs=None, ars=None)
        size = row.ipc, row.accounting
        recipe = _Recipe(group(row), row.architecture, row.labels, row.augmented)
        hard, augmented, plain = recipe._replace(labels="hard"), recipe.of(augmented=True), recipe.of(augmented=False)

        def mine(recipe: _Recipe) -> float | None:
            return own.get((recipe, size, row.method, origin(row)))

        lost = _of(hlr, whole.get(hard), mine(hard))
        won = _of(ior, row.accuracy, random.get((recipe, size)))
        robust = _of(ars, mine(augmented), random.get((augmented, size)), mine(plain), random.get((plain, size)))
        return Scores(hlr=lost, ior=won, lrs=_of(lrs, lost, won), ars=robust)

    return [scores(row) for row in listed]


class _Recipe(NamedTuple):
    group: Hashable
    architecture: str
    labels: str
    augmented: bool

    def of(self, *, augmented: bool) -> _Recipe:
        return self._replace(augmented=augmented)


def _of(score: Callable[..., float], *values: float | None) -> float | None:
    return None if any(value is None for value in values) else score(*values)
