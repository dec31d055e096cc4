"""Nearest neighbours are those of the plain definition, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycondense.evaluation.neighbours import nearest, squared_distances


def features(*shape: int, seed: int = 0, grid: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if grid:  # many ties
        return torch.randint(0, 3, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def test_by_hand() -> None:
    references = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    distances, indices = nearest(torch.tensor([[0.0, 0.0], [3.0, 3.0]]), references, 3)
    assert indices.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert distances.dtype == torch.float64
    assert distances.tolist() == [[0, 1, 5], pytest.approx([1, 13**0.5, 18**0.5])]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.booleans(), st.data())
def test_equals_the_definition_in_every_chunk(n, m, d, chunk, grid, data) -> None:
    k = data.draw(st.integers(1, m))
    queries, references = features(n, d, grid=grid), features(m, d, seed=1, grid=grid)
    distances, indices = nearest(queries, references, k, chunk=chunk)
    every = (queries[:, None] - references).double().square().sum(2).sqrt()
    torch.testing.assert_close(distances, every.sort(1).values[:, :k])
    torch.testing.assert_close(every.gather(1, indices), distances)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_a_copy_is_at_distance_0_even_far_from_the_origin() -> None:
    references = features(50, 16) * 1e-3 + 1e4
    distances, indices = nearest(references[10:], references)
    assert indices[:, 0].tolist() == list(range(10, 50))
    assert distances.abs().max() == 0


def test_squares_of_distances_are_never_negative() -> None:
    vectors = features(60, 16) + 10 * features(1, 16, seed=1)
    blocks = [block for _, block in squared_distances(vectors, vectors, chunk=7)]
    assert torch.cat(blocks, 1).min() == 0  # rounding alone makes some of a copy's squares −1e-14


def test_ties_go_to_the_smaller_index() -> None:
    references = torch.tensor([[1.0], [-1.0], [1.0]])
    assert nearest(torch.zeros(1, 1), references, 3)[1].tolist() == [[0, 1, 2]]


def test_half_precision_and_no_queries() -> None:
    references = features(7, 3).half()
    assert nearest(references, references)[1].flatten().tolist() == list(range(7))
    distances, indices = nearest(references[:0], references, 2)
    assert distances.shape == indices.shape == (0, 2)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"found shapes \[2, 3\] and \[4, 2\]"):
        nearest(features(2, 3), features(4, 2))
    with pytest.raises(ValueError, match=r"k: found 5 neighbours of 4 references, valid: 1 to 4"):
        nearest(features(2, 3), features(4, 3), 5)
    with pytest.raises(ValueError, match="chunk: found 0"):
        nearest(features(2, 3), features(4, 3), chunk=0)
