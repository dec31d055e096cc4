"""Choosing among rows by typed columns: conditions, order, columns; what a user writes is checked against them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raycondense.errors import ConfigError, choices_message
from raycondense.evaluation.schemas import Column

Row = Mapping[str, Any]
Columns = Mapping[str, Column]

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda found, wanted: found >= wanted,
    "<=": lambda found, wanted: found <= wanted,
    ">": lambda found, wanted: found > wanted,
    "<": lambda found, wanted: found < wanted,
}
CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|!=|==|=|>|<)(.*)", re.DOTALL)
BOOLS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a row: ``column=value``."""

    text: str
    """As the user wrote it."""
    column: Column
    operator: str
    """``=``, ``!=`` or a key of `OPERATORS`."""
    values: tuple[Any, ...]
    """With ``=`` and ``!=``: any of these."""

    def holds(self, row: Row) -> bool:
        """Whether the row fulfils it; a value that is missing is neither larger nor smaller than any."""
        found = row[self.column.name]
        if self.operator in OPERATORS:
            return found is not None and OPERATORS[self.operator](found, self.values[0])
        return any(self._equal(found, wanted) for wanted in self.values) == (self.operator == "=")

    def _equal(self, found: Any, wanted: Any) -> bool:
        if found is None or wanted is None or self.column.type != "string":
            return found == wanted
        # Hashes are shown by their first digits.
        return fnmatch.fnmatchcase(found, wanted + "*" if self.column.unit == "sha256" else wanted)


def parse_condition(text: str, columns: Columns) -> Condition:
    """``ipc=10``, ``method=random,kmeans``, ``accuracy>=0.5``, ``accuracy>=50%``, ``dataset=*digits*``, ``loss=none``.

    Raises:
        ConfigError: the column is unknown, or the value is not of its type.
    """
    match = CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--where {text}: found no comparison, valid: COLUMN=VALUE, COLUMN!=VALUE, or with >=, <=, >, <"
        )
    name, operator, value = match[1], match[2].replace("==", "="), match[3].strip()
    column = _column(f"--where {text}", name, columns)
    if operator in OPERATORS:
        if column.type in ("string", "bool"):
            raise ConfigError(f"--where {text}: {name} has no order: found {operator}, valid: =, !=")
        return Condition(text, column, operator, (_value(text, column, value),))
    return Condition(text, column, operator, tuple(_value(text, column, part.strip()) for part in value.split(",")))


def _value(text: str, column: Column, value: str) -> Any:
    if value.lower() == "none" and column.nullable:
        return None
    if column.type == "string":
        return value
    wrong = ConfigError(f"--where {text}: {column.name}: found {value!r}, valid: {_valid(column)}")
    try:
        parsed = _parse(column, value)
    except (ValueError, KeyError):
        raise wrong from None
    if not column.accepts(parsed):
        raise wrong
    return parsed


def _parse(column: Column, value: str) -> Any:
    if column.type == "int64":
        return int(value)
    if column.type == "bool":
        return BOOLS[value.lower()]
    if column.type == "timestamp":
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if column.unit == "fraction" and value.endswith("%"):
        return float(value.removesuffix("%")) / 100
    return float(value)


def _valid(column: Column) -> str:
    if column.type == "timestamp":
        return "a date or a time, as 2026-01-31 or 2026-01-31T12:00 (UTC)"
    if column.type == "bool":
        return ", ".join(BOOLS)
    return column.valid


def select(rows: Iterable[Row], conditions: Iterable[Condition]) -> list[Row]:
    """The rows that fulfil all conditions."""
    conditions = list(conditions)
    return [row for row in rows if all(condition.holds(row) for condition in conditions)]


def ordered(rows: Iterable[Row], order: str, columns: Columns) -> list[Row]:
    """Rows by ``order``, names of columns with commas between; ``-name`` is largest first. Missing values come last.

    Raises:
        ConfigError: a column is unknown.
    """
    listed = list(rows)
    # From the last column to the first: sorting keeps the order of equal rows.
    for name in reversed(split_names(order)):
        column = _column("--sort", name.removeprefix("-"), columns).name
        descending = name.startswith("-")
        known = [row for row in listed if row[column] is not None]
        unknown = [row for row in listed if row[column] is None]
        listed = sorted(known, key=lambda row: row[column], reverse=descending) + unknown
    return listed


def chosen(names: str, columns: Columns) -> list[Column]:
    """Columns by their names with commas between.

    Raises:
        ConfigError: a column is unknown, or none is named.
    """
    found = [_column("--columns", name, columns) for name in split_names(names)]
    if not found:
        raise ConfigError(f"--columns: found none, valid: some of {', '.join(columns)}")
    return found


def split_names(names: str) -> list[str]:
    """``"a, b"`` as ``["a", "b"]``."""
    return [name.strip() for name in names.split(",") if name.strip()]


def unmatched(rows: Sequence[Row], conditions: Iterable[Condition]) -> str:
    """Why no row fulfils the conditions, for people: the first that no row fulfils, and what there is instead."""
    for condition in conditions:
        if not select(rows, [condition]):
            name = condition.column.name
            values = sorted({row[name] for row in rows if row[name] is not None})
            if condition.column.type == "timestamp" or not values:
                return f"{condition.text}: no such row"
            if condition.column.type in ("string", "bool") or len(values) <= 10:
                return f"{condition.text}: no such row; there are: {', '.join(map(str, values[:20]))}"
            return f"{condition.text}: no such row; there are {values[0]} to {values[-1]}"
    return "no row fulfils all conditions"


def _column(where: str, name: str, columns: Columns) -> Column:
    if name not in columns:
        raise ConfigError(f"{where}: {choices_message('column', name, columns)}")
    return columns[name]
