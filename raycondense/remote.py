"""Files and folders behind URIs (``s3://``, ``gs://``, ``file://``, …), through pyarrow's file systems.

A URI may hold credentials. Only `shown` of one goes into messages and files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from raycondense.errors import ConfigError, DataError, RunError
from raycondense.patience import may_pass
from raycondense.redact import without_secrets
from raycondense.storage import atomic_path

EXAMPLES = "s3://bucket/name, gs://bucket/name, file:///folder/name"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_COPIED_AT_ONCE = 8 * 1024**2


def is_uri(location: str | os.PathLike[str]) -> bool:
    """Whether ``location`` is a URI and not a path."""
    return isinstance(location, str) and _URI.match(location) is not None


def shown(location: str | os.PathLike[str]) -> str:
    """``location`` as it may be printed and written down: without passwords, keys and tokens."""
    return without_secrets(os.fspath(location))


def name_of(location: str | os.PathLike[str]) -> str:
    """The last part of a path's or URI's path."""
    text = os.fspath(location)
    return PurePosixPath(unquote(urlsplit(text).path) if is_uri(location) else text).name


def _with_path(location: str, change: Callable[[str], str]) -> str:
    """A URI or path with another path; a URI's options stay."""
    base, question, options = location.partition("?") if is_uri(location) else (location, "", "")
    return f"{change(base.rstrip('/'))}{question}{options}"


@dataclass(frozen=True)
class Place:
    """A file or folder that one of pyarrow's file systems reaches.

    Attributes:
        filesystem: pyarrow's.
        path: what that file system calls it.
        shown: its URI for messages, without credentials.
    """

    filesystem: Any
    path: str
    shown: str

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Place:
        """The place that a URI or a path names. Nothing is looked for there.

        Raises:
            ConfigError: pyarrow knows no such file system or option.
            RunError: the storage does not answer or refuses.
        """
        from pyarrow import fs

        if not is_uri(location):
            path = os.path.abspath(location)
            return cls(fs.LocalFileSystem(), path, path)
        uri = os.fspath(location)
        try:
            filesystem, path = fs.FileSystem.from_uri(uri)
        except OSError as error:  # S3 is asked where the bucket is unless the URI says it
            raise RemoteError(f"{shown(uri)}: {_reason(error, uri)}", passing=is_passing(error)) from None
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(f"{shown(uri)}: {_reason(error, uri)}; valid: a path, or a URI like {EXAMPLES}") from None
        return cls(filesystem, path.rstrip("/"), shown(uri))

    @property
    def is_local(self) -> bool:
        """Whether this is this machine's own file system (which may be a shared one)."""
        return bool(self.filesystem.type_name == "local")

    def sibling(self, name: str) -> Place:
        """The place of another ``name`` in the same folder."""
        path = str(PurePosixPath(self.path).with_name(name))
        return Place(self.filesystem, path, _with_path(self.shown, lambda path: f"{path.rpartition('/')[0]}/{name}"))

    def __truediv__(self, name: str) -> Place:
        return Place(self.filesystem, f"{self.path}/{name}", _with_path(self.shown, lambda path: f"{path}/{name}"))

    def size(self) -> int | None:
        """Bytes of the file; None where there is none.

        Raises:
            RunError: the storage does not answer or refuses.
        """
        with self.errors():
            found = self.filesystem.get_file_info(self.path)
        return found.size if found.is_file else None

    def read(self, most: int) -> bytes:
        """The whole file.

        Raises:
            DataError: there is none, or it has more than ``most`` bytes.
            RunError: the storage does not answer or refuses.
        """
        size = self.size()
        if size is None:
            raise DataError(f"{self.shown}: no such file")
        if size > most:
            raise DataError(f"{self.shown}: found {size} bytes, valid: at most {most}")
        with self.errors(), self.filesystem.open_input_file(self.path) as file:
            content: bytes = file.read()
            return content

    def upload(self, source: Path) -> None:
        """Write the file as a copy of ``source``; readers see the old one or the new one.

        Raises:
            RunError: the storage does not answer or refuses, or the disk is full.
        """
        if self.is_local:
            with self.errors(), atomic_path(self.path) as temporary:
                shutil.copyfile(source, temporary)
            return
        with self.errors():
            if self.filesystem.type_name == "hdfs":  # the others have no folders to be made
                self.filesystem.create_dir(str(PurePosixPath(self.path).parent), recursive=True)
            with source.open("rb") as read, self.filesystem.open_output_stream(self.path) as write:
                _copy(read, write)

    def download(self, target: Path) -> None:
        """Copy the file to ``target``, which is whole or absent.

        Raises:
            RunError: the storage does not answer or refuses, or the disk is full.
        """
        with (
            self.errors(),
            atomic_path(target) as temporary,
            self.filesystem.open_input_stream(self.path) as read,
            temporary.open("wb") as write,
        ):
            _copy(read, write)

    def files(self, leave_out: tuple[str, ...] = ()) -> dict[str, int]:
        """Bytes of every file of this folder by its path below the folder; empty where there is no such folder.

        Args:
            leave_out: names of folders directly in this one that are not looked into.

        Raises:
            DataError: a name in it would lead out of a folder that it is copied to.
            RunError: the storage does not answer or refuses.
        """
        from pyarrow import fs

        found: dict[str, int] = {}
        with self.errors():
            top = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            entries = [entry for entry in top if entry.is_file]
            for folder in (entry for entry in top if not entry.is_file and entry.base_name not in leave_out):
                below = self.filesystem.get_file_info(fs.FileSelector(folder.path, recursive=True))
                entries += [entry for entry in below if entry.is_file]
        for entry in entries:
            name = entry.path.removeprefix(self.path).removeprefix("/")
            # Object stores keep any name, also one that climbs.
            if not name or PurePosixPath(name).is_absolute() or {"..", "."} & set(name.split("/")) or "\\" in name:
                raise DataError(f"{self.shown}: found a file named {name!r}, valid: names inside the folder")
            found[name] = entry.size
        return found

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what a file system raises inside the block into one line.

        Raises:
            RunError: instead of it.
        """
        try:
            yield
        except (OSError, ValueError, NotImplementedError) as error:
            if isinstance(error, RunError | DataError):
                raise
            raise RemoteError(f"{self.shown}: {_reason(error)}", passing=is_passing(error)) from error


class RemoteError(RunError):
    """A storage does not answer or refuses; ``passing`` where waiting may help."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing

    def __reduce__(self) -> tuple[Any, ...]:
        return _remote_error, (str(self), self.passing)


def _remote_error(message: str, passing: bool) -> RemoteError:
    return RemoteError(message, passing=passing)


def is_passing(error: BaseException) -> bool:
    """Whether an error of a file system, or of ours about one, may be over when it is asked again later."""
    if isinstance(error, RemoteError):
        return error.passing
    return not isinstance(error, FileNotFoundError | PermissionError) and may_pass(error)


def _reason(error: Exception, uri: str = "") -> str:
    """First line of an error, without the URI that it may repeat."""
    lines = str(error).splitlines() or [type(error).__name__]
    return shown(lines[0].replace(uri, shown(uri)) if uri else lines[0])


def _copy(read: Any, write: Any) -> None:
    while piece := read.read(_COPIED_AT_ONCE):
        write.write(piece)
