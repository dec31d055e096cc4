"""`raycondense prepare`: write a data set once, in the order in which it will be read.

The finished file holds class after class, shuffled inside each by the seed, so that a step that takes images
of a few classes reads a few stretches of it. Images are decoded in worker processes and written by this one
in a fixed order: the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from raycondense.config import RESOLUTIONS
from raycondense.data.cpus import usable_cpus
from raycondense.data.dataset_writer import DatasetWriter, Origin
from raycondense.data.decode import image_size
from raycondense.data.encoding import Encoded, Encoding, encode_in_order
from raycondense.data.sidecar import Sidecar
from raycondense.data.sources import Source, open_source
from raycondense.data.spool import Spool
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.storage import atomic_path

logger = logging.getLogger("raycondense")

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

CUT = "val (cut from {split})"
"""`Sidecar.split` of a validation set that `prepare` cut."""


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What `prepare` wrote.

    Attributes:
        path: the beton.
        sidecar: what it holds.
        val_path: the beton of the validation cut, if one was asked for.
        val_sidecar: what that holds.
        skipped: images that could not be decoded, both files together.
        skipped_path: the list of them, one ``name<tab>reason`` a line, if there are any.
        seconds: time it took.
    """

    path: Path
    sidecar: Sidecar
    val_path: Path | None
    val_sidecar: Sidecar | None
    skipped: int
    skipped_path: Path | None
    seconds: float


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    encoding: Literal["raw", "jpeg"] = "raw",
    quality: int = 90,
    workers: int | None = None,
    split: str = "train",
    val_fraction: float = 0.0,
    seed: int = 0,
    skip_bad: bool = False,
    data_root: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PrepareResult:
    """Write ``source`` as the beton ``out`` and its sidecar.

    A run that fails or is killed leaves neither. Memory stays bounded: labels, places and records take some
    100 bytes an image, the pixels of a few hundred images are held at a time.

    Args:
        source: see `raycondense.data.sources.open_source`.
        out: the file to write, ``….beton``.
        resolution: side of the stored images in pixels, one of `RESOLUTIONS`; default the one nearest to the
            first image's shorter side, at most 64.
        encoding: ``raw`` pixels (fast, exact) or ``jpeg`` (small).
        quality: JPEG quality, 1 to 100.
        workers: decoding processes; default one for each usable CPU.
        split: which part of the source: train, val, test.
        val_fraction: share of each class that is cut off into ``<stem>-val.beton`` beside ``out``; which images
            those are depends on the seed alone.
        seed: seed of the order inside the classes and of the validation cut.
        skip_bad: leave out images that cannot be decoded and list them in ``<out>.skipped.txt``, instead of
            stopping at the first one.
        data_root: where torchvision's datasets are downloaded to.
        overwrite: replace files that exist.
        progress: called as images are done.

    Raises:
        ConfigError: a setting is not valid.
        DataError: the source cannot be used, or an image cannot be decoded and ``skip_bad`` is off.
        RunError: the disk is full, a download failed, or a worker process died.
    """
    start = time.monotonic()
    workers = usable_cpus() if workers is None else workers
    _check_settings(resolution, encoding, quality, workers, val_fraction, seed)
    out = Path(out)
    val_out = out.with_name(f"{out.stem}-val.beton")
    skipped_out = out.with_name(f"{out.name}.skipped.txt")
    _check_outputs([out, val_out] if val_fraction else [out], overwrite)
    images = open_source(source, split=split, data_root=data_root)
    orders = _orders(images, val_fraction, seed)
    stored = Encoding(resolution or _natural_resolution(images), encoding, quality)
    _check_disk(out, len(images), stored)

    def writer(path: Path, order: np.ndarray, part: str) -> DatasetWriter:
        origin = Origin(source=images.description, split=part, seed=seed)
        return DatasetWriter(path, len(order), classes=images.classes, encoding=stored, origin=origin)

    with ExitStack() as stack:
        writers = [stack.enter_context(writer(out, orders[0], split))]
        if val_fraction:
            writers.append(stack.enter_context(writer(val_out, orders[1], CUT.format(split=split))))
        job = _Job(images, stored, workers, orders, writers, skip_bad, progress)
        job.run()
        # Both are finished before any gets its name, so that no failure leaves one of them.
        sidecars = [w.finish() for w in writers]
        if job.bad:
            listing = stack.enter_context(atomic_path(skipped_out))
            lines = "".join(f"{images.key(i)}\t{reason}\n" for i, reason in sorted(job.bad))
            listing.write_bytes(lines.encode("utf-8", "surrogateescape"))
    if not job.bad:
        skipped_out.unlink(missing_ok=True)
    if overwrite and not val_fraction:
        _remove_stale_cut(val_out)
    return PrepareResult(
        path=out,
        sidecar=sidecars[0],
        val_path=val_out if val_fraction else None,
        val_sidecar=sidecars[1] if val_fraction else None,
        skipped=len(job.bad),
        skipped_path=skipped_out if job.bad else None,
        seconds=time.monotonic() - start,
    )


