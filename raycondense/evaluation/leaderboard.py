"""The leaderboard: all students of a store of results as entries, one for what was measured alike, and as text.

An entry is made by students that differ in their seed alone. It is scored against real images only where these were
measured in the same way: same files, same recipe.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from raycondense.artifact.sizes import format_bytes
from raycondense.evaluation import query
from raycondense.evaluation.columns import MISSING, aligned, percent, score
from raycondense.evaluation.measures import scores_of
from raycondense.evaluation.schemas import DIAGNOSTICS, KEY, MEASURES, RESULTS, TIME, Column, to_rows
from raycondense.evaluation.store import Store

Entry = dict[str, Any]
Format = Literal["table", "markdown", "csv", "json"]
View = Literal["entries", "students", "diagnostics"]

SCORES = ("hlr", "ior", "lrs", "ars")
SAME = (
    "test_sha256", "split", "train_sha256", "recipe_sha256", "method", "source_sha256", "set_sha256", "architecture",
    "ipc", "accounting", "labels", "augmented", "bytes",
)  # fmt: skip
"""Columns in which the students of an entry are the same."""
MEANS = ("seconds", "train_seconds", "generation_seconds")
DATED = ("steps", "images", "teacher_bytes", "label_bytes", "classes", "resolution", "dataset", "protocol", "source",
         "artifact_sha256", "schedule_sha256", "test_images", TIME)  # fmt: skip
"""Columns that an entry has from its newest student."""


def _entry_columns() -> dict[str, Column]:
    new = [
        Column("std", "float64", "fraction", "standard deviation of the accuracy over students (n - 1)", True),
        Column("students", "int64", "count", "students (seeds)"),
        Column("diverged", "int64", "count", "students whose training diverged"),
        Column("hlr", "float64", "1", "hard-label recovery: whole set minus this, hard labels", True),
        Column("ior", "float64", "1", "improvement over random real images, same recipe", True),
        Column("lrs", "float64", "1", "label-robust score", True),
        Column("ars", "float64", "1", "augmentation-robust score", True),
    ]
    columns = {column.name: column for column in (*RESULTS.values(), *new)}
    order = (
        "dataset", "split", "protocol", "method", "architecture", "ipc", "accounting", "labels", "augmented",
        "accuracy", "std", "students", "diverged", *SCORES, "images", "bytes", "teacher_bytes", "label_bytes", "steps",
        *MEANS, "classes", "resolution", "test_images", "source", "source_sha256", "set_sha256", "artifact_sha256",
        "train_sha256", "test_sha256", "recipe_sha256", "schedule_sha256", TIME,
    )  # fmt: skip
    return {name: columns[name] for name in order}


ENTRIES = _entry_columns()
COLUMNS: dict[View, dict[str, Column]] = {"entries": ENTRIES, "students": RESULTS, "diagnostics": DIAGNOSTICS}
"""View → its columns by name."""
SAID_ONCE = ("dataset", "split", "protocol", "accounting", "labels", "augmented", "reference")
"""Columns that a table has only where rows differ in them; otherwise they are named below it."""
SHOWN: dict[View, tuple[str, ...]] = {
    "entries": (
        "dataset", "split", "protocol", "method", "architecture", "ipc", "accuracy", *SCORES, "students", "diverged",
        "images", "bytes", "accounting", "labels", "teacher_bytes", "label_bytes", "augmented", "seconds",
    ),
    "students": (
        "dataset", "split", "protocol", "method", "architecture", "ipc", "student", "accuracy", "loss", "images",
        "bytes", "accounting", "labels", "augmented", "seconds", "device", TIME,
    ),
    "diagnostics": ("method", "ipc", *MEASURES, "images", "accounting", "reference", "source"),
}  # fmt: skip
"""View → the columns of its table, where none are chosen; those without any value are left out."""
NOT_IF_ZERO = ("diverged", "teacher_bytes", "label_bytes")
"""Columns that are left out where all are zero too."""
ORDER: dict[View, str] = {
    "entries": "dataset,split,protocol,architecture,ipc,accounting,labels,-augmented,-accuracy,method",
    "students": "dataset,split,protocol,architecture,ipc,accounting,labels,-augmented,method,student",
    "diagnostics": "source,ipc,accounting,method",
}


def entries(students: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Students of the table ``results`` as entries with the columns `ENTRIES`, in no order."""
    groups: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
    for row in students:
        # The same student twice is the same question asked again: the newest answer counts.
        members = groups.setdefault(tuple(row[name] for name in SAME), {})
        known = members.get(row["student"])
        if known is None or (known[TIME], known[KEY]) < (row[TIME], row[KEY]):
            members[row["student"]] = row
    found = [_entry(list(members.values())) for members in groups.values()]
    _score(found)
    return found


