"""Write a beton and its sidecar as one thing: both are whole, or neither is there."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from raycondense.data.beton import BetonWriter
from raycondense.data.beton_format import DEFAULT_PAGE_SIZE, MIN_PAGE_SIZE
from raycondense.data.encoding import Encoded, Encoding, encode_pixels
from raycondense.data.sidecar import Sidecar, file_sha256
from raycondense.errors import DataError
from raycondense.storage import atomic_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the sidecar says about where images came from; see `Sidecar`."""

    source: str
    split: str
    seed: int


class DatasetWriter:
    """Takes images class after class; a context manager.

    Both files appear when the block ends well: the beton first and the sidecar, without which it is not
    read, last. `finish` may be called before, to be sure of several files before any of them appears.

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
        self.path, self.classes, self.encoding, self.origin = Path(path), classes, encoding, origin
        self.counts = np.zeros(len(classes), np.int64)
        self.skipped = 0
        self._sums, self._squares, self._last = [0, 0, 0], [0, 0, 0], 0
        self._capacity = capacity
        # A page a tenth full is most of the file of a toy dataset.
        small = capacity * encoding.raw_bytes < 4 * DEFAULT_PAGE_SIZE
        self._page_size = MIN_PAGE_SIZE if small else DEFAULT_PAGE_SIZE
        self._sidecar: Sidecar | None = None

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as stack:
            # Left in the opposite order: the sidecar gets its name after the beton.
            self._sidecar_path = stack.enter_context(atomic_path(Sidecar.path(self.path)))
            self._beton_path = stack.enter_context(atomic_path(self.path))
            self._stack = stack.pop_all()
        try:
            # Not on the stack: `finish` closes it, well before the files get their names.
            self._writer = BetonWriter(
                self._beton_path,
                self._capacity,
                resolution=self.encoding.resolution,
                encoding=self.encoding.kind,
                page_size=self._page_size,
            ).__enter__()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

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
                f"{self.path}: label: found {label} after {self._last}, valid: ascending, to {len(self.classes) - 1}"
            )
        self._writer.write(data, label)
        self.counts[label] += 1
        self._last = label

    def add_statistics(self, encoded: Encoded) -> None:
        """Count the pixels of one image in mean and standard deviation."""
        for channel in range(3):
            self._sums[channel] += encoded.sums[channel]
            self._squares[channel] += encoded.squares[channel]

    def finish(self) -> Sidecar:
        """Complete both files under their temporary names and return what the sidecar says.

        Raises:
            DataError: a class has no image.
        """
        if self._sidecar is None:
            empty = np.flatnonzero(self.counts == 0)
            if len(empty):
                raise DataError(
                    f"{self.path}: class {self.classes[empty[0]]!r} would hold no image "
                    f"({len(empty)} such classes, {self.skipped} images skipped), valid: 1 or more in each"
                )
            self._writer.__exit__(None, None, None)
            mean, std = self._mean_and_std()
            self._sidecar = Sidecar(
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
                sha256=file_sha256(self._beton_path),
                size=self._beton_path.stat().st_size,
                skipped=self.skipped,
            )
            self._sidecar_path.write_text(self._sidecar.to_json(), encoding="utf-8")
        return self._sidecar

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
                # Of an older pair, the sidecar goes first: no moment shows it beside the new beton.
                Sidecar.path(self.path).unlink(missing_ok=True)
            else:
                self._writer.__exit__(kind, error, traceback)
        except BaseException as late:
            self._stack.__exit__(type(late), late, late.__traceback__)
            raise
        self._stack.__exit__(kind, error, traceback)
