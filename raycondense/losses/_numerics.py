"""What all losses share: full precision and safe norms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

NORM_EPS = 1e-8
"""Added to squared norms: cosines of vectors much longer than 1e-4 don't feel it, those of zero vectors are 0 and
have finite gradients."""


def _widen(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Compute ``loss`` in float32 (float64 for float64 inputs), inside autocast too: sums of half-precision features
    lose the differences that losses are made of."""

    @functools.wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        first = cast(Tensor, args[0])
        with torch.autocast(first.device.type, enabled=False):
            return loss(
                *(_widen(a) for a in args),  # type: ignore[arg-type]
                **{name: _widen(v) for name, v in kwargs.items()},  # type: ignore[arg-type]
            )

    return wrapped


def unit(features: Tensor) -> Tensor:
    """Scale vectors [..., D] to length 1; zero vectors stay zero."""
    return features * torch.rsqrt(features.square().sum(dim=-1, keepdim=True) + NORM_EPS)


def log_mean_exp_of_others(similarity: Tensor) -> Tensor:
    """``log (1/(n−1)) Σ_{j≠i} exp(s_ij)`` for every i: [..., n, n] to [..., n], n at least 2."""
    n = similarity.shape[-1]
    diagonal = torch.eye(n, dtype=torch.bool, device=similarity.device)
    others = similarity.masked_fill(diagonal, float("-inf"))
    return torch.logsumexp(others, dim=-1) - torch.log(similarity.new_tensor(n - 1))
