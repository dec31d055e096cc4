"""Tables of an evaluation as Markdown that also reads well as plain text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycondense.artifact.sizes import format_bytes
from raycondense.evaluation.methods import METHOD_NAMES

if TYPE_CHECKING:
    from raycondense.evaluation.result import Row

MISSING = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table of rows."""

    title: str
    text: Callable[[Row], str]
    left: bool = False
    """Words instead of numbers."""
    when: Callable[[Row], bool] | None = None
    """Show the column only where this is true for a row."""


def percent(mean: float, std: float | None = None) -> str:
    """A fraction as ``48.9 ± 0.6`` per cent."""
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")


def score(value: float | None) -> str:
    """A score as a fraction with three digits."""
    return MISSING if value is None else f"{value:.3f}"


COLUMNS = (
    Column("method", lambda row: row.name, left=True),
    Column("student", lambda row: row.architecture, left=True),
    Column("IPC", lambda row: str(row.ipc) if row.ipc else MISSING),
    Column("accuracy %", lambda row: percent(row.accuracy, row.std)),
    Column("HLR", lambda row: score(row.hlr), when=lambda row: row.hlr is not None),
    Column("IOR", lambda row: score(row.ior), when=lambda row: row.ior is not None),
    Column("LRS", lambda row: score(row.lrs), when=lambda row: row.lrs is not None),
    Column("ARS", lambda row: score(row.ars), when=lambda row: row.ars is not None),
    Column("students", lambda row: str(row.students)),
    Column("images", lambda row: f"{row.images:,}"),
    Column("size", lambda row: format_bytes(row.bytes)),
    Column("accounting", lambda row: row.accounting, left=True),
    Column("labels", lambda row: row.labels, left=True, when=lambda row: row.labels != "hard"),
    Column("DSA", lambda row: "yes" if row.augmented else "no", left=True, when=lambda row: not row.augmented),
    Column("s/student", lambda row: f"{row.seconds:.1f}"),
    Column("images s", lambda row: f"{row.generation_seconds:.2f}"),
)


def score_table(rows: Sequence[Row]) -> str:
    """The rows of an evaluation, as the columns that say something about any of them."""
    shown = [column for column in COLUMNS if column.when is None or any(map(column.when, rows))]
    body = [[column.text(row) for column in shown] for row in rows]
    return aligned([column.title for column in shown], body, {i for i, column in enumerate(shown) if column.left})


DIAGNOSTICS = {
    "spread_ratio": "spread / real",
    "center_margin": "center margin",
    "center_cosine": "center cosine",
    "coverage": "coverage",
    "expected_coverage": "(of real)",
    "density": "density",
    "nearest_real": "nearest real",
}
"""Column of a diagnostics row → its title."""


def diagnostics_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Diversity and realism of image sets (see `raycondense.evaluation.diagnostics`)."""
    head = ["images of", "IPC", *DIAGNOSTICS.values()]
    body = [
        [METHOD_NAMES[row["method"]], str(row["ipc"] or MISSING), *(score(row[name]) for name in DIAGNOSTICS)]
        for row in found
    ]
    return aligned(head, body, {0})


def aligned(head: Sequence[str], body: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    """A Markdown table whose columns are padded to one width.

    Args:
        head: titles.
        body: cells of each line.
        left: numbers of the columns that are set flush left; the others are flush right, as numbers are.
    """
    widths = [max(len(cells[i]) for cells in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = "| " + " | ".join("-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)) + " |"
    return "\n".join([line(head), rule, *map(line, body)])
