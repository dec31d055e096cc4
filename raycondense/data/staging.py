"""Betons that lie elsewhere: a URI is staged on each node once, a path is read where it is.

Whoever starts a run reads the sidecar alone (`BetonLocation.find`); the workers get it from there and copy the beton to
their node's cache folder (`BetonLocation.stage`): one of them copies, the others of the node wait for it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raycondense.data.sidecar import MOST_BYTES, Sidecar
from raycondense.errors import DataError, RaycondenseError, RunError
from raycondense.patience import patiently
from raycondense.remote import Place, is_passing, is_uri, name_of, shown

T = TypeVar("T")
logger = logging.getLogger("raycondense")

PIECE = 8 * 1024**2
"""Bytes asked for at once."""
STREAMS = 8
"""Pieces on the way at once; a single request of an object store is far slower than the network."""
PATIENCE = 600.0
"""Seconds that the storage may be out of reach without a byte arriving."""
SECONDS_BETWEEN_MESSAGES = 10.0

Progress = Callable[[int, int], None]
"""Takes the bytes that are there and all bytes."""


def cache_folder(setting: str) -> Path:
    """The folder that ``data.cache`` names on this machine; by default the user's cache folder."""
    if setting:
        return Path(setting).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().absolute() / "raycondense"


def staged_betons() -> list[Path]:
    """The betons that were staged on this machine in the user's cache folder."""
    return sorted(cache_folder("").glob("betons/*/*.beton"))