def _entry(members: Sequence[Mapping[str, Any]]) -> Entry:
    newest = max(members, key=lambda row: (row[TIME], row[KEY]))
    accuracies = [row["accuracy"] for row in members]
    values = {name: newest[name] for name in (*SAME, *DATED)}
    values |= {name: statistics.fmean(row[name] for row in members) for name in MEANS}
    values |= dict.fromkeys(SCORES)
    values["accuracy"] = statistics.fmean(accuracies)
    values["std"] = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    values["students"] = len(members)
    values["diverged"] = sum(row["loss"] is None for row in members)
    return {name: values[name] for name in ENTRIES}


class _Scored(NamedTuple):
    """An entry as `scores_of` reads it."""

    entry: Entry
    method: str
    architecture: str
    ipc: int
    accounting: str
    labels: str
    augmented: bool
    accuracy: float

    @classmethod
    def of(cls, entry: Entry) -> _Scored:
        return cls(entry, *(entry[name] for name in cls._fields[1:]))


def _score(found: Iterable[Entry]) -> None:
    """Fill in the scores, from entries that were measured on the same files with the same schedule."""
    alike: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in found:
        schedule = entry["schedule_sha256"] or entry["recipe_sha256"]
        names = ("test_sha256", "split", "train_sha256", "architecture")
        alike.setdefault((schedule, *(entry[name] for name in names)), []).append(entry)
    for members in alike.values():
        recipes: dict[tuple[str, bool], set[str]] = {}
        for entry in members:
            recipes.setdefault((entry["labels"], entry["augmented"]), set()).add(entry["recipe_sha256"])
        # With two kinds of soft labels, say, nothing tells which of them some hard ones belong to: then only entries
        # of the very same recipe are compared.
        clear = all(len(names) == 1 for names in recipes.values())
        parts: dict[str, list[_Scored]] = {}
        for entry in members:
            parts.setdefault("" if clear else entry["recipe_sha256"], []).append(_Scored.of(entry))
        for part in parts.values():
            try:
                scores = scores_of(part, origin=_origin)
            except ValueError:
                continue  # two sets of random images that fit equally well: no score is better than a wrong one
            for row, values in zip(part, scores, strict=True):
                row.entry.update(values)


def _origin(row: _Scored) -> tuple[Any, ...]:
    return tuple(row.entry[name] for name in ("source_sha256", "set_sha256", "bytes"))


def leaderboard(
    store: Store,
    view: View = "entries",
    *,
    where: Iterable[str] = (),
    sort: str = "",
    columns: str = "",
    format: Format = "table",
) -> str:
    """The leaderboard as text.

    Args:
        store: where the results are.
        view: entries, single students, or the diagnostics of image sets.
        where: conditions that all have to hold, see `raycondense.evaluation.query.parse_condition`.
        sort: see `raycondense.evaluation.query.ordered`; empty takes `ORDER`.
        columns: names with commas between; empty takes `SHOWN`, or all for CSV and JSON.
        format: ``table`` and ``markdown`` are for people (accuracies in %), ``csv`` and ``json`` for programs
            (fractions, bytes, seconds, times as ISO 8601 in UTC).

    Raises:
        ConfigError: a condition or a column is not valid.
        DataError: a file of the store is damaged or from a newer version.
    """
    known = COLUMNS[view]
    conditions = [query.parse_condition(text, known) for text in where]
    shown = query.chosen(columns, known) if columns else None
    query.ordered([], sort, known)
    table = store.tables["diagnostics" if view == "diagnostics" else "results"]
    students = to_rows(table.read())
    every = entries(students) if view == "entries" else students
    rows = query.ordered(query.select(every, conditions), sort or ORDER[view], known)
    if format == "csv":
        return _csv(rows, shown or list(known.values()))
    if format == "json":
        return _json(rows, shown or list(known.values()))
    if not rows:
        what = query.unmatched(every, conditions) if every else f"no {table.name} yet"
        return f"{store.root}: {what}\n"
    return _text(rows, view, shown, plain=format == "table")


