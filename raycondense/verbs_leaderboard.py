"""What ``raycondense leaderboard`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raycondense.cli import parse
from raycondense.errors import ConfigError, DataError
from raycondense.storage import write_text

Form = Literal["table", "markdown", "csv", "json"]
ENDINGS: dict[str, Form] = {".md": "markdown", ".csv": "csv", ".json": "json"}
"""Ending of the file to write → its format."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Print what was measured so far: mean and standard deviation over students, in one line for what was measured
    alike."""

    store: tyro.conf.Positional[Path] = Path("leaderboard")
    """Folder of results, as `raycondense evaluate --store` writes it."""
    where: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Condition on a column, may be repeated: method=random,kmeans, 'ipc>=10', 'accuracy>=50%', 'dataset=*cifar*'."""
    sort: str = ""
    """Columns to sort by, with commas between; -COLUMN is largest first."""
    columns: str = ""
    """Columns to show, with commas between; by default what tells lines apart, and all for CSV and JSON."""
    format: Form | None = None
    """Form of the output; by default that of OUT's ending, or a table. CSV and JSON have fractions, bytes, seconds."""
    out: Path | None = None
    """File to write instead of printing."""
    students: bool = False
    """List single students."""
    diagnostics: bool = False
    """List diversity and realism of image sets."""
    compact: bool = False
    """First merge the folder's many small files; may be done while others read and write."""


def leaderboard(words: list[str]) -> int:
    """``raycondense leaderboard [STORE]``"""
    flags = parse(Leaderboard, "leaderboard", _with_sort_joined(words))
    if flags.students and flags.diagnostics:
        raise ConfigError("--students and --diagnostics: found both, valid: one")
    from raycondense.evaluation.leaderboard import leaderboard as run
    from raycondense.evaluation.store import Store

    store = Store(flags.store)
    if not any(table.folder.is_dir() for table in store.tables.values()):
        found = "a folder without results" if flags.store.is_dir() else "no such folder"
        raise DataError(f"{flags.store}: {found}, valid: a folder that raycondense evaluate --store has written")
    if flags.compact:
        for name, table in store.tables.items():
            print(f"{name}: {table.compact()} files merged", file=sys.stderr)
    ending = flags.out.suffix.lower() if flags.out else ""
    text = run(
        store,
        "students" if flags.students else "diagnostics" if flags.diagnostics else "entries",
        where=flags.where,
        sort=flags.sort,
        columns=flags.columns,
        format=flags.format or ENDINGS.get(ending, "table"),
    )
    if flags.out is None:
        print(text, end="")
    else:
        write_text(flags.out, text)
        print(f"{flags.out}: written")
    return 0


def _with_sort_joined(words: Sequence[str]) -> list[str]:
    """``--sort -accuracy`` as ``--sort=-accuracy``: alone, the second word would be taken for a flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and not word.startswith("--"):
            joined[-1] = f"--sort={word}"
        else:
            joined.append(word)
    return joined
