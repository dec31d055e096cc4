"""A directory with one folder of images a class, ImageNet's way: ``train/<class>/*.JPEG``."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from raycondense.data.sources.base import Source, check_split
from raycondense.errors import DataError

EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif",
)  # fmt: skip
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


class ImageFolderSource(Source):
    """Images in ``root/<class>/`` or, where ``root`` holds them, ``root/<split>/<class>/``, nested or not.

    Classes are the folders' names in sorted order. With splits they are those of ``train``, so that label
    numbers mean the same in every split. A million paths take some 40 MB: names lie in one block of bytes.

    Raises:
        DataError: the folder holds no class folders, one of them holds no image, or there is no such split.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.description, self.split = f"image folder {root}", split
        folders = _split_folders(root)
        if folders:
            check_split(str(root), split, list(folders))
            self._root = folders[split]
            names = _class_names(folders.get("train", self._root))
            extra = sorted(set(_class_names(self._root)) - set(names))
            if extra:
                raise DataError(f"{self._root / extra[0]}: this class is not one of {folders['train']}")
        else:
            check_split(f"{root} (no {', '.join(SPLITS)} folders in it)", split, ["train"])
            self._root, names = root, _class_names(root)
        if not names:
            raise DataError(f"{self._root}: found no class folders, valid: one folder of images a class")
        self.classes = tuple(names)
        self._names, self._ends = bytearray(), array("Q")
        counts = [self._add_class(name) for name in names]
        self.labels = np.repeat(np.arange(len(names), dtype=np.int64), counts)

    def _add_class(self, name: str) -> int:
        """Note the images of one class in sorted order; how many there are."""
        found = sorted(_image_files(self._root / name))
        if not found:
            raise DataError(
                f"{self._root / name}: found no image in this class folder, valid endings: {' '.join(EXTENSIONS)}"
            )
        for file in found:
            self._names += os.fsencode(os.path.relpath(file, self._root))
            self._ends.append(len(self._names))
        return len(found)

    def key(self, index: int) -> str:
        return str(self._path(index))

    def _path(self, index: int) -> Path:
        start = self._ends[index - 1] if index else 0
        return self._root / os.fsdecode(bytes(self._names[start : self._ends[index]]))

    def read(self, indices: Sequence[int] | np.ndarray) -> Iterator[Path]:
        for index in indices:
            yield self._path(int(index))


def _split_folders(root: Path) -> dict[str, Path]:
    """Split name → its folder, for those that hold folders; a *class* named "train" holds images instead."""
    folders: dict[str, Path] = {}
    for split, names in SPLITS.items():
        for name in names:
            if split not in folders and (root / name).is_dir() and _class_names(root / name):
                folders[split] = root / name
    return folders


def _class_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if not name.isprintable():
            raise DataError(f"{folder}: class folder {name!r}: valid: a name of printable UTF-8 characters")
    return names


def _image_files(folder: Path) -> Iterator[str]:
    """Image files below ``folder``, also behind links, each folder once: links may lead in circles."""
    waiting, seen = [str(folder)], set()
    while waiting:
        place = waiting.pop()
        try:
            found = os.stat(place)
            entries = [] if (found.st_dev, found.st_ino) in seen else list(os.scandir(place))
        except OSError:
            continue
        seen.add((found.st_dev, found.st_ino))
        for entry in entries:
            if entry.is_dir():
                waiting.append(entry.path)
            elif entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") and _may_be_image(entry):
                yield entry.path


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    """No pipes, from which nothing may ever come. A link to nothing is an image that cannot be read."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
