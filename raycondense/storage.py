"""Files that are either whole or absent: write to a temporary name beside the target, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycondense.errors import RunError


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk_is_an_error_of_ours(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{target}: no space left on the disk; nothing was written, free some space and run again"
        ) from error


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends well and is removed when it does not.

    Raises:
        RunError: the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number alone: on storage that several machines share two of them may have the same.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with _full_disk_is_an_error_of_ours(target):
        try:
            yield temporary
            _fsync(temporary)
            os.replace(temporary, target)
            _fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The same for a folder; one that already stands at ``path`` is replaced when the block ends well.

    Raises:
        RunError: the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    old: Path | None = None
    with _full_disk_is_an_error_of_ours(target):
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _fsync(file)
            temporary.chmod(0o755)
            if target.exists():
                # A folder cannot be replaced in one step: move the old one aside, so that one of both always exists.
                old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
                os.replace(target, old / "was")
            os.replace(temporary, target)
            _fsync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old is not None:
                if not target.exists():
                    os.replace(old / "was", target)
                shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one line in a single write, so that a kill leaves at most one incomplete last line."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _full_disk_is_an_error_of_ours(target), target.open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The complete lines of a file written by `append_line`; an incomplete last line is left out."""
    target = Path(path)
    if not target.exists():
        return []
    return [line.decode() for line in target.read_bytes().split(b"\n")[:-1] if line]
