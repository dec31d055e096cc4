"""The sidecar of a beton: ``X.beton.json`` says what is in ``X.beton``, class by class.

The samples of a beton are ordered by class, so the counts alone say where each class lies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from raycondense.data.beton_format import read_header
from raycondense.errors import DataError
from raycondense.storage import parse_json, read_file, write_text

FORMAT_VERSION = 1
MOST_BYTES = 64 << 20
"""Of a sidecar that is read: names and counts of a million classes."""


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as hexadecimal text, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What a beton holds.

    Raises:
        DataError: the values contradict each other.
    """

    classes: tuple[str, ...]
    """Class names; label c is ``classes[c]``."""
    counts: tuple[int, ...]
    """Images of each class, 1 or more. Class c's samples are at ``sum(counts[:c])`` and after."""
    mean: tuple[float, float, float]
    """Mean of each channel (R, G, B) over all pixels of this file, of images / 255."""
    std: tuple[float, float, float]
    """Standard deviation of each channel over all pixels of this file, of images / 255; at least 1/255."""
    resolution: int
    """Side of the stored square images in pixels."""
    encoding: Literal["raw", "jpeg"]
    """How images are stored."""
    quality: int | None
    """JPEG quality, 1 to 100; None for raw."""
    source: str
    """What the file was made from."""
    split: str
    """Which part of the source: train, test, val, ..."""
    seed: int
    """Seed of the order inside the classes and of the validation cut."""
    sha256: str
    """SHA-256 of the beton."""
    size: int
    """Bytes of the beton."""
    skipped: int = 0
    """Images that could not be decoded and were left out."""
    format_version: int = FORMAT_VERSION
    """Version of this format."""

    def __post_init__(self) -> None:
        fault = self._fault()
        if fault:
            raise DataError(f"sidecar: {fault}")

    def _fault(self) -> str:
        """What is wrong with the values, or an empty string."""
        if not self.classes or len(self.classes) != len(self.counts):
            return f"found {len(self.classes)} classes and {len(self.counts)} counts, valid: one count a class"
        if len(set(self.classes)) != len(self.classes):
            return "classes: found a name twice, valid: different names"
        if min(self.counts) < 1:
            empty = self.classes[self.counts.index(min(self.counts))]
            return f"counts: found {min(self.counts)} images of class {empty!r}, valid: 1 or more"
        for name, low in (("mean", 0.0), ("std", 1e-9)):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(v) and low <= v <= 1 for v in values):
                return f"{name}: found {values}, valid: 3 numbers of images / 255"
        if not 1 <= self.resolution <= 65535:
            return f"resolution: found {self.resolution}, valid: 1 to 65535"
        if self.encoding not in ("raw", "jpeg"):
            return f"encoding: found {self.encoding!r}, valid: raw, jpeg"
        if (self.encoding == "raw") != (self.quality is None) or not 1 <= (
            1 if self.quality is None else self.quality
        ) <= 100:
            return f"quality: found {self.quality} for {self.encoding}, valid: 1 to 100 for jpeg, null for raw"
        return ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return sum(self.counts)

    def class_range(self, label: int) -> range:
        """Positions in the beton of the images of class ``label`` (0 to ``num_classes - 1``)."""
        if not 0 <= label < self.num_classes:
            raise DataError(f"label: found {label}, valid: 0 to {self.num_classes - 1}")
        start = sum(itertools.islice(self.counts, label))
        return range(start, start + self.counts[label])

    @staticmethod
    def path(beton: str | os.PathLike[str]) -> Path:
        """Where the sidecar of ``beton`` lies."""
        beton = Path(beton)
        return beton.with_name(beton.name + ".json")

    def to_json(self) -> str:
        """The text of the file."""
        values = {"format_version": self.format_version, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def save(self, beton: str | os.PathLike[str]) -> Path:
        """Write the sidecar beside ``beton`` and return its path."""
        path = self.path(beton)
        write_text(path, self.to_json())
        return path

    @classmethod
    def load(cls, beton: str | os.PathLike[str]) -> Sidecar:
        """Read the sidecar of ``beton``. The beton itself is not looked at: see `verify`.

        Raises:
            DataError: the sidecar is missing, damaged or from a newer raycondense.
        """
        path = cls.path(beton)
        try:
            text = read_file(path, MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; a beton needs its sidecar beside it (`raycondense prepare` writes both)"
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as JSON: {error}") from error
        return cls.from_json(text, path)

    @classmethod
    def from_json(cls, text: str, name: str | os.PathLike[str]) -> Sidecar:
        """The sidecar that `to_json` wrote; ``name`` is the file's, for messages.

        Raises:
            DataError: it is damaged or from a newer raycondense.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise DataError(f"{name}: cannot be read as JSON: {error}") from error
        version = values.get("format_version") if isinstance(values, dict) else None
        if type(version) is int and version > FORMAT_VERSION:
            raise DataError(
                f"{name}: found format_version {version}, valid: up to {FORMAT_VERSION}; a newer raycondense wrote it"
            )
        if type(version) is not int or version < 1:
            raise DataError(f"{name}: damaged: no format_version")
        try:
            return cls(**_checked_types(values))
        except (DataError, TypeError) as error:
            raise DataError(f"{name}: damaged: {error}") from error

    def verify(self, beton: str | os.PathLike[str], *, full: bool = False) -> None:
        """Check that ``beton`` is the file that this sidecar describes.

        Args:
            beton: the file.
            full: compare the SHA-256 of the whole file too, instead of size and header alone.

        Raises:
            DataError: it is missing, damaged or another file.
        """
        header = read_header(beton)
        wanted = (self.num_images, self.size)
        if (header.num_samples, header.file_size) != wanted:
            raise DataError(
                f"{beton}: found {header.num_samples} images in {header.file_size} bytes, its sidecar says "
                f"{wanted[0]} in {wanted[1]}; prepare or copy both again"
            )
        if full and file_sha256(beton) != self.sha256:
            raise DataError(f"{beton}: its SHA-256 is not the one in its sidecar; prepare or copy both again")


def _checked_types(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a sidecar file with lists as tuples; `TypeError` names what has a wrong type."""
    scalars: dict[str, tuple[type, ...]] = {
        "format_version": (int,), "resolution": (int,), "seed": (int,), "size": (int,), "skipped": (int,),
        "quality": (int, type(None)), "encoding": (str,), "source": (str,), "split": (str,), "sha256": (str,),
    }  # fmt: skip
    number = (float, int)
    lists: dict[str, tuple[type, ...]] = {"classes": (str,), "counts": (int,), "mean": number, "std": number}
    missing = (scalars.keys() | lists.keys()) - values.keys()
    extra = values.keys() - (scalars.keys() | lists.keys())
    if missing or extra:
        raise TypeError(f"missing fields {sorted(missing)}, unknown fields {sorted(extra)}")
    for name, types in scalars.items():
        if type(values[name]) not in types:
            raise TypeError(f"{name}: found {values[name]!r}, valid: {types[0].__name__}")
    for name, types in lists.items():
        if not isinstance(values[name], list) or not all(type(item) in types for item in values[name]):
            raise TypeError(f"{name}: valid: a list of {types[0].__name__}")
    return {name: tuple(cast(list[Any], v)) if name in lists else v for name, v in values.items()}


def check_resolution(path: str | os.PathLike[str], sidecar: Sidecar, resolution: int) -> None:
    """Nothing where ``path`` stores images of ``resolution`` px or more.

    Raises:
        DataError: they are smaller; enlarging them in every step would be waste.
    """
    if sidecar.resolution < resolution:
        raise DataError(
            f"{path}: found images of {sidecar.resolution} px, valid for data.resolution {resolution}: {resolution} px "
            f"or more; prepare it again with --resolution {resolution}, or lower data.resolution"
        )
