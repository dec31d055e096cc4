"""Write and read ``.beton`` files (FFCV 1.0.2's format) without FFCV.

`BetonWriter` makes files that FFCV reads unmodified, with the same bytes for the same images; its memory
grows by 48 bytes an image, whatever the images weigh. `BetonReader` gives random access to the images of a
file and its sidecar on machines where FFCV does not install.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from raycondense.data import beton_format as fmt
from raycondense.data.cpus import usable_cpus
from raycondense.data.sidecar import Sidecar
from raycondense.errors import DataError

_MODES = {"raw": fmt.MODE_RAW, "jpeg": fmt.MODE_JPEG}


class BetonWriter:
    """Writes samples one after the other; a context manager.

    The file is complete only after the block ended well. Write to the temporary path of
    `raycondense.storage.atomic_path`, so that a killed run leaves nothing that looks finished. What a killed run
    left can be gone on from: see `restore`.

    Args:
        path: the file to write.
        capacity: most samples that will come; their records are kept room for before the first page.
        resolution: side of the square images in pixels.
        encoding: ``"raw"`` or ``"jpeg"``.
        page_size: bytes of a page, a power of two, 2 MiB to 2 GiB; an image must fit in one. FFCV reads
            whole pages when the page cache of the operating system is not used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        capacity: int,
        *,
        resolution: int,
        encoding: str = "raw",
        page_size: int = fmt.DEFAULT_PAGE_SIZE,
    ) -> None:
        if not fmt.MIN_PAGE_SIZE <= page_size <= fmt.MAX_PAGE_SIZE or page_size & (page_size - 1):
            raise DataError(
                f"page_size: found {page_size}, valid: powers of two from {fmt.MIN_PAGE_SIZE} to {fmt.MAX_PAGE_SIZE}"
            )
        if capacity < 1 or encoding not in _MODES or not 1 <= resolution <= 65535:
            raise DataError(
                f"found capacity {capacity}, encoding {encoding!r}, resolution {resolution}, "
                "valid: 1 or more samples, raw or jpeg, 1 to 65535 px"
            )
        self._path, self._page_size = Path(path), page_size
        self._resolution, self._encoding = resolution, encoding
        self._samples = np.zeros(capacity, fmt.SAMPLE_TYPE)
        self._allocations = np.zeros(capacity, fmt.ALLOCATION_TYPE)
        self._samples["image"]["mode"] = _MODES[encoding]
        self._samples["image"]["width"] = self._samples["image"]["height"] = resolution
        self._page_start = fmt.align_to_page(fmt.METADATA_START + self._samples.nbytes, page_size)
        self._used = 0
        self._file: BinaryIO | None = None
        self.num_samples = 0

    def restore(self, sizes: np.ndarray, labels: np.ndarray) -> None:
        """Say, before the block begins, what an earlier writer wrote into this file; it is kept.

        Args:
            sizes: bytes of each sample, integers [n], in the order in which they were written.
            labels: their classes, integers [n].

        Raises:
            DataError: the file is missing or too short to hold them.
        """
        pointers = array("Q")
        page_start, used = self._page_start, 0
        for size in sizes.tolist():
            if used + size > self._page_size:
                page_start, used = page_start + self._page_size, 0
            pointers.append(page_start + used)
            used += size
        number, end = len(pointers), page_start + used
        found = self._path.stat().st_size if self._path.is_file() else 0
        if number and found < end:
            raise DataError(f"{self._path}: found {found} bytes, valid: {end} or more for {number} samples")
        self._page_start, self._used, self.num_samples = page_start, used, number
        self._samples["image"]["data_ptr"][:number] = pointers
        self._samples["label"][:number] = labels
        allocations = self._allocations[:number]
        allocations["sample_id"], allocations["ptr"], allocations["size"] = np.arange(number), pointers, sizes

    def __enter__(self) -> BetonWriter:
        self._file = self._path.open("r+b" if self.num_samples else "w+b", buffering=1 << 20)
        self._file.truncate(self._page_start + self._used if self.num_samples else 0)
        self._file.seek(self._page_start + self._used)
        return self

    def write(self, data: bytes | memoryview | np.ndarray, label: int) -> None:
        """Append one image.

        Args:
            data: raw: uint8 [R, R, 3] pixels or their bytes; jpeg: an encoded file of R × R pixels (only its
                length is looked at).
            label: its class.

        Raises:
            DataError: too many samples, pixels of another size, or an image larger than a page.
        """
        if self._file is None:
            raise DataError(f"{self._path}: a BetonWriter must be entered with `with` before it writes")
        payload = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else memoryview(data)
        size, position = payload.nbytes, self.num_samples
        if position >= len(self._samples):
            raise DataError(f"{self._path}: found more samples than the announced {len(self._samples)}")
        raw_size = 3 * self._resolution**2
        if size == 0 or size > self._page_size or (self._encoding == "raw" and size != raw_size):
            valid = f"{raw_size}" if self._encoding == "raw" else f"1 to {self._page_size} (a page)"
            raise DataError(f"{self._path}: sample {position}: found {size} bytes, valid: {valid}")
        if self._used + size > self._page_size:
            self._finish_page()
        pointer = self._page_start + self._used
        self._file.write(payload)
        self._used += size
        self._samples["image"]["data_ptr"][position] = pointer
        self._samples["label"][position] = label
        self._allocations[position] = (position, pointer, size)
        self.num_samples += 1

    def flush(self) -> list[int]:
        """Give all bytes to the operating system; returns what to call ``os.fsync`` with to have them on disk."""
        assert self._file is not None
        self._file.flush()
        return [self._file.fileno()]

    def _finish_page(self) -> None:
        assert self._file is not None
        self._file.write(bytes(self._page_size - self._used))
        self._page_start, self._used = self._page_start + self._page_size, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def finish(self) -> None:
        """Complete the file, bring it to disk and close it; does nothing if it is closed.

        Raises:
            DataError: there is no sample.
        """
        if self._file is None:
            return
        try:
            self._finish()
            for descriptor in self.flush():
                os.fsync(descriptor)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file as it is. What did not fit on the disk is not wanted any more either."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _finish(self) -> None:
        assert self._file is not None
        if self.num_samples == 0:
            raise DataError(f"{self._path}: found no sample to write, valid: 1 or more")
        # FFCV reads whole pages, the last one too.
        self._finish_page()
        alloc_table = self._page_start
        self._file.write(self._allocations[: self.num_samples].tobytes())
        header = np.zeros((), fmt.HEADER_TYPE)
        header["version"], header["num_fields"] = fmt.VERSION, len(fmt.FIELDS)
        header["page_size"], header["num_samples"] = self._page_size, self.num_samples
        header["alloc_table"] = alloc_table
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.write(fmt.field_descriptors().tobytes())
        self._file.write(self._samples[: self.num_samples].tobytes())


