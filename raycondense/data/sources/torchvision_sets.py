"""Named datasets of torchvision, downloaded at first use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycondense.data.sources.base import Source, check_split, checked_labels, unique_names
from raycondense.data.sources.names import DATASETS
from raycondense.errors import DataError, DependencyError, RunError

_LABEL_ATTRIBUTES = ("targets", "labels", "_labels")


def default_data_root() -> Path:
    """Where downloads go unless the user says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "raycondense" / "datasets"


class TorchvisionSource(Source):
    """One split of a dataset of `raycondense.data.sources.names.DATASETS`.

    Raises:
        DataError: there is no such split, or its files are damaged.
        DependencyError: torchvision, or a package that it needs for this dataset, does not import.
        RunError: the download failed.
    """

    def __init__(self, name: str, split: str, data_root: str | os.PathLike[str] | None) -> None:
        dataset = DATASETS[name]
        check_split(name, split, list(dataset.splits))
        root = Path(data_root).expanduser() if data_root else default_data_root()
        self._name = name
        self.description, self.split = f"{name} (torchvision)", split
        self._data = _open(name, dataset.type_name, root, dataset.splits[split])
        labels = next((getattr(self._data, a) for a in _LABEL_ATTRIBUTES if hasattr(self._data, a)), None)
        if labels is None or len(labels) != len(self._data):
            raise DataError(f"{name}: this version of torchvision keeps its labels in a place that is unknown here")
        self.classes = unique_names(dataset.classes or map(str, self._data.classes))
        self.labels = checked_labels(np.asarray(labels), len(self.classes), self)

    def key(self, index: int) -> str:
        return f"{self._name} {self.split} image {index}"

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
        for index in indices:
            image = self._data[int(index)][0]
            yield np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _open(name: str, type_name: str, root: Path, options: dict[str, Any]) -> Any:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        # torchvision without the torch it was built for fails with a RuntimeError while it imports.
        raise DependencyError(f"the source {name!r} needs torchvision, which does not import: {error}") from error
    kind = getattr(datasets, type_name)
    root.mkdir(parents=True, exist_ok=True)
    try:
        return kind(str(root), download=True, **options)
    except ModuleNotFoundError as error:
        raise DependencyError(f"the source {name!r} needs {error.name}: pip install {error.name}") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{name}: could not be downloaded to or read from {root}: {reason}") from error
