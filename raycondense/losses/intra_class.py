"""Intra-class loss: samples of a class should differ from each other, but not more than real ones do."""

from __future__ import annotations

import torch
from torch import Tensor

from raycondense.losses._numerics import full_precision, log_mean_exp_of_others, unit


@full_precision
def intra_class(features: Tensor, temperature: float, bound: Tensor | None = None) -> Tensor:
    """Repulsion of the samples of each class.

    ``max(0, 1/K Σ_k log 1/(K−1) Σ_{j≠k} exp(cos(f_k, f_j) / τ) − bound)``: our reconstruction of the intra-class loss
    of *Dataset Condensation via Generative Model*, arXiv 2309.07698. The mean inside the logarithm makes values of
    different K comparable: they lie in [−1/τ, 1/τ]. With ``bound`` the repulsion ends where samples are spread as
    widely as real ones (`spread`); without, it keeps fighting the matching loss.

    Args:
        features: [C, K, D] of synthetic images by class.
        temperature: τ > 0; small values look at the nearest neighbour only, large ones at the mean cosine.
        bound: [C], where the repulsion of a class ends, or None.

    Returns:
        [C], one value a class. Workers with different classes divide their sum by the number of classes of all workers:
        then the workers' losses add up. One sample a class (K = 1) has nothing to repel: exactly 0, with zero gradient.
    """
    value = _repulsion(features, temperature)
    if bound is not None and features.shape[1] > 1:
        value = (value - bound.detach()).clamp_min(0)
    return value


@torch.no_grad()
@full_precision
def spread(features: Tensor, temperature: float, count: int | None = None) -> Tensor:
    """Repulsion value of real samples: the bound of `intra_class`.

    The value of a log-mean-exp depends on how many samples it sees, so M real samples are cut into ``M // count``
    groups of ``count`` (one group of all where M is less) and the groups' values averaged.

    Args:
        features: [C, M, D] of real images by class, in random order.
        temperature: as for `intra_class`.
        count: K, the synthetic samples a class that it will be compared with; None is M.

    Returns:
        [C], without gradient.
    """
    classes, samples, dim = features.shape
    count = samples if count is None else max(1, min(count, samples))
    groups = samples // count
    grouped = features[:, : groups * count].reshape(classes * groups, count, dim)
    return _repulsion(grouped, temperature).view(classes, groups).mean(dim=1)


def _repulsion(features: Tensor, temperature: float) -> Tensor:
    if features.shape[1] < 2:
        return features.sum(dim=(1, 2)) * 0  # a zero that stays in the graph
    directions = unit(features)
    return log_mean_exp_of_others(directions @ directions.mT / temperature).mean(dim=1)
