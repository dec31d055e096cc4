"""Loops over the pixels of one image that run inside FFCV: for numba to compile, each with a twin for NumPy.

Both write channels first, so that nobody has to turn the images round afterwards. No loop allocates more than a row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def split_channels(image: Any, planes: Any) -> None:
    """uint8 image [R, R, 3] to planes [3, R, R]. In this form it becomes vector code, ten times faster than slices."""
    pixels, out = image.reshape(-1), planes.reshape(-1)
    area = len(out) // 3
    red, green, blue = out[:area], out[area : 2 * area], out[2 * area :]
    for i in range(area):
        red[i] = pixels[3 * i]
        green[i] = pixels[3 * i + 1]
        blue[i] = pixels[3 * i + 2]


def split_channels_interpreted(image: np.ndarray, planes: np.ndarray) -> None:
    """`split_channels` without numba."""
    planes[...] = image.transpose(2, 0, 1)


def area_weights(stored: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """How pixels of a row of ``stored`` make up those of a row of ``side``, by the area that they share.

    Returns:
        int64 [side], the first pixel that each takes from, and float32 [side, n], the shares of it and those after it.
    """
    width = stored / side
    number = math.ceil(width) + (stored % side != 0)
    # In whole numbers: i · stored / side may fall just short of a whole number.
    starts = np.minimum(np.arange(side) * stored // side, stored - number)
    left = np.arange(side)[:, None] * width
    first = starts[:, None] + np.arange(number)
    shares = np.minimum(left + width, first + 1) - np.maximum(left, first)
    return starts, (np.maximum(shares, 0) / width).astype(np.float32)


def area_resize(image: Any, planes: Any, starts: Any, weights: Any) -> None:
    """uint8 image [S, S, 3] to planes [3, R, R], each pixel the mean of the area that it covers.

    The same as OpenCV's INTER_AREA (FFCV's ``resize_crop``) but for halves, which are rounded up, in a quarter to a
    half of the time; and the same as `raycondense.data.decode.resize_square` where R divides S.
    """
    stored, side, number = len(image), len(starts), weights.shape[1]
    rows = image.reshape(stored, 3 * stored)
    row = np.empty(3 * stored, np.float32)
    for i in range(side):
        weight, source = weights[i, 0], rows[starts[i]]
        for x in range(3 * stored):
            row[x] = weight * np.float32(source[x])
        for t in range(1, number):
            weight, source = weights[i, t], rows[starts[i] + t]
            for x in range(3 * stored):
                row[x] += weight * np.float32(source[x])
        for j in range(side):
            red, green, blue, first = np.float32(0.5), np.float32(0.5), np.float32(0.5), 3 * starts[j]
            for t in range(number):
                weight = weights[j, t]
                red += weight * row[first + 3 * t]
                green += weight * row[first + 3 * t + 1]
                blue += weight * row[first + 3 * t + 2]
            planes[0, i, j] = np.uint8(red)
            planes[1, i, j] = np.uint8(green)
            planes[2, i, j] = np.uint8(blue)


def area_resize_interpreted(image: np.ndarray, planes: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> None:
    """`area_resize` without numba; sums in another order, so halves may be rounded the other way."""
    number = weights.shape[1]
    places = starts[:, None] + np.arange(number)
    rows = np.einsum("it,itxc->ixc", weights, image[places].astype(np.float32))
    values = np.einsum("jt,ijtc->cij", weights, rows[:, places])
    planes[...] = (values + np.float32(0.5)).astype(np.uint8)
