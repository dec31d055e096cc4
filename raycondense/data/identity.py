"""Is this the same work? Everything on which the bytes of a prepared data set depend, in a few values.

Image files are compared by name, size and time of change: the names of all before anything is done, size and time of
each when it is read. So an image that was not read yet may be repaired, one that was read may not have changed.
Shards and archives are compared by name, size and time, all of them. The datasets that have names of their own
(digits, torchvision's) are compared by their labels and taken for unchanged otherwise.
"""

from __future__ import annotations

import glob
import hashlib
import os
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np

from raycondense.data.encoding import Encoding, Stamp, stamp_of
from raycondense.data.journal import Identity
from raycondense.data.sources import Source, source_names
from raycondense.data.sources.parquet import find_shards

_DIGEST = "sha256:"


def identity_of(
    source: str | os.PathLike[str],
    images: Source,
    encoding: Encoding,
    *,
    val_fraction: float,
    seed: int,
) -> Identity:
    """The identity of a `prepare` with these arguments, ``images`` being the opened ``source``."""
    from PIL import __version__ as pillow

    keys = () if images.sequential else (images.key(index) for index in range(len(images)))
    return {
        "source": images.description,
        "split": images.split,
        "resolution": encoding.resolution,
        "encoding": encoding.kind,
        "quality": encoding.quality if encoding.kind == "jpeg" else None,
        "val_fraction": val_fraction,
        "seed": seed,
        "number of images": len(images),
        "names of the classes": _digest(name.encode("utf-8", "surrogateescape") for name in images.classes),
        "labels of the images": _digest([np.ascontiguousarray(images.labels, "<i8").tobytes()]),
        "names of the images": _digest(os.fsencode(key) for key in keys),
        "files of the source": _digest(
            os.fsencode(file) + _packed(stamp_of(file)) for file in _files_of(source, images.sequential)
        ),
        # Another decoder may give other pixels.
        "version of Pillow": pillow,
    }


def difference(was: Identity, now: Identity) -> str:
    """What differs between two identities, for people; empty if nothing does."""
    found = []
    for name in now | was:
        old, new = was.get(name), now.get(name)
        if old != new:
            opaque = any(isinstance(value, str) and value.startswith(_DIGEST) for value in (old, new))
            found.append(f"the {name} changed" if opaque else f"{name} was {old}, is {new}")
    return ", ".join(found)


class Seen:
    """Digest of the stamps of the files that were read, in the order of reading."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, stamps: Iterable[Stamp | None]) -> None:
        """Add the stamps of the next images; None for one that is no file of its own."""
        self._hash.update(b"".join(_packed(stamp) for stamp in stamps if stamp is not None))

    def add_files(self, images: Source, indices: np.ndarray) -> None:
        """The same for images that were read before, from what their files are now."""
        if not len(indices) or images.sequential:
            return
        payloads = images.read(indices)
        first = next(payloads)
        if not isinstance(first, Path):
            return
        paths = (payload for payload in chain([first], payloads) if isinstance(payload, Path))
        # On storage behind a network each of them waits for an answer.
        with ThreadPoolExecutor(16) as pool:
            while some := list(islice(paths, 4096)):
                groups = [some[start : start + 64] for start in range(0, len(some), 64)]
                for stamps in pool.map(lambda group: [stamp_of(path) for path in group], groups):
                    self.add(stamps)

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def _packed(stamp: Stamp) -> bytes:
    return struct.pack("<qq", *stamp)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return _DIGEST + digest.hexdigest()


def _files_of(source: str | os.PathLike[str], sequential: bool) -> list[Path]:
    """Shards and archives that `open_source` reads front to back; those of other splits may be among them."""
    name = os.fspath(source)
    if not sequential or name in source_names():
        return []
    path = Path(name).expanduser()
    if path.is_dir():
        return find_shards(path)
    return [path] if path.is_file() else sorted(Path(found) for found in glob.glob(str(path), recursive=True))
