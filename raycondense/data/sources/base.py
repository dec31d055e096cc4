"""What every source of images offers, and the checks that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from raycondense.errors import DataError

Payload = bytes | Path | np.ndarray
"""An image on its way to a decoder: an encoded file, the path of one, or uint8 pixels [H, W] or [H, W, C]."""


class Source(ABC):
    """Labelled images, known by their number 0 to N - 1; only labels and places are kept in memory.

    Attributes:
        description: what this is and where it came from, for the sidecar.
        split: which part of the data set this is.
        classes: class names; label c is ``classes[c]``.
        labels: int64 [N].
        sequential: images are cheap to read in ascending order only (`read` wants its indices so).
    """

    description: str
    split: str
    classes: tuple[str, ...]
    labels: np.ndarray
    sequential: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def key(self, index: int) -> str:
        """Name of image ``index`` for people: a path, or a file and row."""

    @abstractmethod
    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[Payload]:
        """The images at ``indices``, one after the other; ascending where the source is sequential.

        Raises:
            DataError: the source cannot be read any more. A single damaged image is the decoder's business.
        """


def check_split(where: str, split: str, valid: Sequence[str]) -> None:
    """Raise `DataError` unless ``split`` is one of ``valid``."""
    if split not in valid:
        raise DataError(f"{where}: split: found {split!r}, valid: {', '.join(valid)}")


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` with the label behind those that stand there twice, as ImageNet's "crane" does."""
    listed = list(names)
    times = Counter(listed)
    return tuple(f"{name} ({label})" if times[name] > 1 else name for label, name in enumerate(listed))


def checked_labels(labels: np.ndarray, num_classes: int, source: Source) -> np.ndarray:
    """``labels`` as int64 once all of them are in 0 to ``num_classes - 1``.

    Raises:
        DataError: there are none, or one is out of range; the message names the image.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not len(labels):
        raise DataError(f"{source.description}: found no images")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{source.key(first)}: label: found {labels[first]}, valid: 0 to {num_classes - 1} "
            f"({len(wrong)} of {len(labels)} labels are out of range)"
        )
    return labels
