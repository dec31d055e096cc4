"""Cross-entropy: a trained extractor should recognise the class of a synthetic image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raycondense.losses._numerics import full_precision


@full_precision
def cross_entropy(logits: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
    """Mean cross-entropy, ``−1/N Σ_n log softmax(z_n)[y_n]``.

    IDM (arXiv 2307.09742) and NCFM (arXiv 2502.20653) add it to distribution matching.

    Args:
        logits: [N, num_classes].
        labels: [N], int64.
        total: images of all workers together, where there are several: then the workers' losses add up. None is N.

    Returns:
        Scalar, 0 or more.
    """
    return F.cross_entropy(logits, labels, reduction="sum") / (len(labels) if total is None else total)
