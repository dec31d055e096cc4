"""Inter-class loss: the centers of different classes should lie apart."""

from __future__ import annotations

from torch import Tensor

from raycondense.losses._numerics import full_precision, log_mean_exp_of_others, unit


@full_precision
def inter_class(centers: Tensor, temperature: float) -> Tensor:
    """Similarity of class centers.

    ``1/C Σ_c log 1/(C−1) Σ_{c'≠c} exp(cos(μ_c, μ_c') / τ)``: our reconstruction of the inter-class loss of *Dataset
    Condensation via Generative Model*, arXiv 2309.07698. The mean inside the logarithm keeps values of different
    numbers of classes comparable, in [−1/τ, 1/τ].

    Every worker passes the centers of all classes of the step, its own with gradient and the others' detached, in any
    order. The value is then the same on every worker, and the *sum* over workers of the gradients is exact: each
    center's gradient is taken on the worker that owns it. (So it is the one loss that is not to be summed for the log.)

    Args:
        centers: [C, D] mean features of the classes of a step.
        temperature: τ > 0.

    Returns:
        Scalar. One class (C = 1) has no other: exactly 0, with zero gradient.
    """
    if centers.shape[0] < 2:
        return centers.sum() * 0  # a zero that stays in the graph
    directions = unit(centers)
    return log_mean_exp_of_others(directions @ directions.mT / temperature).mean()
