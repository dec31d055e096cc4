"""What a sweep leaves on disk, readable while it runs: `SweepFolder` and its `TrialRecord`s.

Every event of a trial is one appended line of ``trials.jsonl``, so that a kill loses nothing that was done; a record
is what the lines of a trial add up to. Everything else in the folder is written whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycondense import configfile
from raycondense.configfile import differences
from raycondense.errors import ConfigError, RunError
from raycondense.redact import without_secrets
from raycondense.shapes import OBJECT, fault
from raycondense.storage import append_line, read_json, read_records, write_json

EVENTS = ("start", "rung", "end")
STATES = ("complete", "stopped", "diverged", "failed")
"""How a trial ends: at its last rung, stopped at a lower one, by a non-finite loss or accuracy, or by an error."""
RUNNING = "running"
FORMAT_VERSION = 1
# What may differ when a sweep is continued: how much is done and where, not what is compared.
FREE_TO_CHANGE = (
    "space.description", "trials", "winners", "resources", "data.path", "val_data.path", "test_data",
    *(f"config.{name}" for name in configfile.FREE_TO_CHANGE),
)  # fmt: skip


_DATA = {"path": str, "sha256": (str, None)}
_VALUES = {str: (str, bool, int, float, None)}
_RESOURCES = {str: float}
_SWEEP = {
    "space?": OBJECT, "start?": _VALUES, "config?": {"name?": str}, "data?": _DATA, "val_data?": _DATA,
    "test_data?": (_DATA, None), "objectives?": [str], "rungs?": [int], "search?": str, "seed?": int,
    "judge?": {"name?": str, "students?": int, "max_steps?": int, "architectures?": [str]},
    "storage?": (str, None), "trials?": int, "winners?": int,
    "resources?": {"trial?": _RESOURCES, "pool?": _RESOURCES},
}  # fmt: skip
_EVENT = {
    "trial": int, "event": str, "time": float, "values?": (_VALUES, None), "images?": (int, None),
    "accuracy?": (float, None), "bytes?": (int, None), "seconds?": (float, None), "state?": (str, None),
    "reason?": (str, None), "artifact?": (str, None),
}  # fmt: skip
_WINNERS = [{"trial": int, "rank": int, "artifact": str}]
"""What is read of the files of a sweep (see `raycondense.shapes`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """What is known of one trial."""

    number: int
    """From 0 on, in the order in which trials were started."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Configuration path → value."""
    rungs: tuple[tuple[int, float], ...] = ()
    """Real images seen and validation accuracy as a fraction, at each rung that was reached, ascending."""
    state: str = RUNNING
    """``running``, or one of `STATES`."""
    reason: str | None = None
    """Why it was stopped, diverged or failed."""
    accuracy: float | None = None
    """Validation accuracy as a fraction at the last rung that was reached, 0 where it diverged; None before."""
    bytes: int | None = None
    """Generator and codes of the bank that was judged."""
    seconds: float | None = None
    """Wall-clock seconds from the start to the last event."""
    artifact: Path | None = None
    """Artefact of the trial, once published."""
    started: float = 0.0
    """When it was first started, in seconds since 1970."""

    @property
    def images(self) -> int:
        """Real images seen at the last rung that was reached; 0 before the first."""
        return self.rungs[-1][0] if self.rungs else 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state != RUNNING


@dataclass(frozen=True, slots=True)
class Winner:
    """One of the best trials."""

    trial: int
    rank: int
    """From 1 on."""
    artifact: Path


class SweepFolder:
    """The folder of a sweep.

    Args:
        path: the folder; made on the first write.

    Attributes:
        path: the folder, absolute.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    @property
    def study(self) -> Path:
        """Optuna's journal, where no other storage was named."""
        return self.path / "study.log"

    @property
    def store(self) -> Path:
        """Root of the `raycondense.evaluation.store.Store` of the winners."""
        return self.path / "store"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "sweep.html"

    @property
    def events(self) -> Path:
        """``trials.jsonl``."""
        return self.path / "trials.jsonl"

    def trial(self, number: int) -> Path:
        """Run folder of a trial."""
        return self.path / "trials" / f"{number:05d}"

    def describe(self) -> dict[str, Any]:
        """What ``sweep.json`` says of the sweep (see `raycondense.tuning.plan.SweepPlan.to_dict`).

        Raises:
            ConfigError: there is no sweep in the folder, or the file is damaged or from a newer raycondense.
        """
        path = self.path / "sweep.json"
        try:
            found = read_json(path)
        except FileNotFoundError:
            raise ConfigError(f"{self.path}: holds no sweep, valid: a folder that raycondense sweep has made") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({error}); name another folder with --out") from error
        version = found.get("format_version") if isinstance(found, dict) else None
        if version != FORMAT_VERSION:
            raise ConfigError(f"{path}: format_version: found {version!r}, valid: {FORMAT_VERSION}")
        wrong = fault(found, _SWEEP)
        if wrong:
            raise ConfigError(f"{path}: damaged ({wrong}); name another folder with --out")
        return dict(found)

    def claim(self, description: Mapping[str, Any]) -> None:
        """Write ``sweep.json`` into a fresh folder; in one that has it, check that it is of the same sweep.

        Raises:
            ConfigError: the folder holds another sweep, or something else.
        """
        # As the file gives it back: lists, and keys of text.
        now = json.loads(json.dumps({"format_version": FORMAT_VERSION, **description}))
        if (self.path / "sweep.json").is_file():
            changes = list(differences(self.describe(), now, FREE_TO_CHANGE))
            if changes:
                name, old, new = changes[0]
                more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
                raise ConfigError(
                    f"{self.path}: holds a sweep with {name} = {_short(old)}, now {_short(new)}{more}; "
                    "name another folder with --out"
                )
        elif self.path.is_dir() and any(not name.name.startswith(".") for name in self.path.iterdir()):
            raise ConfigError(f"{self.path}: holds something that is no sweep; name another folder with --out")
        write_json(self.path / "sweep.json", now)

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event of a trial.

        Args:
            event: ``trial`` and ``event`` (one of `EVENTS`), and of the rest what is known: ``values`` at the start,
                ``images``, ``accuracy`` (a fraction), ``bytes`` and ``seconds`` at a rung, ``state`` (one of `STATES`),
                ``reason`` and ``artifact`` at the end. ``time`` (seconds since 1970) is now where it is left out.
                Numbers that are not finite are written as null.

        Raises:
            ValueError: an event or state that there is none of.
            RunError: the disk is full.
        """
        kind, state = event.get("event"), event.get("state")
        if kind not in EVENTS or not isinstance(event.get("trial"), int):
            raise ValueError(f"event: found {dict(event)!r}, valid: a trial's number and one of {', '.join(EVENTS)}")
        if kind == "end" and state not in STATES:
            raise ValueError(f"state: found {state!r}, valid: {', '.join(STATES)}")
        plain = _plain({"time": time.time(), **event})
        if isinstance(plain.get("reason"), str):
            plain["reason"] = without_secrets(plain["reason"])  # an error of any library
        append_line(self.events, json.dumps(plain, ensure_ascii=False, allow_nan=False))

    def trials(self) -> list[TrialRecord]:
        """What is known of every trial so far, by number.

        Raises:
            RunError: a line is damaged.
        """
        found: dict[int, _Adding] = {}
        for position, event in enumerate(read_records(self.events)):
            wrong = fault(event, _EVENT)
            if not wrong and event["event"] == "end" and event.get("state") not in STATES:
                wrong = f"state: found {event.get('state')!r}, valid: {', '.join(STATES)}"
            if not wrong and event["event"] == "rung" and event.get("images") is None:
                wrong = "images: missing"
            if wrong:
                raise RunError(f"{self.events}: line {position + 1} is damaged: {wrong}")
            artifact = event.get("artifact")
            place = None if artifact is None else self._inside(artifact, f"{self.events}: line {position + 1}")
            found.setdefault(event["trial"], _Adding()).add(event, place)
        return [found[number].record(number) for number in sorted(found)]

    def write_winners(self, winners: Sequence[Winner]) -> None:
        """Replace ``winners.json``; paths inside the folder are kept relative, so that it can be moved.

        Raises:
            RunError: the disk is full.
        """
        write_json(
            self.path / "winners.json",
            [{"trial": one.trial, "rank": one.rank, "artifact": self.relative(one.artifact)} for one in winners],
        )

    def winners(self) -> list[Winner]:
        """The best trials so far, the best first; none before the first.

        Raises:
            RunError: the file is damaged, or names a place outside of the folder.
        """
        path = self.path / "winners.json"
        if not path.is_file():
            return []
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: damaged: {error}") from error
        wrong = fault(values, _WINNERS)
        if wrong:
            raise RunError(f"{path}: damaged: {wrong}")
        found = [Winner(one["trial"], one["rank"], self._inside(one["artifact"], str(path))) for one in values]
        return sorted(found, key=lambda one: one.rank)

    def _inside(self, name: str, source: str) -> Path:
        """The path ``name`` in this folder.

        Somebody who got the folder from a stranger reads, shows and writes what lies there, so it leads nowhere else,
        not by links either.

        Raises:
            RunError: it does.
        """
        place = self.path / name
        try:
            inside = place.resolve().is_relative_to(self.path.resolve())
            place.is_file()  # fails where this cannot be a name
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            raise RunError(f"{source}: damaged: artifact: found {name[:200]!r}, valid: a path inside {self.path}")
        return place

    def relative(self, path: str | os.PathLike[str]) -> str:
        """``path`` as it is written down: relative to the folder where it lies inside."""
        absolute = Path(path).absolute()
        return str(absolute.relative_to(self.path) if absolute.is_relative_to(self.path) else absolute)


class _Adding:
    """The lines of one trial, added up."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.rungs: dict[int, float] = {}
        self.last: dict[str, Any] = {}
        self.state, self.reason = RUNNING, None
        self.started: float | None = None
        self.time = 0.0

    def add(self, event: Mapping[str, Any], artifact: Path | None) -> None:
        kind = event["event"]
        self.time = float(event["time"])
        if kind == "start":
            # A trial that goes on after a kill starts again; what it reached stays.
            self.started = self.time if self.started is None else self.started
            self.state, self.reason = RUNNING, None
        for name in ("accuracy", "bytes", "seconds"):
            if event.get(name) is not None:
                self.last[name] = event[name]
        if event.get("values"):
            self.values = dict(event["values"])
        if artifact is not None:
            self.last["artifact"] = artifact
        if kind == "rung" and event.get("accuracy") is not None:
            self.rungs[int(event["images"])] = float(event["accuracy"])
        if kind == "end":
            self.state, self.reason = event["state"], event.get("reason")

    def record(self, number: int) -> TrialRecord:
        started = self.time if self.started is None else self.started
        seconds = self.last.get("seconds", self.time - started if self.state != RUNNING or self.rungs else None)
        return TrialRecord(
            number=number,
            values=self.values,
            rungs=tuple(sorted(self.rungs.items())),
            state=self.state,
            reason=self.reason,
            accuracy=self.last.get("accuracy"),
            bytes=self.last.get("bytes"),
            seconds=seconds,
            artifact=self.last.get("artifact"),
            started=started,
        )


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; a number that is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
