"""The loops that numba compiles, run as plain Python, against NumPy, Pillow and OpenCV."""

import numpy as np
import pytest
from PIL import Image

from raycondense.data.decode import resize_square
from raycondense.data.ffcv_kernels import (
    area_resize,
    area_resize_interpreted,
    area_weights,
    split_channels,
    split_channels_interpreted,
)

SIDES = [(16, 8), (24, 8), (28, 8), (9, 8), (64, 8), (13, 5)]


def image(side):
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)


def resized(resize, stored, side):
    planes = np.zeros((3, side, side), np.uint8)
    resize(image(stored), planes, *area_weights(stored, side))
    return planes.transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("split", [split_channels, split_channels_interpreted])
def test_split_channels(split):
    planes = np.zeros((3, 8, 8), np.uint8)
    split(image(8), planes)
    assert np.array_equal(planes, image(8).transpose(2, 0, 1))


@pytest.mark.parametrize(("stored", "side"), [*SIDES, (224, 64), (160, 64), (255, 32), (97, 96)])
def test_weights_share_out_every_pixel(stored, side):
    starts, weights = area_weights(stored, side)
    assert starts.min() >= 0
    assert (starts + weights.shape[1]).max() <= stored
    whole = np.zeros((side, stored))
    for row, start, shares in zip(whole, starts, weights, strict=True):
        row[start : start + len(shares)] = shares
    np.testing.assert_allclose(whole.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(whole.sum(0), side / stored, rtol=1e-4)


@pytest.mark.parametrize(("stored", "side"), SIDES)
def test_loop_and_numpy_agree(stored, side):
    difference = np.abs(resized(area_resize, stored, side) - resized(area_resize_interpreted, stored, side))
    assert difference.max() <= (0 if stored % side == 0 and stored // side in (2, 8) else 1)


@pytest.mark.parametrize("resize", [area_resize, area_resize_interpreted])
@pytest.mark.parametrize("stored", [16, 32, 64])
def test_same_as_pillow_to_the_bit_where_sides_divide(resize, stored):
    wanted = np.asarray(resize_square(Image.fromarray(image(stored)), 8))
    assert np.array_equal(resized(resize, stored, 8), wanted)


@pytest.mark.parametrize(("stored", "side"), SIDES)
def test_same_as_ffcvs_own_resize_but_for_rounding(stored, side):
    libffcv = pytest.importorskip("ffcv.libffcv", reason="FFCV is not installed")
    wanted = np.zeros((side, side, 3), np.uint8)
    libffcv.resize_crop(image(stored), 0, stored, 0, stored, wanted)
    assert np.abs(resized(area_resize, stored, side) - wanted).max() <= 1
