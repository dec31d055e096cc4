"""Files that are either whole or absent: write to a temporary name beside the target, fsync, rename.

And files that may come from a stranger, read with a limit: `read_file`, `read_json`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycondense.errors import RunError

MOST_JSON_BYTES = 16 << 20
"""Of a file that is read whole: names of a million classes. As objects of Python it may take thirty times as much."""
_LARGEST_NUMBER = 2**64
_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def fsync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
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
            fsync(temporary)
            os.replace(temporary, target)
            fsync(target.parent)
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
                fsync(file)
            temporary.chmod(0o755)
            if target.exists():
                # A folder cannot be replaced in one step: move the old one aside, so that one of both always exists.
                old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
                os.replace(target, old / "was")
            os.replace(temporary, target)
            fsync(target.parent)
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
    """The complete lines of a file written by `append_line`; an incomplete last line is left out.

    What is not UTF-8 is replaced: a damaged line says so when it is parsed, and the others are read.
    """
    target = Path(path)
    if not target.exists():
        return []
    return [line.decode(errors="replace") for line in target.read_bytes().split(b"\n")[:-1] if line]


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The JSON objects in the complete lines of a file written by `append_line`.

    Raises:
        RunError: a line is damaged.
    """
    records = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            record = parse_json(line)
        except ValueError as error:
            raise RunError(f"{path}: line {number} is damaged: {error}") from error
        if not isinstance(record, dict):
            raise RunError(f"{path}: line {number} is damaged: found {type(record).__name__}, valid: a JSON object")
        records.append(record)
    return records


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """The whole of an ordinary file.

    Raises:
        OSError: there is none, it is something else (a pipe or a device would be read for ever), or it has more than
            ``most`` bytes.
        ValueError: the name is none.
    """
    # Not blocking: the mere opening of a pipe waits for somebody who writes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no ordinary file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return data


def read_json(path: str | os.PathLike[str], most: int = MOST_JSON_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: see `read_file`.
        ValueError: see `parse_json`.
    """
    return parse_json(read_file(path, most).decode("utf-8"))


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds a whole number beyond 64 bits or half a character:
            what nothing of ours writes, and few programs expect.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
        if _HALF_A_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _whole_number(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else _LARGEST_NUMBER
    if abs(number) >= _LARGEST_NUMBER:
        raise ValueError(f"found the number {digits[:20]}, valid: at most 64 bits")
    return number
