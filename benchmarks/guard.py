"""Regression guard: ratios of a benchmark that was just run against those of the committed table.

A benchmark hands its decisive ratios to `keep` beside its text; written with ``--out docs/results/X.md`` they lie in
``docs/results/X.json``. Later::

    python benchmarks/step.py --out /tmp/step.md && python benchmarks/guard.py /tmp/step.json docs/results/step.json

says for each ratio whether it still holds, and ends with status 1 where one is worse by more than ``--tolerance``.
Ratios of rows that took turns in one process are compared, never seconds: machines differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from raycondense.storage import write_text


class Row(NamedTuple):
    """One ratio that must not get worse."""

    name: str
    value: float
    better: Literal["higher", "lower"]


class Compared(NamedTuple):
    """One ratio then and now."""

    name: str
    committed: float
    found: float | None
    """None: the new run does not have it."""
    worse: float
    """By which part of the committed value it is worse; 0 or less where it is not."""


def keep(out: Path | None, title: str, text: str, rows: list[Row]) -> None:
    """Write a benchmark's Markdown to ``out`` and its ratios beside it; nothing where ``out`` is None."""
    if out is None:
        return
    write_text(out, f"# {title}\n\n{text}")
    write_text(out.with_suffix(".json"), json.dumps([row._asdict() for row in rows], indent=1) + "\n")


def load(path: Path) -> list[Row]:
    """The ratios that `keep` wrote."""
    try:
        return [Row(**row) for row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"{path}: cannot be read as a benchmark's ratios: {error}")


def compare(found: list[Row], committed: list[Row]) -> list[Compared]:
    """Each committed ratio beside the new one of the same name."""
    now = {row.name: row.value for row in found}
    result = []
    for row in committed:
        value = now.get(row.name)
        worse = 1.0 if value is None else (row.value - value if row.better == "higher" else value - row.value)
        result.append(Compared(row.name, row.value, value, worse / abs(row.value) if value is not None else worse))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("found", type=Path, help="ratios of the new run")
    parser.add_argument("committed", type=Path, help="ratios of the committed table")
    parser.add_argument("--tolerance", type=float, default=0.25, help="part by which a ratio may be worse")
    options = parser.parse_args()
    rows = compare(load(options.found), load(options.committed))
    print("| ratio | committed | now | |\n|---|---:|---:|---|")
    for row in rows:
        now = "missing" if row.found is None else f"{row.found:.2f}"
        verdict = f"worse by {row.worse:.0%}" if row.worse > options.tolerance else "holds"
        print(f"| {row.name} | {row.committed:.2f} | {now} | {verdict} |")
    sys.exit(any(row.worse > options.tolerance for row in rows))


if __name__ == "__main__":
    main()
