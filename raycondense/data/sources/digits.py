"""scikit-learn's handwritten digits: 1797 grey images of 8 × 8 px that need no download."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from raycondense.data.sources.base import Source, check_split
from raycondense.errors import DependencyError

TEST_FRACTION = 0.25
_TEST_SEED = 20240601


class DigitsSource(Source):
    """The ``train`` or ``test`` part of the digits.

    The set has no test split of its own. A quarter of each class is always held out as ``test``, the same
    images for everyone: the cut has a seed of its own and does not follow `prepare`'s.

    Raises:
        DataError: another split was asked for.
        DependencyError: scikit-learn does not import.
    """

    def __init__(self, split: str) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DependencyError("the source 'digits' needs scikit-learn: pip install scikit-learn") from error
        check_split("digits", split, ["train", "test"])
        data = load_digits()
        labels = np.asarray(data.target, dtype=np.int64)
        rng = np.random.default_rng(_TEST_SEED)
        test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            members = rng.permutation(np.flatnonzero(labels == label))
            test[members[: round(TEST_FRACTION * len(members))]] = True
        self._numbers = np.flatnonzero(test if split == "test" else ~test)
        # 17 grey levels, 0 to 16, become 0 to 255.
        self._images = np.round(data.images[self._numbers] * (255 / 16)).astype(np.uint8)
        self.description, self.split = "digits (scikit-learn)", split
        self.classes = tuple("0123456789")
        self.labels = labels[self._numbers]

    def key(self, index: int) -> str:
        return f"digits image {self._numbers[index]}"

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        for index in indices:
            yield self._images[index]
