"""Write a bank as files that any trainer reads: a folder of PNGs, an ``.npz`` or a ``.beton``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from raycondense.artifact.bank import BankDataset
from raycondense.artifact.load import Artifact
from raycondense.artifact.preview import encode_png
from raycondense.errors import ArtifactError
from raycondense.storage import atomic_folder, atomic_path

_OTHER_FILES = (".npy", ".zip", ".tar", ".pt", ".pth", ".parquet", ".h5", ".hdf5", ".png", ".jpg", ".jpeg", ".json")
_SAFE_NAME = re.compile(r"\w[\w .,()+-]{0,99}")


def export(artifact: Artifact, out: str | os.PathLike[str], ipc: int | None = None) -> Path:
    """Decode a bank and write it; the ending of ``out`` says how.

    - ``.npz``: ``x`` uint8 [N, R, R, 3], ``y`` int64 [N], ``classes`` (names), ``mean`` and ``std`` (of the real
      images / 255), for `numpy.load`.
    - ``.beton``: for FFCV, fields ``image`` and ``label``, raw, with its sidecar beside it.
    - a folder: ``<class>/<number>.png``, for torchvision's ``ImageFolder``. The folders sort in the order of the
      labels; where the names alone would not, or are no names for folders, the label stands before them.

    Args:
        artifact: to take the images from.
        out: where to; nothing may stand there.
        ipc: images per class; None is the largest bank.

    Returns:
        ``out`` as a path.

    Raises:
        ArtifactError: something stands at ``out``, or it has the ending of another kind of file.
        ConfigError: there is no bank of ``ipc`` images per class.
        RunError: the disk is full.
    """
    target = Path(out)
    ending = target.suffix.lower()
    if ending in _OTHER_FILES:
        raise ArtifactError(f"{out}: ending {ending!r}; valid: .npz, .beton, or a folder (no ending)")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f"{out}: exists already; valid: a new name")
    writers: dict[str, Callable[[BankDataset, Path], None]] = {".npz": _npz, ".beton": _beton}
    writers.get(ending, _folder)(artifact.bank(ipc, normalize=False), target)
    return target


def _npz(bank: BankDataset, target: Path) -> None:
    import numpy as np

    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            x=bank.images.permute(0, 2, 3, 1).contiguous().numpy(),
            y=bank.labels.numpy(),
            classes=np.array(bank.classes, dtype=np.str_),
            mean=np.array(bank.mean),
            std=np.array(bank.std),
        )


def _beton(bank: BankDataset, target: Path) -> None:
    from raycondense.data.dataset_writer import DatasetWriter, Origin
    from raycondense.data.encoding import Encoding

    encoding = Encoding(resolution=bank.images.shape[-1], kind="raw", quality=100)
    # The sidecar gets this file's own mean and standard deviation; those of the real images are in the artefact.
    origin = Origin(source=f"raycondense artefact, bank of {bank.ipc} images per class", split="train", seed=0)
    with DatasetWriter(target, len(bank), classes=bank.classes, encoding=encoding, origin=origin) as writer:
        for image, label in zip(bank.images, bank.labels.tolist(), strict=True):
            writer.add(image.permute(1, 2, 0).contiguous().numpy(), label)


def _folder(bank: BankDataset, target: Path) -> None:
    with atomic_folder(target) as temporary:
        for label, name in enumerate(folder_names(bank.classes)):
            place = temporary / name
            place.mkdir()
            for number, image in enumerate(bank.images[bank.labels == label]):
                (place / f"{number:05d}.png").write_bytes(encode_png(image))


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """A folder name for each class, such that sorting the folders gives the labels' order (as ``ImageFolder`` does).

    Class names are kept where they sort that way and are safe on every file system; else all get their label in
    front, and signs that are not safe become ``_``.
    """
    safe = all(_SAFE_NAME.fullmatch(name) and not name.endswith((" ", ".")) for name in classes)
    distinct = len({name.casefold() for name in classes}) == len(classes)
    if safe and distinct and sorted(classes) == list(classes):
        return list(classes)
    digits = len(str(len(classes) - 1))
    cleaned = (re.sub(r"[^\w()+,-]", "_", name)[:80] for name in classes)
    return [f"{label:0{digits}d}_{name}" for label, name in enumerate(cleaned)]