def _text(rows: Sequence[query.Row], view: View, shown: list[Column] | None, *, plain: bool) -> str:
    known, once = COLUMNS[view], list[str]()
    if shown is None:
        shown = []
        for name in SHOWN[view]:
            values = {row[name] for row in rows}
            if name in SAID_ONCE and len(values) == 1:
                once.append(f"{name}: {cell(known[name], rows[0])}")
            elif values != {None} and not (name in NOT_IF_ZERO and values == {0}):
                shown.append(known[name])
    spread = "std" in known and not any(column.name == "std" for column in shown)

    def text(column: Column, row: query.Row) -> str:
        if column.name == "accuracy" and spread:
            return percent(row["accuracy"], row["std"])
        return cell(column, row).replace("\n", " ").replace("|", "\\|")

    head = [column.name + (" %" if column.unit == "fraction" else "") for column in shown]
    body = [[text(column, row) for column in shown] for row in rows]
    lines = aligned(head, body, {i for i, column in enumerate(shown) if column.type in ("string", "bool")}).split("\n")
    if plain:
        lines = [line.removeprefix("| ").removesuffix(" |").replace(" | ", "  ").replace("\\|", "|") for line in lines]
        lines[1] = lines[1].replace(":", "-")
        lines = [line.rstrip() for line in lines]
    notes = [", ".join(once)] if once else []
    if any(column.name == "accuracy" for column in shown):
        notes.append("accuracy: top-1 in %, last step" + (", mean ± std over students" if spread else ""))
    if any(column.name in SCORES for column in shown):
        notes.append(
            "hlr: whole set minus this, hard labels; ior: this minus random real; lrs, ars: label- and "
            "augmentation-robust score (DD-Ranking), all as fractions"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def cell(column: Column, row: query.Row) -> str:
    """One value for people: fractions in per cent, hashes by their first digits, times in UTC."""
    value = row[column.name]
    if value is None:
        return MISSING
    if column.type == "bool":
        return "yes" if value else "no"
    if column.type == "timestamp":
        moment = _moment(value)
        return MISSING if moment is None else f"{moment:%Y-%m-%d %H:%M}"
    if column.type == "string":
        return str(value)[:12] if column.unit == "sha256" else str(value)
    if column.unit == "fraction":
        return percent(value)
    if column.unit == "bytes":
        return format_bytes(value)
    if column.unit == "count":
        return f"{value:,}"
    if column.type == "int64":
        return str(value)
    return f"{value:.1f}" if column.unit == "s" else score(value)


def _plain(column: Column, row: query.Row) -> Any:
    value = row[column.name]
    if column.type == "timestamp" and value is not None:
        moment = _moment(value)
        return None if moment is None else moment.isoformat(timespec="milliseconds")
    return value


def _moment(value: float) -> datetime | None:
    """A time in seconds since 1970; None where no calendar has it, which only a damaged table says."""
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _csv(rows: Iterable[query.Row], columns: Sequence[Column]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        values = [_plain(column, row) for column in columns]
        writer.writerow([str(value).lower() if isinstance(value, bool) else value for value in values])
    return out.getvalue()


def _json(rows: Iterable[query.Row], columns: Sequence[Column]) -> str:
    listed = [{column.name: _plain(column, row) for column in columns} for row in rows]
    return json.dumps(listed, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
