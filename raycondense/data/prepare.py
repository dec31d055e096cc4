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
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from raycondense.config import RESOLUTIONS
from raycondense.data.cpus import usable_cpus
from raycondense.data.dataset_writer import DatasetFile, Origin
from raycondense.data.decode import image_size
from raycondense.data.encoding import Encoding
from raycondense.data.identity import identity_of
from raycondense.data.journal import Done, Identity, Journal, JournalError
from raycondense.data.prepare_job import Job, Progress
from raycondense.data.sidecar import Sidecar
from raycondense.data.sources import Source, open_source
from raycondense.data.workplace import Workplace, claimed
from raycondense.errors import ConfigError, DataError, RunError
from raycondense.storage import atomic_path

logger = logging.getLogger("raycondense")

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

    Neither has its name before both are whole. A run that is interrupted (killed, Ctrl-C, a full disk) leaves its work
    in the hidden folder ``.<out>.work``; the same call goes on with it, decodes some thousand images again at most, and
    ends with the bytes of an unbroken run, whatever the number of workers. With other settings, another version of
    Pillow or a source that changed it begins anew and logs why: other names, labels or number of images, shards of
    another size or time, or image files *that were read* whose size or time changed. So after it stopped at a bad image
    file it goes on with ``skip_bad``, or once that file is repaired in its place, and begins anew once it is removed or
    a shard is repaired.

    Memory stays bounded: labels, places and records take some 100 bytes an image, the pixels of a few hundred images
    are held at a time.

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
        progress: called as images are done, first with the number of those that were done before.

    Raises:
        ConfigError: a setting is not valid.
        DataError: the source cannot be used, or an image cannot be decoded and ``skip_bad`` is off.
        RunError: the disk is full, a download failed, a worker process died, or another process is writing ``out``.
        Interrupted: Ctrl-C, when there is something to go on from.
    """
    start = time.monotonic()
    workers = usable_cpus() if workers is None else workers
    _check_settings(resolution, encoding, quality, workers, val_fraction, seed)
    out = Path(out)
    val_out = out.with_name(f"{out.stem}-val.beton")
    skipped_out = out.with_name(f"{out.name}.skipped.txt")
    outs, splits = ([out, val_out], [split, CUT.format(split=split)]) if val_fraction else ([out], [split])
    workplace = Workplace(out)
    if not workplace.folder.exists():
        _check_outputs(outs, overwrite)
    images = open_source(source, split=split, data_root=data_root)
    orders = _orders(images, val_fraction, seed)[: len(outs)]
    stored = Encoding(resolution or _natural_resolution(images), encoding, quality)
    identity = identity_of(source, images, stored, val_fraction=val_fraction, seed=seed)

    def job() -> Job:
        parts = [
            DatasetFile(
                workplace.beton(part),
                len(order),
                classes=images.classes,
                encoding=stored,
                origin=Origin(source=images.description, split=splits[part], seed=seed),
                shown=outs[part],
            )
            for part, order in enumerate(orders)
        ]
        return Job(images, stored, workers, orders, parts, workplace.folder, skip_bad, progress)

    with ExitStack() as stack:
        for path in outs:
            stack.enter_context(claimed(path))
        work, journal, done = _begin_or_go_on(workplace, out, identity, job, len(images))
        stack.enter_context(workplace.kept(journal, len(images)))
        _check_outputs(workplace.unpublished(outs) if done.finished else outs, overwrite)
        if not done.finished:
            _check_disk(out, len(images) - len(done.sizes), stored)
            workplace.finish(work.run(journal), journal)
        _write_listing(skipped_out, images, work.bad)
        workplace.publish(outs)
        if overwrite and not val_fraction:
            _remove_stale_cut(val_out)
        sidecars = [Sidecar.load(path) for path in outs]
        workplace.clear()
    return PrepareResult(
        path=out,
        sidecar=sidecars[0],
        val_path=val_out if val_fraction else None,
        val_sidecar=sidecars[1] if val_fraction else None,
        skipped=len(work.bad),
        skipped_path=skipped_out if work.bad else None,
        seconds=time.monotonic() - start,
    )


def _begin_or_go_on(
    workplace: Workplace, out: Path, identity: Identity, make: Callable[[], Job], total: int
) -> tuple[Job, Journal, Done]:
    """A job that goes on from what an interrupted one left, if that can be, or one that begins anew."""
    if workplace.folder.exists():
        try:
            journal, done = workplace.load(identity)
            try:
                job = make()
                job.restore(done)
            except BaseException:
                journal.close()
                raise
        except JournalError as why:
            logger.warning("%s: begins anew, not from what an interrupted run left: %s", out, why)
        else:
            if len(done.sizes):
                logger.info("%s: goes on from %d of %d images, done before", out, len(done.sizes), total)
            return job, journal, done
    return make(), workplace.begin(identity), Done()


def _write_listing(path: Path, images: Source, bad: list[tuple[int, str]]) -> None:
    """The list of images that were left out; an older one goes when there are none."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary:
        lines = "".join(f"{images.key(i)}\t{reason}\n" for i, reason in sorted(bad))
        temporary.write_bytes(lines.encode("utf-8", "surrogateescape"))


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
