"""Read a run's ``log.jsonl`` for drawing: the records of each stage, without what a resumed run did again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycondense.shapes import fault
from raycondense.storage import parse_json, read_lines

LOSS_PREFIX = "loss/"
_SHAPE = {"stage": str, "images": float, "total?": (int, None)}


@dataclass(frozen=True, slots=True)
class Curve:
    """One number of one stage against the clock."""

    stage: str
    name: str
    """Without ``loss/``."""
    images: tuple[float, ...]
    """Real images seen in the stage, ascending."""
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunLog:
    """The records of a run by stage, in the order in which the stages ran."""

    stages: Mapping[str, tuple[Mapping[str, Any], ...]]
    damaged: int
    """Lines that could not be read (a full disk may leave one)."""

    def curves(self) -> list[Curve]:
        """Every loss of every stage that was logged more than once."""
        return [curve for stage, records in self.stages.items() for curve in _curves(stage, records)]


def read_log(path: Path) -> RunLog:
    """Read ``log.jsonl``; a file that is not there is an empty log."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    damaged = 0
    for line in read_lines(path):
        try:
            record = parse_json(line)
            stage, clock = str(record["stage"]), float(record["images"])
            if fault(record, _SHAPE):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        records = stages.setdefault(stage, [])
        # A resumed run goes back to its checkpoint and logs the way from there again: the newest record counts.
        while records and records[-1]["images"] >= clock:
            records.pop()
        records.append(record)
    return RunLog({stage: tuple(records) for stage, records in stages.items()}, damaged)


def _curves(stage: str, records: Iterable[Mapping[str, Any]]) -> list[Curve]:
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith(LOSS_PREFIX) and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(key.removeprefix(LOSS_PREFIX), []).append((float(record["images"]), float(value)))
    return [
        Curve(stage, name, tuple(x for x, _ in pairs), tuple(y for _, y in pairs))
        for name, pairs in points.items()
        if len(pairs) > 1
    ]
