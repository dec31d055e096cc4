"""The files of a checkpoint: written so that a reader can tell a whole one from one that is cut short or changed.

``state.pt`` holds the tensors. ``clock.json`` is written after it, says where the run was, and holds the size and the
SHA-256 of ``state.pt``. What is in them is `raycondense.state`'s business.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycondense.storage import read_json

STATE, CLOCK = "state.pt", "clock.json"


def write_files(folder: Path, state: bytes | memoryview, clock: Mapping[str, Any]) -> None:
    """Write both files into an existing folder."""
    (folder / STATE).write_bytes(state)
    files = {STATE: {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}}
    (folder / CLOCK).write_text(json.dumps({**clock, "files": files}), encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None where they are as they were written.

    Checkpoints of raycondense 0.1 hold no digest: of them only that nothing was cut off is known.

    Raises:
        OSError: the folder cannot be read at all, which says nothing about the checkpoint.
    """
    try:
        clock = read_json(folder / CLOCK)
        files = clock.get("files", {}) if isinstance(clock, dict) else None
        if not isinstance(files, dict):
            return f"{CLOCK} is not a checkpoint's"
        if not files:
            return None if zipfile.is_zipfile(folder / STATE) else f"{STATE} is not whole"
        size, wanted = (folder / STATE).stat().st_size, int(files[STATE]["bytes"])
        if size != wanted:
            return f"{STATE} has {size:,} of {wanted:,} bytes"
        with (folder / STATE).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != files[STATE]["sha256"]:
                return f"{STATE} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        return f"{CLOCK} cannot be read ({type(error).__name__})"
    return None