class BetonReader:
    """Random access to the images of a beton, through a memory map.

    Opening checks every offset and size of the file against its length, so reading cannot run out of it.
    A reader may be pickled (it opens the file again) and read from several threads.

    Args:
        path: the beton; its sidecar must lie beside it.
        threads: threads that decode or resize; default one for each usable CPU, at most 8.

    Attributes:
        sidecar: what the file holds.
        labels: int64 [N], class of each sample, ascending.

    Raises:
        DataError: the beton or its sidecar is missing, damaged or not made for the other.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        self.sidecar = Sidecar.load(self.path)
        self.sidecar.verify(self.path)
        self._threads = threads or min(8, usable_cpus())
        header = fmt.read_header(self.path)
        with self.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        samples = np.frombuffer(self._map, fmt.SAMPLE_TYPE, header.num_samples, fmt.METADATA_START)
        table = np.frombuffer(self._map, fmt.ALLOCATION_TYPE, header.num_samples, header.alloc_table)
        self.labels = samples["label"].astype(np.int64)
        self._starts, self._sizes = self._checked(header, samples, table)

    def _checked(
        self, header: fmt.BetonHeader, samples: np.ndarray, table: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start and size in bytes of each image, int64 [N], after every check that the file allows."""

        def require(condition: Any, what: str) -> None:
            if not condition:
                raise DataError(f"{self.path}: damaged: {what}; prepare or copy it again")

        sidecar, image = self.sidecar, samples["image"]
        require((image["mode"] == _MODES[sidecar.encoding]).all(), f"not every image is {sidecar.encoding}")
        square = (image["width"] == sidecar.resolution) & (image["height"] == sidecar.resolution)
        require(square.all(), f"not every image has {sidecar.resolution} px as its sidecar says")
        wanted = np.repeat(np.arange(sidecar.num_classes), sidecar.counts)
        require(np.array_equal(self.labels, wanted), "its labels are not ordered and counted as its sidecar says")
        # FFCV's own writer puts allocations in the order in which its processes finished: sort by sample.
        order = np.argsort(table["sample_id"], kind="stable")
        require(np.array_equal(table["sample_id"][order], np.arange(len(table))), "allocations and images differ")
        starts, sizes = image["data_ptr"], table["size"][order]
        require(np.array_equal(table["ptr"][order], starts), "allocations and images lie in different places")
        metadata_end = fmt.METADATA_START + samples.nbytes
        # In this order, and unsigned: no sum can wrap around 2**64.
        inside = (starts >= metadata_end) & (starts <= header.alloc_table)
        fits = inside & (sizes > 0) & (sizes <= header.alloc_table - np.where(inside, starts, 0))
        require(fits.all(), "an image lies outside of the file's pages")
        if sidecar.encoding == "raw":
            require((sizes == 3 * sidecar.resolution**2).all(), "a raw image has a wrong size")
        return starts.astype(np.int64), sizes.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.path), self._threads)

    def images(self, indices: Sequence[int] | np.ndarray, resolution: int | None = None) -> np.ndarray:
        """The images at ``indices``.

        Args:
            indices: n positions in the file, any order, repetitions allowed.
            resolution: side R in pixels; default the stored one. Reduced by area, enlarged bicubically.

        Returns:
            uint8 [n, 3, R, R], contiguous, the caller's own.

        Raises:
            DataError: an index is out of range or an image is damaged.
        """
        side = self.sidecar.resolution
        resolution = resolution or side
        positions = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(positions) and (positions.min() < 0 or positions.max() >= len(self)):
            found = f"found indices {positions.min()} to {positions.max()}"
            raise DataError(f"{self.path}: {found}, valid: 0 to {len(self) - 1}")
        out = np.empty((len(positions), 3, resolution, resolution), np.uint8)
        if self.sidecar.encoding == "raw" and resolution == side:
            for target, start in zip(out, self._starts[positions].tolist(), strict=True):
                target[...] = self._pixels(start)
            return out

        def fill(part: np.ndarray) -> None:
            for k in part.tolist():
                out[k] = self._resized(int(positions[k]), resolution).transpose(2, 0, 1)

        parts = np.array_split(np.arange(len(positions)), max(1, min(self._threads, len(positions) // 8)))
        if len(parts) == 1:
            fill(parts[0])
        else:
            # Pillow decodes and resizes without the interpreter lock. A pool a call survives a fork.
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(fill, parts))
        return out

    def _pixels(self, start: int) -> np.ndarray:
        """View of a raw image, uint8 [3, R, R] (channels last in memory)."""
        side = self.sidecar.resolution
        return self._bytes[start : start + 3 * side * side].reshape(side, side, 3).transpose(2, 0, 1)

    def _resized(self, index: int, resolution: int) -> np.ndarray:
        """One image as uint8 [resolution, resolution, 3]."""
        from PIL import Image

        from raycondense.data.decode import decode_stored_jpeg, jpeg_reduction, resize_square

        start, side = int(self._starts[index]), self.sidecar.resolution
        if self.sidecar.encoding == "raw":
            image = Image.fromarray(np.ascontiguousarray(self._pixels(start).transpose(1, 2, 0)))
        else:
            data = self._bytes[start : start + int(self._sizes[index])].tobytes()
            try:
                image = decode_stored_jpeg(data, side, jpeg_reduction(side, resolution))
            except DataError as error:
                raise DataError(f"{self.path}: image {index} is damaged: {error}") from error
        return np.asarray(resize_square(image, resolution))


def _reopen(path: str, threads: int) -> BetonReader:
    return BetonReader(path, threads=threads)
