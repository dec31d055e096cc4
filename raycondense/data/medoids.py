"""k-means medoids: few real images that stand for a class."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycondense.errors import DataError

_PIECE = 512  # images that are in memory as float64 before they are pooled, at most
POOLED_SIDE = 16  # pixels; what k-means compares. Finer detail only adds noise and time.


def medoids(images: np.ndarray | Tensor, k: int, seed: int) -> np.ndarray:
    """Choose ``k`` different images, each the nearest one to a k-means center.

    Args:
        images: uint8 [n, 3, H, W], compared by pixels average-pooled to at most 16 × 16, or float [n, D] features.
        k: how many, 1 to n; 1 is the image nearest to the mean.
        seed: of k-means++.

    Returns:
        int64 [k], ascending positions in ``images``. The same on any number of threads.

    Raises:
        DataError: ``k`` is not in 1 to n.
    """
    points = _points(torch.as_tensor(images))
    if not 1 <= k <= len(points):
        raise DataError(f"k: found {k} medoids of {len(points)} images, valid: 1 to {len(points)}")
    if k == len(points):
        return np.arange(k)
    centers = points.mean(0, keepdims=True) if k == 1 else _kmeans_centers(points, k, seed)
    return np.sort(_nearest_different(points, centers))


def _points(images: Tensor) -> np.ndarray:
    """float64 [n, D]: sums of pooled pixels are exact in it, so the order in which threads add up cannot matter."""
    if images.ndim == 4 and max(images.shape[2:]) > POOLED_SIDE:
        pieces = images.detach().split(_PIECE)
        images = torch.cat([F.adaptive_avg_pool2d(part.to("cpu", torch.float64), POOLED_SIDE) for part in pieces])
    return images.detach().to("cpu", torch.float64).flatten(1).numpy()


def _kmeans_centers(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer different images than centers is no fault here: `_nearest_different` still finds k images.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centers: np.ndarray = KMeans(k, n_init=1, random_state=seed % 2**32).fit(points).cluster_centers_
    return centers


def _nearest_different(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """The nearest point of each center; a point that is nearest to several goes to the closest of them."""
    squares = (points**2).sum(1)
    distances = np.stack([squares - 2 * points @ c + c @ c for c in centers])
    chosen = np.empty(len(centers), np.int64)
    for _ in range(len(centers)):
        center, point = np.unravel_index(int(np.argmin(distances)), distances.shape)
        chosen[center] = point
        distances[center, :] = np.inf
        distances[:, point] = np.inf
    return chosen