class _Job:
    """One pass over a source into the writers of its parts."""

    def __init__(
        self,
        images: Source,
        encoding: Encoding,
        workers: int,
        orders: list[np.ndarray],
        writers: list[DatasetWriter],
        skip_bad: bool,
        progress: Progress | None,
    ) -> None:
        self._images, self._encoding, self._workers = images, encoding, workers
        # The parts one after the other: the rank of an image says in which file it stands and where.
        self._order = np.concatenate(orders)
        self._writers, self._train_size = writers, len(orders[0])
        self._skip_bad, self._progress = skip_bad, progress
        self.bad: list[tuple[int, str]] = []

    def run(self) -> None:
        """Decode every image and write it to its place."""
        if not self._images.sequential:
            for rank, encoded in self._encoded(np.arange(len(self._order))):
                self._write(rank, encoded.data)
            return
        ranks = np.argsort(self._order)
        folder = self._writers[0].path.parent
        with Spool(folder, len(ranks), self._encoding.raw_bytes) as spool:
            for rank, encoded in self._encoded(ranks):
                spool.add(rank, encoded.data)
            for rank, data in spool.drain():
                self._write(rank, data)

    def _writer(self, rank: int) -> DatasetWriter:
        return self._writers[0 if rank < self._train_size else 1]

    def _write(self, rank: int, data: bytes) -> None:
        self._writer(rank).add_stored(data, int(self._images.labels[self._order[rank]]))

    def _encoded(self, ranks: np.ndarray) -> Iterator[tuple[int, Encoded]]:
        """The good images at ``ranks``, in that order; the others are noted."""
        payloads = self._images.read(self._order[ranks])
        done = 0
        self._tell(done)
        with closing(encode_in_order(payloads, self._encoding, self._workers)) as chunks:
            for chunk in chunks:
                for rank, result in zip(ranks[done : done + len(chunk)].tolist(), chunk, strict=True):
                    if isinstance(result, str):
                        self._note_bad(rank, result)
                    else:
                        self._writer(rank).add_statistics(result)
                        yield rank, result
                done += len(chunk)
                self._tell(done)

    def _note_bad(self, rank: int, reason: str) -> None:
        index = int(self._order[rank])
        if not self._skip_bad:
            raise DataError(
                f"{self._images.key(index)}: this image cannot be decoded ({reason}); repair or remove it, or leave "
                "such images out with --skip-bad"
            )
        self.bad.append((index, reason))
        self._writer(rank).skipped += 1

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, len(self._order))


def _check_settings(
    resolution: int | None, encoding: str, quality: int, workers: int, val_fraction: float, seed: int
) -> None:
    checks = (
        ("resolution", resolution, resolution is None or resolution in RESOLUTIONS, ", ".join(map(str, RESOLUTIONS))),
        ("encoding", encoding, encoding in ("raw", "jpeg"), "raw, jpeg"),
        ("quality", quality, 1 <= quality <= 100, "1 to 100"),
        ("workers", workers, workers >= 1, "1 or more"),
        ("val_fraction", val_fraction, 0 <= val_fraction < 1, "0 (no validation split) to less than 1"),
        ("seed", seed, seed >= 0, "0 or more"),
    )
    for name, found, good, valid in checks:
        if not good:
            raise ConfigError(f"{name}: found {found!r}, valid: {valid}")


def _check_outputs(paths: list[Path], overwrite: bool) -> None:
    for path in paths:
        if path.suffix != ".beton":
            raise DataError(f"{path}: valid: a file name that ends in .beton")
        for file in (path, Sidecar.path(path)):
            if file.is_dir() or (file.exists() and not overwrite):
                raise DataError(f"{file}: exists already; choose another name or pass --overwrite")
        for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp")):
            logger.warning("%s: left over from a run that was killed, or in use by one that still runs", left)


def _orders(images: Source, val_fraction: float, seed: int) -> list[np.ndarray]:
    """Source indices of the training part and of the validation part in the order of the finished files."""
    by_class = np.argsort(images.labels, kind="stable")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for label, members in enumerate(np.split(by_class, np.cumsum(counts)[:-1])):
        name = images.classes[label]
        if not len(members):
            raise DataError(f"{images.description}, split {images.split}: class {name!r} holds no image")
        shuffled = np.random.default_rng([seed, label]).permutation(members)
        cut = round(val_fraction * len(members))
        if val_fraction and not 0 < cut < len(members):
            raise DataError(
                f"val_fraction: found {val_fraction}, which puts {cut} of the {len(members)} images of class {name!r} "
                "into the validation split, valid: a fraction that leaves 1 or more in both"
            )
        parts[0].append(shuffled[cut:])
        parts[1].append(shuffled[:cut])
    return [np.concatenate(part) for part in parts]


def _natural_resolution(images: Source) -> int:
    """The side nearest to that of the first image that can be opened, at most 64."""
    for payload in islice(images.read(np.arange(min(len(images), 100))), 100):
        try:
            side = min(image_size(payload.read_bytes() if isinstance(payload, Path) else payload))
        except DataError:
            continue  # `prepare` will name it
        return min((r for r in RESOLUTIONS if r <= 64), key=lambda r: abs(np.log2(side / r)))
    raise DataError(f"{images.description}: none of its first 100 images can be opened")


def _check_disk(out: Path, number: int, encoding: Encoding) -> None:
    """Raise `RunError` now rather than after hours; JPEG sizes are not known beforehand."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(folder).free, number * encoding.raw_bytes
    if encoding.kind == "raw" and free < needed:
        raise RunError(
            f"{out}: {number} raw images of {encoding.resolution} px take {needed / 1e9:.1f} GB, {folder} has "
            f"{free / 1e9:.1f} GB free; free some space, or choose jpeg or a smaller resolution"
        )


def _remove_stale_cut(path: Path) -> None:
    """Remove a validation cut of an earlier run: its images are in the new training set."""
    try:
        stale = Sidecar.load(path).split.startswith(CUT.split("{")[0])
    except DataError:
        return
    if stale:
        logger.warning("%s: removed, its images are in the training set that was just written", path)
        Sidecar.path(path).unlink()
        path.unlink(missing_ok=True)
