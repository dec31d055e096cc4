"""Realism: images should look real to a discriminator, and the losses that train one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raycondense.losses._numerics import full_precision


@full_precision
def realism(scores: Tensor, total: int | None = None) -> Tensor:
    """The generator's hinge loss, ``−1/N Σ_n D(G(z_n), y_n)``.

    Lim & Ye, *Geometric GAN*, arXiv 1705.02894; Miyato et al., arXiv 1802.05957, equation 17.

    Args:
        scores: [N], the discriminator's scores of synthetic images.
        total: images of all workers together, where there are several: then the workers' losses add up. None is N.

    Returns:
        Scalar, unbounded.
    """
    return -scores.sum() / (len(scores) if total is None else total)


@full_precision
def discriminator_hinge(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """The discriminator's hinge loss, ``mean max(0, 1 − D(x)) + mean max(0, 1 + D(G(z)))``.

    Lim & Ye, arXiv 1705.02894; Miyato et al., arXiv 1802.05957, equation 16.

    Args:
        real_scores: [N], scores of real images.
        fake_scores: [N'], scores of generated images.

    Returns:
        Scalar, 0 or more. A mean: workers with equally many images average it.
    """
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()
