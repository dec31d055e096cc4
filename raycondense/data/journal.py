"""What an interrupted `prepare` had done: lines that are appended, each only after the images it tells of are on disk.

A line is a checksum and JSON. The checksum goes over all lines up to here, so lines of two runs cannot mix. The last
line may be incomplete, as a kill or a power cut leaves it, and is then as good as not written; any other damage makes
the whole journal worthless. An image takes some 5 bytes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raycondense.storage import write_text

VERSION = 1
"""Of the journal and of the work beside it; another version begins anew."""
_MOST_LINE_BYTES = 64 << 20
_SIZE = np.dtype("<u4")

Identity = dict[str, int | float | str | bool | None]
"""Everything on which the bytes of the result depend, by the name under which a person knows it."""


class Totals(NamedTuple):
    """Of one part of the result: per channel, the sums of all pixels so far and of their squares."""

    sums: tuple[int, ...]
    squares: tuple[int, ...]


@dataclass
class Done:
    """What is done.

    Attributes:
        sizes: uint32 [n], bytes of each stored image in the order of reading; 0 for one that was left out.
        reasons: why those were, in the same order.
        totals: one for each part; empty while n is 0.
        seen: digest of the sizes and times of the n files, see `raycondense.data.identity`.
        drained: buckets of the spool that were copied to their place.
        finished: the parts are whole and may get their names.
    """

    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, _SIZE))
    reasons: list[str] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)
    seen: str = ""
    drained: int = 0
    finished: bool = False


class JournalError(Exception):
    """The journal cannot be used; the text says why."""


class Journal:
    """The file, open at its end.

    Attributes:
        identity: whose work it is about.
        images: how many images it tells of.
    """

    def __init__(self, path: Path, identity: Identity, end: int, checksum: int, images: int) -> None:
        self.identity, self.images = identity, images
        self._checksum = checksum
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(end)
        self._file.seek(end)

    @classmethod
    def create(cls, path: Path, identity: Identity) -> Journal:
        """A new one, on disk with its first line."""
        line, checksum = _line({"version": VERSION, "identity": identity}, 0)
        write_text(path, line.decode())
        return cls(path, identity, len(line), checksum, 0)

    @classmethod
    def load(cls, path: Path) -> tuple[Journal, Done]:
        """One that an interrupted run left.

        Raises:
            JournalError: it is missing, damaged or of another version.
        """
        done, sizes = Done(), [np.zeros(0, _SIZE)]
        identity: Identity | None = None
        checksum = end = images = 0
        try:
            with path.open("rb") as file:
                while line := file.readline(_MOST_LINE_BYTES):
                    after = _checked(line, checksum)
                    if after is None:
                        if identity is None or file.read(1):
                            raise JournalError("its journal is damaged")
                        break
                    record = json.loads(line[9:])
                    if identity is None:
                        if record["version"] != VERSION:
                            raise JournalError(f"its journal has version {record['version']}, not {VERSION}")
                        identity = dict(record["identity"])
                    elif "sizes" in record:
                        sizes.append(_take_block(record, done, images))
                        images += len(sizes[-1])
                    else:
                        done.drained = int(record.get("drained", done.drained))
                        done.finished = bool(record.get("finished", done.finished))
                    checksum, end = after, end + len(line)
            if identity is None:
                raise JournalError("its journal is empty")
            done.sizes = np.concatenate(sizes)
            return cls(path, identity, end, checksum, images), done
        except OSError as error:
            raise JournalError(f"its journal cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise JournalError("its journal is damaged") from error

    def add_block(self, start: int, sizes: list[int], reasons: list[str], totals: list[Totals], seen: str) -> None:
        """Note images that are on disk; `Done` says what the values mean, ``totals`` and ``seen`` are those at the end.

        A block that does not follow the last one is there already (an interrupt made its writer try twice): left out.
        """
        if start == self.images and sizes:
            packed = base64.b64encode(np.array(sizes, _SIZE).tobytes()).decode()
            self._append(start=start, sizes=packed, reasons=reasons, totals=totals, seen=seen)
            self.images += len(sizes)

    def add_drained(self, buckets: int) -> None:
        """Note that the first ``buckets`` buckets are at their place and on disk."""
        self._append(drained=buckets)

    def add_finished(self) -> None:
        """Note that all parts are whole and on disk."""
        self._append(finished=True)

    def _append(self, **record: Any) -> None:
        line, checksum = _line(record, self._checksum)
        view = memoryview(line)
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())
        self._checksum = checksum

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(record: dict[str, Any], before: int) -> tuple[bytes, int]:
    # ASCII: a reason may quote a file name that is no UTF-8.
    text = json.dumps(record).encode("ascii")
    checksum = zlib.crc32(text, before)
    return b"%08x %s\n" % (checksum, text), checksum


def _checked(line: bytes, before: int) -> int | None:
    """The checksum of a whole line, None for one that is not whole."""
    checksum = zlib.crc32(line[9:-1], before)
    return checksum if line[:9] == b"%08x " % checksum and line.endswith(b"\n") else None


def _take_block(record: dict[str, Any], done: Done, images: int) -> np.ndarray:
    """Add what a block says to ``done`` and return its sizes."""
    try:
        sizes = np.frombuffer(base64.b64decode(record["sizes"], validate=True), _SIZE)
    except binascii.Error as error:
        raise JournalError("its journal is damaged") from error
    reasons = [str(reason) for reason in record["reasons"]]
    if record["start"] != images or len(reasons) != int((sizes == 0).sum()):
        raise JournalError("its journal is damaged")
    done.reasons += reasons
    done.totals = [Totals(tuple(map(int, sums)), tuple(map(int, squares))) for sums, squares in record["totals"]]
    done.seen = str(record["seen"])
    return sizes
