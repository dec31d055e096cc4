"""Where images come from: `open_source` finds the reader of whatever the user named.

One file a kind of source; each implements `Source`. To add one, write it and name it in `open_source`.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

from raycondense.data.sources.base import Payload, Source
from raycondense.data.sources.image_folder import ImageFolderSource
from raycondense.data.sources.names import DATASETS
from raycondense.data.sources.parquet import ParquetSource, find_shards
from raycondense.errors import DataError, choices_message

__all__ = ["Payload", "Source", "open_source", "source_names"]


def source_names() -> tuple[str, ...]:
    """Names that `open_source` knows besides paths."""
    return ("digits", *DATASETS)


def open_source(source: str | os.PathLike[str], *, split: str = "train", data_root: str | None = None) -> Source:
    """Find out what ``source`` is and read its labels.

    Args:
        source: a name of `source_names`, an ImageFolder directory, a folder, file or glob of Parquet shards,
            or an ``.npz`` file. A bare name always means the dataset of that name; write ``./cifar10`` for a
            folder of that name.
        split: which part of it: train, val, test, where the source has it.
        data_root: where torchvision's datasets are downloaded to; default a folder in the user's cache.

    Raises:
        DataError: there is no such source or split, or it cannot be read.
        DependencyError: the source needs a package that does not import.
        RunError: a download failed.
    """
    name = os.fspath(source)
    if name == "digits":
        from raycondense.data.sources.digits import DigitsSource

        return DigitsSource(split)
    if name in DATASETS:
        from raycondense.data.sources.torchvision_sets import TorchvisionSource

        return TorchvisionSource(name, split, data_root)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".npz":
        from raycondense.data.sources.npz import NpzSource

        return NpzSource(path, split)
    if path.is_file() and path.suffix == ".parquet":
        return ParquetSource([path], split, name)
    if path.is_dir():
        shards = find_shards(path)
        return ParquetSource(shards, split, name) if shards else ImageFolderSource(path, split)
    if path.exists():
        raise DataError(f"{name}: found a {path.suffix or 'plain'} file, valid files: .npz, .parquet")
    if glob.has_magic(name):
        shards = sorted(Path(found) for found in glob.glob(str(path), recursive=True))
        if not shards:
            raise DataError(f"{name}: no file fits this pattern")
        return ParquetSource(shards, split, name)
    if os.sep in name or path.suffix:
        raise DataError(f"{name}: no such file or folder")
    raise DataError(
        f"{choices_message('dataset', name, source_names())}; or a folder, an .npz file or Parquet shards that exist"
    )
