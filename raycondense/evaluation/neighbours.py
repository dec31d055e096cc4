"""Exact nearest neighbours among feature vectors, in little memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2048
"""Rows of a block of the distance matrix: 32 MB in float64."""


def nearest(queries: Tensor, references: Tensor, k: int = 1, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest references of each query by Euclidean distance, nearest first.

    A query that is also a reference is at distance 0 of it, exactly. Where two of those found are at the same distance
    the one with the smaller index comes first.

    Args:
        queries: [n, d], floating point.
        references: [m, d], on the device of the queries.
        k: how many, 1 to m.
        chunk: rows of either side that are compared at once; memory grows with its square, the result is the same.

    Returns:
        float64 distances [n, k] and int64 indices [n, k] into ``references``.

    Raises:
        ValueError: the shapes do not fit, or ``k`` or ``chunk`` is outside its range.
    """
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1]:
        found = f"{list(queries.shape)} and {list(references.shape)}"
        raise ValueError(f"queries and references: found shapes {found}, valid: [n, d] and [m, d]")
    if not 1 <= k <= len(references):
        raise ValueError(f"k: found {k} neighbours of {len(references)} references, valid: 1 to {len(references)}")
    if chunk < 1:
        raise ValueError(f"chunk: found {chunk}, valid: 1 or more")
    distances = queries.new_empty((len(queries), k), dtype=torch.float64)
    indices = torch.empty((len(queries), k), dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), chunk):
        block = queries[start : start + chunk]
        rough = torch.full((len(block), k), torch.inf, dtype=torch.float64, device=queries.device)
        chosen = torch.zeros((len(block), k), dtype=torch.int64, device=queries.device)
        for offset, squared in squared_distances(block, references, chunk=chunk):
            near, where = torch.cat((rough, squared), 1).topk(k, largest=False)
            rough = near
            known = chosen.gather(1, where.clamp(max=k - 1))
            chosen = torch.where(where < k, known, where - k + offset)
        # Again from the differences: squares by a matrix product lose the last digits, and equal vectors must be at 0.
        chosen = chosen.sort(dim=1).values
        exact = torch.stack([_distance(block, references[chosen[:, i]]) for i in range(k)], 1)
        distances[start : start + chunk], order = exact.sort(dim=1, stable=True)
        indices[start : start + chunk] = chosen.gather(1, order)
    return distances, indices


def squared_distances(queries: Tensor, references: Tensor, *, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """Squared Euclidean distances of all queries [n, d], block by block of references [m, d].

    Yields:
        The first reference's index and float64 [n, at most ``chunk``], 0 or more; relative errors are about 1e-15 of
        the vectors' squared distance from the references' center.
    """
    # Distances do not depend on the origin, but rounding does.
    origin = references[:chunk].double().mean(0)
    rows = queries.double() - origin
    lengths = rows.square().sum(1, keepdim=True)
    for start in range(0, len(references), chunk):
        columns = references[start : start + chunk].double() - origin
        squared = torch.addmm(lengths + columns.square().sum(1), rows, columns.T, alpha=-2)
        yield start, squared.clamp_(min=0)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().sum(1).sqrt()
