"""Feature regression: a linear classifier that is fitted to the synthetic images should be right about real ones."""

from __future__ import annotations

import torch
from torch import Tensor

from raycondense.losses._numerics import full_precision

SMALLEST_RIDGE = 1e-6
"""Added to the ridge beside features that are all zero, which nothing could be solved with."""


@full_precision
def feature_regression(real: Tensor, synthetic: Tensor, ridge: float, first: int = 0) -> Tensor:
    """Error on real features of the ridge regression from synthetic features to classes.

    ``Σ_c mean_m ½ ‖ y_c − f(x_cm) Sᵀ (S Sᵀ + λ I)⁻¹ Y ‖²`` with the synthetic features S of all classes, one-hot labels
    less their mean Y (y_c is that of class c), and λ = ``ridge`` times the mean square norm of a row of S: Zhou et al.,
    *Dataset Distillation using Neural Feature Regression*, arXiv 2206.00719 (its loss). It asks of images what the
    matching losses do not: that classes can be told apart by them (docs/results/ablations.md).

    Workers with different real images pass the synthetic features of all classes: their losses, and the gradients of
    the synthetic features, then add up to one worker's.

    Args:
        real: [C', M, D] features of real images by class.
        synthetic: [C, K, D] features of synthetic images by class, C at least C'.
        ridge: more than 0; the larger, the more a regression relies on what many images share.
        first: ``real[i]`` is of class ``first + i`` of ``synthetic``.

    Returns:
        Scalar, 0 or more; the sum over the real classes, each about ½ (1 − 1/C) where features say nothing. One
        class (C = 1) has no other to be told from: exactly 0, with zero gradient.
    """
    classes, per_class, _ = synthetic.shape
    if classes < 2:
        return synthetic.sum() * 0  # a zero that stays in the graph
    rows = synthetic.flatten(0, 1)
    labels = torch.eye(classes, dtype=rows.dtype, device=rows.device) - 1 / classes
    gram = rows @ rows.mT
    strength = ridge * gram.diagonal().mean() + SMALLEST_RIDGE
    # The form without a check of its success, which would wait for the device: λ > 0 makes the matrix definite.
    factor, _ = torch.linalg.cholesky_ex(gram + strength * torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
    dual = torch.cholesky_solve(labels.repeat_interleave(per_class, dim=0), factor)
    found = real.flatten(0, 1) @ (rows.mT @ dual)
    wanted = labels[first : first + len(real)].repeat_interleave(real.shape[1], dim=0)
    return (found - wanted).square().sum() / (2 * real.shape[1])
