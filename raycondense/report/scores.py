"""The numbers of an evaluation as sections of the page: accuracies, scores against real images, diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from raycondense.artifact.sizes import format_bytes
from raycondense.evaluation.columns import COLUMNS, DIAGNOSTICS, Column, percent, score
from raycondense.evaluation.methods import FROM_GENERATOR, METHOD_NAMES, OURS
from raycondense.evaluation.result import Evaluation, Row
from raycondense.report.curves import bars_figure, bytes_figure, ipc_figure
from raycondense.report.markup import (
    MISSING,
    accuracy_cell,
    band,
    cell,
    details,
    explained,
    line,
    note,
    picture,
    row_head,
    section,
    table,
)

ATTENTION = "attention: "
"""How notes begin that say what went wrong."""

MOST_WARNINGS = 5
"""What is shown at once."""

BANDS = {
    "bank": "bank: so many fixed images per class",
    "bytes": "bytes: no more bytes than so many images per class",
    "stream": "stream: fresh samples of so many codes per class",
}
"""Accounting → the heading of its lines."""

# What a reader with soft labels has to know, beside the columns that every table of an evaluation has.
_SOFT_COLUMNS = (
    Column("teacher", lambda row: format_bytes(row.teacher_bytes), when=lambda row: row.teacher_bytes > 0),
    Column("label bytes", lambda row: format_bytes(row.label_bytes), when=lambda row: row.label_bytes > 0),
)

SCORES: dict[str, tuple[Callable[[Row], float | None], str]] = {
    "HLR": (
        lambda row: row.hlr,
        "hard-label recovery: accuracy lost against the whole set with hard labels; 0 is best",
    ),
    "IOR": (lambda row: row.ior, "improvement over as many random real images under the same recipe; more is better"),
    "LRS": (
        lambda row: row.lrs,
        "label-robust score: both in one number; more is better, 0.269 is neither won nor lost",
    ),
    "ARS": (
        lambda row: row.ars,
        "augmentation-robust score: the improvement over random with and without augmentation; 0.269 is random images",
    ),
}
"""Title → how to read it from a row, and what it means (DD-Ranking; fractions)."""

MEASURES = {
    "spread_ratio": "how far images of a class lie from their mean, over the same of real images: 1 is as diverse",
    "center_margin": "how much nearer an image is to its class's real center than to the next: 1 there, 0 half-way",
    "positive_margin": "share of images that are nearest to the real center of their own class",
    "center_cosine": "cosine of a class's center with the most similar other one: less stands further apart",
    "coverage": "share of real images with one of these images in their neighbourhood: few images cover few",
    "expected_coverage": "the coverage that as many new real images would have",
    "density": "real neighbourhoods that an image lies in, over the number expected: 1 is what real images have",
    "nearest_real": "distance to the nearest real image, over the usual one between real images: near 0 is a copy",
}
"""Column of a diagnostics row → what it means."""


def accuracy_section(evaluation: Evaluation | None) -> str:
    """Accuracies: a table and figures for each group of rows that may be compared, all columns on demand, notes."""
    if evaluation is None:
        return section("Accuracy", "<p>Not evaluated yet: <code>raycondense evaluate</code> fills this in.</p>")
    warnings = [text.removeprefix(ATTENTION) for text in evaluation.notes if text.startswith(ATTENTION)]
    parts = [_warning(warnings)] if warnings else []
    groups = _groups(evaluation.rows)
    for rows in groups:
        heading = f"<h3>{escape(_group_name(rows[0]))}</h3>" if len(groups) > 1 else ""
        parts.append(f"{heading}{_pivot(rows)}{_figures(rows)}")
    shown = [
        column for column in (*COLUMNS, *_SOFT_COLUMNS) if column.when is None or any(map(column.when, evaluation.rows))
    ]
    parts.append(details("all columns", _whole_table(evaluation.rows, shown)))
    notes = [text for text in evaluation.notes if not text.startswith(ATTENTION)]
    parts.append(f'<ul class="notes">{_items(notes)}</ul>')
    return section("Accuracy", "\n".join(parts))


def _warning(texts: Sequence[str]) -> str:
    """What went wrong; where it is much, most of it folded, because one failure draws many after it."""
    shown, rest = texts[:MOST_WARNINGS], texts[MOST_WARNINGS:]
    more = details(f"and {len(rest)} more", f"<ul>{_items(rest)}</ul>") if rest else ""
    return f'<div class="warning"><p>Attention</p><ul>{_items(shown)}</ul>{more}</div>'


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by what may stand in one table: architecture, labels, augmentation.

    Soft labels reward compute more than data, so they never stand beside hard ones.
    """
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row.architecture, row.labels, row.augmented), []).append(row)
    return list(found.values())


def _group_name(row: Row) -> str:
    labels = "" if row.labels == "hard" else f", {row.labels} labels"
    return f"{row.architecture} students{labels}{'' if row.augmented else ', without augmentation'}"


