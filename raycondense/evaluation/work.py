"""The unit of evaluation that a pool of workers runs: what it needs as paths and numbers, what it finds as plain rows.

A work pickles, holds no tensor and no open file, and what it finds depends on nothing but its fields (and, in the last
bits, on device and thread count). Its key is a hash of those fields' content, so what is done is never done again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from raycondense.evaluation.store import Store


class Work(Protocol):
    """One piece of work; a frozen dataclass."""

    @property
    def key(self) -> str:
        """Content hash: works with the same key find the same."""
        ...

    @property
    def cost(self) -> float:
        """Relative run time, to start long works first."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the works that must be done before this one can start."""
        ...

    @property
    def label(self) -> str:
        """What it is, for people."""
        ...

    def run(self, store: Store) -> list[dict[str, Any]]:
        """Do it.

        Args:
            store: where assets are read from and written to.

        Returns:
            What was found, as rows of plain values with a ``table`` ("results" or "diagnostics") and a ``key``; none
            for a work that only leaves an asset in the store.

        Raises:
            RaycondenseError: a file is missing, damaged or does not fit.
        """
        ...


def content_hash(value: Any) -> str:
    """SHA-256, in hex, of plain values as canonical JSON: the same in every process and every Python."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
