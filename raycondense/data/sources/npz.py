"""Pixels in an ``.npz`` file: ``x`` uint8 [N, H, W, C] or [N, H, W], ``y`` integers [N], ``classes`` if there."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from raycondense.data.sources.base import Source, check_split, checked_labels, unique_names
from raycondense.errors import DataError

# An archive's headers are parsed by zipfile and, as Python, by numpy: a damaged one makes them trip over anything.
_DAMAGED = Exception
MOST_HEADER_BYTES = 1 << 16
MOST_LABELS_BYTES, MOST_NAMES_BYTES, MOST_IMAGE_BYTES = 8 << 30, 256 << 20, 1 << 30
"""A billion labels, names of a million classes, an image of 18,000 px a side."""


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
            with zipfile.ZipFile(path) as archive:
                members = [name.removesuffix(".npy") for name in archive.namelist()]
                missing = [name for name in ("x", "y") if name not in members]
                if missing:
                    found = ", ".join(members) or "none"
                    raise DataError(f"{path}: found no array {' and '.join(missing)}, there are: {found}")
                with archive.open("x.npy") as file:
                    self._shape, dtype = _read_array_header(file, path)
                labels = _small_array(archive, "y", path, MOST_LABELS_BYTES)
                names = _small_array(archive, "classes", path, MOST_NAMES_BYTES) if "classes" in members else None
        except (DataError, MemoryError):
            raise
        except _DAMAGED as error:
            raise DataError(f"{path}: cannot be read: {_reason(error)}") from error
        shape = self._shape
        if dtype != np.uint8:
            raise DataError(f"{path}: x: found type {dtype}, valid: uint8")
        if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
            raise DataError(
                f"{path}: x: found shape {list(shape)}, valid: [N, H, W] or [N, H, W, C] with C of 1, 3 or 4"
            )
        if math.prod(shape[1:]) > MOST_IMAGE_BYTES:
            raise DataError(
                f"{path}: x: found images of {math.prod(shape[1:])} bytes, valid: at most {MOST_IMAGE_BYTES}"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != shape[0]:
            raise DataError(
                f"{path}: y: found {labels.dtype} {list(labels.shape)}, valid: integers [{shape[0]}], one an image"
            )
        listed: list[Any]
        if names is None:
            # A stray huge label must not become that many classes: each needs an image of its own.
            listed = [str(c) for c in range(min(int(labels.max()) + 1, len(labels)))]
        elif names.ndim != 1 or names.dtype.kind not in "US":
            raise DataError(f"{path}: classes: found {names.dtype} {list(names.shape)}, valid: texts [classes]")
        else:
            try:
                listed = names.tolist()
            except (SystemError, ValueError) as error:  # code points that Unicode does not have
                raise DataError(f"{path}: classes: damaged ({error}), valid: texts [classes]") from error
        self.classes = unique_names(n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in listed)
        self.labels = checked_labels(labels, len(self.classes), self)

    def key(self, index: int) -> str:
        return f"{self._path} x[{index}]"

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        size = math.prod(self._shape[1:])
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
        except (DataError, MemoryError):
            raise
        except _DAMAGED as error:
            raise DataError(f"{self._path}: damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _small_array(archive: zipfile.ZipFile, name: str, path: Path, most: int) -> np.ndarray:
    """An array that is held in memory, of at most ``most`` bytes, in the archive as well as afterwards."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _read_array_header(file, path)
        if dtype.hasobject:
            raise DataError(f"{path}: {name}: found Python objects, valid: numbers or texts")
        count, size = math.prod(shape), math.prod(shape) * dtype.itemsize
        if size > most:
            raise DataError(f"{path}: {name}: found {size} bytes, valid: at most {most}")
        data = file.read(size)
        if len(data) != size:
            raise EOFError(f"{name} ends early")
        return np.frombuffer(data, dtype, count).reshape(shape)


def _read_array_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a ``.npy`` member; leaves ``file`` at its first pixel."""
    magic = file.read(8)
    wide = magic[6:7] != b"\1"
    length = file.read(4 if wide else 2)
    head = file.read(min(int.from_bytes(length, "little"), MOST_HEADER_BYTES))
    copy = io.BytesIO(magic + length + head)
    np.lib.format.read_magic(copy)
    read = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
    try:
        shape, fortran, dtype = read(copy)
    except MemoryError as error:  # what Python's parser says of a text that is nested too deeply
        raise ValueError("a header that is nested too deeply") from error
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: x: found Fortran order, valid: C order; save numpy.ascontiguousarray(x)")
    if min(shape, default=0) < 0:
        raise ValueError(f"found shape {list(shape)}")
    return shape, dtype
