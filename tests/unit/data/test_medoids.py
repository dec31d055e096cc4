"""Medoids are different real images near the centers of the class."""

import numpy as np
import pytest
import torch

from raycondense.data.medoids import _points, medoids
from raycondense.errors import DataError


def clusters(sizes, side=8, spread=4, seed=0):
    """Images around as many grey levels as there are sizes; and which cluster each is of."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(30, 220, len(sizes))
    which = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(which)
    noise = rng.normal(0, spread, (len(which), 3, side, side))
    return np.clip(levels[which][:, None, None, None] + noise, 0, 255).astype(np.uint8), which


@pytest.mark.parametrize("side", [8, 64])
def test_one_of_each_cluster(side):
    images, which = clusters((20, 5, 9, 14), side)
    found = medoids(images, 4, seed=0)
    assert found.dtype == np.int64
    assert sorted(which[found].tolist()) == [0, 1, 2, 3]
    assert np.array_equal(found, np.sort(found))


def test_one_is_nearest_to_the_mean():
    images, _ = clusters((30,))
    flat = images.reshape(len(images), -1).astype(float)
    distances = ((flat - flat.mean(0)) ** 2).sum(1)
    assert medoids(images, 1, seed=0).tolist() == [int(distances.argmin())]


def test_each_is_the_nearest_image_to_a_center():
    """The medoid of a cluster that stands alone is its image nearest to its mean."""
    images, which = clusters((12, 15), spread=3)
    flat = images.reshape(len(images), -1).astype(float)
    for index in medoids(images, 2, seed=3):
        members = np.flatnonzero(which == which[index])
        distances = ((flat[members] - flat[members].mean(0)) ** 2).sum(1)
        assert index == members[distances.argmin()]


def test_all_images_at_most():
    images, _ = clusters((6,))
    assert medoids(images, 6, seed=0).tolist() == list(range(6))
    with pytest.raises(DataError, match=r"k: found 7 medoids of 6 images, valid: 1 to 6"):
        medoids(images, 7, seed=0)
    with pytest.raises(DataError, match="k: found 0"):
        medoids(images, 0, seed=0)


def test_equal_images_give_different_positions(recwarn):
    images = np.full((9, 3, 8, 8), 7, np.uint8)
    images[4] = 200
    found = medoids(images, 5, seed=0)
    assert len(set(found.tolist())) == 5
    assert 4 in found
    assert not recwarn.list


def test_seed_decides_whatever_the_threads():
    images, _ = clusters((300, 200), spread=60)
    first = medoids(images, 20, seed=2**40 + 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert np.array_equal(medoids(torch.from_numpy(images), 20, 2**40 + 1), first)
    finally:
        torch.set_num_threads(threads)
    assert not np.array_equal(medoids(images, 20, seed=5), first)


def test_features():
    features = np.concatenate([np.zeros((5, 3)), np.ones((6, 3)), np.full((7, 3), 9.0)]).astype(np.float32)
    assert sorted(features[medoids(features, 3, seed=0), 0].tolist()) == [0, 1, 9]


def test_images_are_pooled_in_pieces_that_change_nothing(monkeypatch):
    images, _ = clusters((20, 5, 9, 14), side=32)
    at_once = _points(torch.as_tensor(images))
    monkeypatch.setattr("raycondense.data.medoids._PIECE", 7)
    assert np.array_equal(_points(torch.as_tensor(images)), at_once)