@dataclass(frozen=True, kw_only=True, slots=True)
class BetonLocation:
    """Where a beton lies: a path, the same on every node, or a URI with the text of its sidecar."""

    location: str
    """Absolute path, or URI. A URI may hold credentials: messages and files get `shown`."""
    sidecar_text: str = ""
    """Of a URI, the sidecar as it was when the run was started: all nodes work with this one."""

    @classmethod
    def find(cls, location: str | os.PathLike[str]) -> BetonLocation:
        """Look at a beton: of a path nothing is read yet, of a URI the sidecar and the beton's size.

        Raises:
            DataError: it is no beton, it or its sidecar is missing or damaged, or they do not belong together.
            ConfigError: no file system that pyarrow knows.
            RunError: the storage does not answer or refuses.
        """
        name = name_of(location)
        if not name.endswith(".beton"):
            raise DataError(f"{shown(location)}: not a beton; make one with: raycondense prepare SOURCE OUT.beton")
        if not is_uri(location):
            return cls(location=os.path.abspath(location))
        place = Place.at(location)
        sidecar = place.sibling(f"{name}.json")
        try:
            text = sidecar.read(MOST_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{sidecar.shown}: cannot be read as JSON: {error}") from error
        wanted, size = Sidecar.from_json(text, sidecar.shown).size, place.size()
        if size is None:
            raise DataError(f"{place.shown}: no such file, though its sidecar is there")
        if size != wanted:
            raise DataError(f"{place.shown}: found {size} bytes, its sidecar says {wanted}; copy both again")
        return cls(location=os.fspath(location), sidecar_text=text)

    @property
    def is_remote(self) -> bool:
        """Whether the beton has to be staged."""
        return is_uri(self.location)

    @property
    def shown(self) -> str:
        """The location without credentials."""
        return shown(self.location)

    def sidecar(self) -> Sidecar:
        """The beton's sidecar.

        Raises:
            DataError: it is missing or damaged.
        """
        if self.is_remote:
            return Sidecar.from_json(self.sidecar_text, f"sidecar of {self.shown}")
        return Sidecar.load(self.location)

    def here(self, cache: str) -> Path:
        """Where the beton lies on this machine, staged or not yet. Its sidecar is there afterwards.

        Args:
            cache: ``data.cache``.

        Raises:
            RunError: the cache folder cannot be written, or its disk is full.
        """
        if not self.is_remote:
            return Path(self.location)
        name = name_of(self.location)
        # By content: other data at the same URI later is another file here, the same data at another URI this one.
        content = hashlib.sha256(self.sidecar_text.encode()).hexdigest()[:16]
        beton = cache_folder(cache) / "betons" / f"{Path(name).stem}-{content}" / name
        with _writable(beton.parent):
            if not Sidecar.path(beton).is_file():
                self.sidecar().save(beton)
        return beton

    def stage(self, cache: str, progress: Progress | None = None, tell: Callable[[str], None] = logger.info) -> Path:
        """The beton's path on this machine, copied there first where it lies at a URI and no worker has done it.

        What a killed worker has copied counts: the next one goes on behind it.

        Args:
            cache: ``data.cache``.
            progress: called while this process copies.
            tell: takes a message when it begins, now and then, when it waits for the storage, and at the end.

        Raises:
            DataError: what lies at the URI is not what its sidecar describes.
            RunError: the disk is too small, or the storage is out of reach.
        """
        from filelock import FileLock

        beton = self.here(cache)
        if not self.is_remote or self._is_whole(beton):
            return beton
        with _writable(beton.parent), FileLock(beton.parent / ".lock"):
            if not self._is_whole(beton):
                _Copy(self, beton, progress, tell).run()
        return beton

    def _is_whole(self, beton: Path) -> bool:
        # Its checksum was compared before it got this name.
        return beton.is_file() and beton.stat().st_size == self.sidecar().size


class _Copy:
    """One beton on its way into the cache: bytes are appended to ``X.beton.part``, which gets its name at the end."""

    def __init__(
        self, location: BetonLocation, beton: Path, progress: Progress | None, tell: Callable[[str], None]
    ) -> None:
        self._sidecar, self._name = location.sidecar(), location.shown
        self._beton, self._part = beton, beton.with_name(f"{beton.name}.part")
        self._progress, self._tell = progress, tell
        self._told, self._warned = time.monotonic(), -SECONDS_BETWEEN_MESSAGES
        self._stopped = False
        self._place = self._patiently(lambda: Place.at(location.location))

    def run(self) -> None:
        size, name = self._sidecar.size, self._name
        there = self._part.stat().st_size if self._part.exists() else 0
        if there > size:
            self._part.unlink()
            there = 0
        _require_room(self._beton.parent, size - there, name)
        self._tell(f"{name}: staging {_bytes(size)} to {self._beton}, {_bytes(there)} are there")
        started = time.monotonic()
        if self._copy_behind(there) != self._sidecar.sha256:
            self._part.unlink()
            if not there:
                raise DataError(f"{name}: its SHA-256 is not the one in its sidecar; copy both there again")
            # After a crash the end of a file need not be what was written there.
            self._tell(f"{name}: what was there of it is damaged; copying all of it again")
            return self.run()
        os.replace(self._part, self._beton)
        seconds = max(time.monotonic() - started, 1e-3)
        self._tell(f"{name}: staged in {seconds:.1f} s, {_bytes(round((size - there) / seconds))}/s")

    def _copy_behind(self, there: int) -> str:
        """Append what is missing behind the first ``there`` bytes, and return the SHA-256 of all."""
        digest = hashlib.sha256()
        with self._part.open("a+b") as part:
            part.seek(0)
            while piece := part.read(PIECE):
                digest.update(piece)
            for piece in self._pieces(there):
                part.write(piece)
                part.flush()
                digest.update(piece)
                there += len(piece)
                self._count(there)
            os.fsync(part.fileno())
        return digest.hexdigest()

    def _pieces(self, start: int) -> Iterator[bytes]:
        """The file from ``start`` on, in order, a few requests ahead."""
        offsets = iter(range(start, self._sidecar.size, PIECE))
        with self._patiently(self._open) as file, ThreadPoolExecutor(STREAMS) as pool:
            ahead: deque[Future[bytes]] = deque()

            def ask() -> None:
                for offset in itertools.islice(offsets, STREAMS - len(ahead)):
                    ahead.append(pool.submit(self._patiently, functools.partial(self._read, file, offset)))

            try:
                ask()
                while ahead:
                    piece = ahead.popleft().result()
                    ask()
                    yield piece
            finally:
                self._stopped = True  # or threads that wait for the storage would hold up who leaves
                pool.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> Any:
        with self._place.errors():
            return self._place.filesystem.open_input_file(self._place.path)

    def _read(self, file: Any, offset: int) -> bytes:
        wanted = min(PIECE, self._sidecar.size - offset)
        with self._place.errors():
            piece: bytes = file.read_at(wanted, offset)
        if len(piece) != wanted:
            raise DataError(f"{self._name}: ends after {offset + len(piece)} bytes; copy it there again")
        return piece

    def _patiently(self, do: Callable[[], T]) -> T:
        return patiently(do, self._name, seconds=PATIENCE, tell=self._warn, passing=self._may_pass)

    def _may_pass(self, error: BaseException) -> bool:
        return not self._stopped and is_passing(error)

    def _warn(self, message: str) -> None:
        # All pieces on the way meet the same trouble at the same time.
        if time.monotonic() - self._warned > SECONDS_BETWEEN_MESSAGES / 2:
            self._warned = time.monotonic()
            self._tell(message)

    def _count(self, there: int) -> None:
        size, now = self._sidecar.size, time.monotonic()
        if self._progress is not None:
            self._progress(there, size)
        if now - self._told > SECONDS_BETWEEN_MESSAGES:
            self._told = now
            self._tell(f"{self._name}: {_bytes(there)} of {_bytes(size)} staged")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Make the folder; what goes wrong with the disk inside the block is an error of one line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if isinstance(error, RaycondenseError):
            raise
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space there, or name another folder "
            "with data.cache"
        ) from error


def _require_room(folder: Path, wanted: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise RunError(
            f"{folder}: {_bytes(free)} free, {_bytes(wanted)} are to be staged from {name}; free some space there, or "
            "name a folder on a larger disk with data.cache"
        )


def _bytes(number: int) -> str:
    size, units = float(number), iter(("bytes", "KB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while size >= 1000 and unit != "PB":
        size, unit = size / 1000, next(units)
    return f"{size:.4g} {unit}"
