"""Pixels in an ``.npz`` file: ``x`` uint8 [N, H, W, C] or [N, H, W], ``y`` integers [N], ``classes`` if there."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from raycondense.data.sources.base import Source, check_split, checked_labels, unique_names
from raycondense.errors import DataError

_DAMAGED = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class NpzSource(Source):
    """The arrays of one file; ``x`` is streamed out of the archive, so the pixels are never all in memory.

    ``classes`` (N names, optional) names the classes; without it they are ``"0"`` to the largest label.

    Raises:
        DataError: the file is damaged, has no ``x`` or ``y``, or they have another shape or type.
    """

    sequential = True

    def __init__(self, path: Path, split: str) -> None:
        check_split(f"{path} (an .npz file has one part)", split, ["train"])
        self.description, self.split, self._path = f"npz {path}", split, path
        try:
            with np.load(path, allow_pickle=False) as arrays:
                missing = [name for name in ("x", "y") if name not in arrays.files]
                if missing:
                    found = ", ".join(arrays.files) or "none"
                    raise DataError(f"{path}: found no array {' and '.join(missing)}, there are: {found}")
                labels = arrays["y"]
                names = arrays["classes"] if "classes" in arrays.files else None
            with zipfile.ZipFile(path) as archive, archive.open("x.npy") as file:
                self._shape, dtype = _read_array_header(file, path)
        except _DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: cannot be read: {error}") from error
        shape = self._shape
        if dtype != np.uint8:
            raise DataError(f"{path}: x: found type {dtype}, valid: uint8")
        if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
            raise DataError(
                f"{path}: x: found shape {list(shape)}, valid: [N, H, W] or [N, H, W, C] with C of 1, 3 or 4"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != shape[0]:
            raise DataError(
                f"{path}: y: found {labels.dtype} {list(labels.shape)}, valid: integers [{shape[0]}], one an image"
            )
        if names is None:
            # A stray huge label must not become that many classes: each needs an image of its own.
            names = [str(c) for c in range(min(int(labels.max()) + 1, len(labels)))]
        elif names.ndim != 1 or names.dtype.kind not in "US":
            raise DataError(f"{path}: classes: found {names.dtype} {list(names.shape)}, valid: texts [classes]")
        self.classes = unique_names(n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names)
        self.labels = checked_labels(labels, len(self.classes), self)

    def key(self, index: int) -> str:
        return f"{self._path} x[{index}]"

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        size = int(np.prod(self._shape[1:]))
        at = 0
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open("x.npy") as file:
                _read_array_header(file, self._path)
                for index in indices:
                    for _ in range(int(index) - at):
                        file.read(size)
                    data = file.read(size)
                    at = int(index) + 1
                    if len(data) != size:
                        raise EOFError("x ends early")
                    yield np.frombuffer(data, np.uint8).reshape(self._shape[1:])
        except _DAMAGED as error:
            raise DataError(f"{self._path}: damaged: {error}") from error


def _read_array_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a ``.npy`` member; leaves ``file`` at its first pixel."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: x: found Fortran order, valid: C order; save numpy.ascontiguousarray(x)")
    return shape, dtype
