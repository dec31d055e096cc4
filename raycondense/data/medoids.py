"""k-means medoids: the real images that stand for a class best."""

from __future__ import annotations

import warnings

import numpy as np

LARGEST_SIDE = 16  # pixels; k-means centers of images hardly change above, and distances cost less below


def medoids(images: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Positions of ``k`` different images, each the nearest to a k-means center of pixels.

    Pixels are averaged down to at most 16 x 16. With ``k`` 1 the center is the mean.

    Args:
        images: uint8 [N, 3, H, H] of one class.
        k: 1 to N.
        seed: of k-means++.

    Returns:
        int64 [k], ascending.

    Raises:
        ValueError: ``k`` is not in 1 to N.
    """
    if not 1 <= k <= len(images):
        raise ValueError(f"k: found {k}, valid: 1 to {len(images)}, the images there are")
    points = _points(images)
    if k == 1:
        centers = points.mean(0, keepdims=True)
    else:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # Fewer different images than k: centers coincide, and what follows still picks different images.
            warnings.simplefilter("ignore", ConvergenceWarning)
            centers = KMeans(k, n_init=1, random_state=seed % 2**32).fit(points).cluster_centers_
    squares = (points**2).sum(1)
    distances = squares[None] - 2 * centers @ points.T
    taken = np.zeros(len(points), dtype=bool)
    for row in distances:
        taken[int(np.where(taken, np.inf, row).argmin())] = True
    return np.flatnonzero(taken)


def _points(images: np.ndarray) -> np.ndarray:
    """Images as float32 rows of averaged pixels."""
    count, channels, side, _ = images.shape
    factor = max(1, side // LARGEST_SIDE)
    small = images.reshape(count, channels, side // factor, factor, side // factor, factor).mean((3, 5))
    return (small.reshape(count, -1) / 255).astype(np.float32)