def _pivot(rows: Sequence[Row]) -> str:
    """Methods down, images per class across: the literature's table, narrow enough for a phone.

    Accountings stand one below the other: images of one are to be compared with each other.
    """
    ipcs = sorted({row.ipc for row in rows if row.ipc})
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for row in sorted(rows, key=lambda row: (list(BANDS).index(row.accounting), list(METHOD_NAMES).index(row.method))):
        found.setdefault(row.accounting, {}).setdefault(row.method, {})[row.ipc] = row
    # Pixels by bytes are the same images as by number: alone they say nothing new.
    if not set(found.get("bytes", ())) & set(FROM_GENERATOR):
        found.pop("bytes", None)
    lines = []
    for accounting, methods in found.items():
        lines += [band(BANDS[accounting], 1 + max(1, len(ipcs)))] if len(found) > 1 else []
        for method, members in methods.items():
            if 0 in members:
                cells = [accuracy_cell(_percent(members[0]), span=len(ipcs) if len(ipcs) > 1 else 0)]
            else:
                cells = [accuracy_cell(_percent(members[ipc])) if ipc in members else cell(MISSING) for ipc in ipcs]
            lines.append(line([row_head(METHOD_NAMES[method]), *cells], ours=method == OURS))
    titles = [f"IPC {ipc}" for ipc in ipcs] or ["accuracy %"]
    return table(
        f"Accuracies in %, {_group_name(rows[0])}", [("accuracy %", False), *((t, True) for t in titles)], lines
    )


def _percent(row: Row) -> str:
    return percent(row.accuracy, row.std)


def _figures(rows: Sequence[Row]) -> str:
    ipcs = {row.ipc for row in rows if row.ipc}
    # With one number of images a line would be a point.
    figures = [ipc_figure(rows) if len(ipcs) > 1 else bars_figure(rows)]
    if len({row.bytes for row in rows if row.ipc}) > 1:
        figures.append(bytes_figure(rows))
    return f'<div class="figures wide">{"".join(map(picture, figures))}</div>'


def _whole_table(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    # Words first: they say which row this is.
    first, *others = sorted(shown, key=lambda column: not column.left)
    lines = [
        line(
            [row_head(first.text(row)), *(cell(column.text(row), number=not column.left) for column in others)],
            ours=row.method == OURS,
        )
        for row in rows
    ]
    return table("All columns of all rows", [(column.title, not column.left) for column in (first, *others)], lines)


def scores_section(evaluation: Evaluation | None) -> str:
    """HLR, IOR, LRS and ARS of our rows; empty where none could be had."""
    rows = [] if evaluation is None else [row for row in evaluation.rows if row.method == OURS]
    found = {
        title: (of, meaning) for title, (of, meaning) in SCORES.items() if any(of(row) is not None for row in rows)
    }
    if not found:
        return ""
    groups = _groups([row for row in rows if any(of(row) is not None for of, _ in found.values())])
    lines = []
    for members in groups:
        lines += [band(_group_name(members[0]), 1 + len(found))] if len(groups) > 1 else []
        for row in members:
            head = row_head(f"IPC {row.ipc}", "" if row.accounting == "bank" else row.accounting)
            lines.append(line([head, *(cell(score(of(row))) for of, _ in found.values())]))
    body = table("Scores of raycondense", [("", False), *((title, True) for title in found)], lines)
    told = explained({title: meaning for title, (_, meaning) in found.items()})
    return section(
        "Against real images", f"{note('What the condensed images bring beyond the recipe, as fractions.')}{body}{told}"
    )


def diagnostics_section(found: Sequence[Mapping[str, Any]]) -> str:
    """Diversity and realism of every image set; empty where nothing was measured."""
    if not found:
        return ""
    measures = [name for name in DIAGNOSTICS if any(row.get(name) is not None for row in found)]
    sizes = sorted({row["ipc"] for row in found}, key=lambda ipc: ipc or math.inf)
    lines = []
    for ipc in sizes:
        lines += [band(f"IPC {ipc}" if ipc else "all images", 1 + len(measures))] if len(sizes) > 1 else []
        for row in (row for row in found if row["ipc"] == ipc):
            accounting = row.get("accounting", "bank")
            head = row_head(METHOD_NAMES[row["method"]], "" if accounting == "bank" else accounting)
            lines.append(line([head, *(cell(score(row.get(name))) for name in measures)], ours=row["method"] == OURS))
    head_line = [("images of", False), *((DIAGNOSTICS[name], True) for name in measures)]
    references = " and ".join(dict.fromkeys(str(row.get("reference", "a network")) for row in found))
    intro = note(
        f"Diversity and realism, measured in the features of a network trained on the real images ({references})."
    )
    told = explained({DIAGNOSTICS[name]: MEASURES[name] for name in measures if name in MEASURES})
    return section("Diversity and realism", f"{intro}{table('Diversity and realism', head_line, lines)}{told}")
