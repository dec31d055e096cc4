"""Write a beton together with what its sidecar says; as a pair of files, both are whole or neither is there."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from raycondense.data.beton import BetonWriter
from raycondense.data.beton_format import DEFAULT_PAGE_SIZE, MIN_PAGE_SIZE
from raycondense.data.encoding import Encoded, Encoding, encode_pixels
from raycondense.data.journal import Totals
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.errors import DataError
from raycondense.storage import atomic_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the sidecar says about where images came from; see `Sidecar`."""

    source: str
    split: str
    seed: int


class EmptyClassError(DataError):
    """A class has no image that can be decoded."""


class DatasetFile:
    """A beton that grows class after class, and what its sidecar will say.

    It has the name that it is given and stays when something fails: `DatasetWriter` makes a pair of files out of it
    that are whole or not there, `prepare` one that an interrupted run goes on with.

    Args:
        path: where the beton is written.
        capacity: most images that will come.
        classes: class names.
        encoding: side, kind and quality of the stored images.
        origin: for the sidecar.
        shown: the beton's name in messages; default ``path``.

    Attributes:
        counts: int64 [classes], images written.
        skipped: images that were left out, for the sidecar.
    """

    def __init__(
        self,
        path: Path,
        capacity: int,
        *,
        classes: tuple[str, ...],
        encoding: Encoding,
        origin: Origin,
        shown: Path | None = None,
    ) -> None:
        self.path, self.classes, self.encoding, self.origin = path, classes, encoding, origin
        self.counts = np.zeros(len(classes), np.int64)
        self.skipped = 0
        self._shown = shown or path
        self._sums, self._squares, self._last = [0, 0, 0], [0, 0, 0], 0
        # A page a tenth full is most of the file of a toy dataset.
        small = capacity * encoding.raw_bytes < 4 * DEFAULT_PAGE_SIZE
        self._writer = BetonWriter(
            path,
            capacity,
            resolution=encoding.resolution,
            encoding=encoding.kind,
            page_size=MIN_PAGE_SIZE if small else DEFAULT_PAGE_SIZE,
        )

    def restore(self, sizes: np.ndarray, labels: np.ndarray) -> None:
        """Say, before `open`, what an earlier run wrote, as in `BetonWriter.restore`; labels ascend."""
        self._writer.restore(sizes, labels)
        self.counts += np.bincount(labels, minlength=len(self.classes))
        self._last = int(labels[-1]) if len(labels) else 0

    def open(self) -> None:
        """Begin to write."""
        self._writer.__enter__()

    @property
    def totals(self) -> Totals:
        """What `add_statistics` has counted; may be set to what an earlier run counted."""
        return Totals(tuple(self._sums), tuple(self._squares))

    @totals.setter
    def totals(self, totals: Totals) -> None:
        self._sums, self._squares = list(totals.sums), list(totals.squares)

    def add(self, image: np.ndarray, label: int) -> None:
        """Append one image, uint8 RGB pixels [R, R, 3], of class ``label``; see `add_stored`."""
        encoded = encode_pixels(image, self.encoding)
        self.add_stored(encoded.data, label)
        self.add_statistics(encoded)

    def add_stored(self, data: bytes, label: int) -> None:
        """Append the stored form of one image, whose pixels `add_statistics` counts before or after.

        Raises:
            DataError: the label is out of range or smaller than that of an image before.
        """
        if not self._last <= label < len(self.classes):
            raise DataError(
                f"{self._shown}: label: found {label} after {self._last}, valid: ascending, to {len(self.classes) - 1}"
            )
        self._writer.write(data, label)
        self.counts[label] += 1
        self._last = label

    def add_statistics(self, encoded: Encoded) -> None:
        """Count the pixels of one image in mean and standard deviation."""
        for channel in range(3):
            self._sums[channel] += encoded.sums[channel]
            self._squares[channel] += encoded.squares[channel]

    def flush(self) -> list[int]:
        """Give all bytes to the operating system; returns what to call ``os.fsync`` with to have them on disk."""
        return self._writer.flush()

    def close(self) -> None:
        """Close the beton as it is."""
        self._writer.close()

    def finish(self) -> Sidecar:
        """Complete the beton, bring it to disk, close it, and return what its sidecar has to say.

        Raises:
            EmptyClassError: a class has no image.
        """
        empty = np.flatnonzero(self.counts == 0)
        if len(empty):
            raise EmptyClassError(
                f"{self._shown}: class {self.classes[empty[0]]!r} would hold no image "
                f"({len(empty)} such classes, {self.skipped} images skipped), valid: 1 or more in each"
            )
        self._writer.finish()
        mean, std = self._mean_and_std()
        return Sidecar(
            classes=self.classes,
            counts=tuple(int(n) for n in self.counts),
            mean=mean,
            std=std,
            resolution=self.encoding.resolution,
            encoding=self.encoding.kind,
            quality=self.encoding.quality if self.encoding.kind == "jpeg" else None,
            source=self.origin.source,
            split=self.origin.split,
            seed=self.origin.seed,
            sha256=file_sha256(self.path),
            size=self.path.stat().st_size,
            skipped=self.skipped,
        )

    def _mean_and_std(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Of all pixels / 255, from whole numbers of any size, so that no order of adding matters."""
        pixels = int(self.counts.sum()) * self.encoding.resolution**2
        mean = [total / pixels / 255 for total in self._sums]
        variance = [
            (square * pixels - total * total) / pixels**2
            for total, square in zip(self._sums, self._squares, strict=True)
        ]
        # A channel without any contrast must not make standardised images infinite.
        std = [max(v**0.5, 1.0) / 255 for v in variance]
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


class DatasetWriter:
    """Takes images class after class; a context manager.

    Both files appear when the block ends well: the beton first and the sidecar, without which it is not
    read, last.

    Args:
        path: the beton, ``….beton``.
        capacity: most images that will come.
        classes: class names.
        encoding: side, kind and quality of the stored images.
        origin: for the sidecar.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        capacity: int,
        *,
        classes: tuple[str, ...],
        encoding: Encoding,
        origin: Origin,
    ) -> None:
        self.path = Path(path)
        self._make = partial(
            DatasetFile, capacity=capacity, classes=classes, encoding=encoding, origin=origin, shown=self.path
        )

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as stack:
            # Left in the opposite order: the sidecar gets its name after the beton.
            self._sidecar_path = stack.enter_context(atomic_path(Sidecar.path(self.path)))
            self._file = self._make(stack.enter_context(atomic_path(self.path)))
            stack.callback(self._file.close)
            self._file.open()
            self._stack = stack.pop_all()
        return self

    def add(self, image: np.ndarray, label: int) -> None:
        """Append one image, uint8 RGB pixels [R, R, 3], of class ``label``.

        Raises:
            DataError: the label is out of range or smaller than that of an image before.
        """
        self._file.add(image, label)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._sidecar_path.write_text(self._file.finish().to_json(), encoding="utf-8")
                # Of an older pair, the sidecar goes first: no moment shows it beside the new beton.
                Sidecar.path(self.path).unlink(missing_ok=True)
        except BaseException as late:
            self._stack.__exit__(type(late), late, late.__traceback__)
            raise
        self._stack.__exit__(kind, error, traceback)
